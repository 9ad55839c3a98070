"""One worker of the pass: takes a tensor through all its stretches, into all outputs."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from cupel_trainer.errors import MergeRefused
from cupel_trainer.merge.agreement import FLOATS
from cupel_trainer.merge.kernel import (
    BLOCK,
    LARGEST,
    TORCH_DTYPES,
    Block,
    blend,
    decode,
    largest_magnitude,
    round_to,
    rounding_error_squared,
)
from cupel_trainer.merge.layout import TensorEntry
from cupel_trainer.merge.places import Reader, Window
from cupel_trainer.merge.statistics import (
    OutputSums,
    TensorSums,
    finish,
    is_looked_at,
    observe_inputs,
    unmoved,
)

if TYPE_CHECKING:
    from cupel_trainer.merge.one_pass import Blending, Sink, Sizing


@dataclass(slots=True)
class TensorDone:
    """One tensor of all outputs: hashes by input and by output, and what was measured."""

    inputs: dict[int, str]
    outputs: dict[int, str]
    sums: TensorSums


class Stopped(Exception):
    """The pass ends early; nothing more is read."""


class Worker:
    """Merges one tensor at a time, in buffers that are made once."""

    def __init__(
        self,
        blending: Blending,
        sinks: Sequence[Sink],
        readers: Sequence[Mapping[str, Reader]],
        signs: torch.Tensor,
        sizing: Sizing,
        stop: threading.Event,
        progress: Callable[[int], None],
    ) -> None:
        self._blending = blending
        self._sinks = sinks
        self._readers = readers
        self._signs = signs
        self._sizing = sizing
        size_bytes = sizing.elements * blending.item_bytes
        self._from_inputs = [Window(size_bytes) for _ in blending.inputs]
        self._to_outputs = [Window(size_bytes) for _ in blending.copies]
        self._exact = torch.empty(BLOCK, dtype=torch.float64)
        self._stop = stop
        self._progress = progress

    def merge(self, entry: TensorEntry, skip: frozenset[int]) -> TensorDone:
        """Merges one tensor.

        Args:
            entry: The tensor, as the first input has it.
            skip: Outputs that have it already.

        Returns:
            What came out.

        Raises:
            Stopped: The pass has ended meanwhile.
        """
        wanted = [index for index in range(len(self._sinks)) if index not in skip]
        floats = entry.dtype in FLOATS
        blended = [index for index in wanted if floats and self._blending.copies[index] is None]
        observed: object = None
        if blended and self._blending.method.reads_ahead:
            observed = self._blending.method.observe(entry, lambda: self._blocks(entry))
        sums = TensorSums(entry.elements, outputs={index: OutputSums() for index in blended})
        input_hashes = [hashlib.sha256() for _ in self._blending.inputs]
        output_hashes = {index: hashlib.sha256() for index in blended}
        for offset, count in self._stretches(entry):
            if self._stop.is_set():
                raise Stopped
            raws = self._read(entry, offset, count)
            for digest, raw in zip(input_hashes, raws, strict=True):
                digest.update(raw)
            if floats:
                self._blend(entry, offset, raws, blended, observed, sums, output_hashes)
            else:
                self._require_equal(entry, raws)
            for index in wanted:
                source = self._blending.copies[index]
                if source is not None or not floats:
                    self._copy(entry.name, index, offset * entry.item_bytes, raws[source or 0])
            self._progress(sum(raw.nbytes for raw in raws))
        finish(sums, {i: self._blending.method.rule(i, entry, observed) for i in blended})
        inputs = {index: digest.hexdigest() for index, digest in enumerate(input_hashes)}
        outputs = {index: digest.hexdigest() for index, digest in output_hashes.items()}
        for index in wanted:
            if index not in outputs:
                outputs[index] = inputs[self._blending.copies[index] or 0]
        return TensorDone(inputs, outputs, sums)

    def _stretches(self, entry: TensorEntry) -> Iterator[tuple[int, int]]:
        step = self._sizing.elements
        for offset in range(0, entry.elements, step):
            yield offset, min(step, entry.elements - offset)

    def _read(self, entry: TensorEntry, offset: int, count: int) -> list[memoryview]:
        raws = []
        for checkpoint, readers, window in zip(
            self._blending.inputs, self._readers, self._from_inputs, strict=True
        ):
            there = checkpoint.tensors[entry.name]
            reader = readers[checkpoint.file_of[entry.name]]
            start = there.start + offset * entry.item_bytes
            raws.append(reader.read(start, count * entry.item_bytes, window))
        return raws

    def _blocks(self, entry: TensorEntry) -> Iterator[Block]:
        """The whole tensor, block after block."""
        for offset, count in self._stretches(entry):
            if self._stop.is_set():
                raise Stopped
            raws = self._read(entry, offset, count)
            for _, block in self._decoded(entry, offset, raws):
                yield block

    def _decoded(
        self, entry: TensorEntry, offset: int, raws: Sequence[memoryview]
    ) -> Iterator[tuple[torch.Tensor, Block]]:
        """Blocks of a stretch that begins at element `offset`, and x_0 as it was read."""
        size_bytes = BLOCK * entry.item_bytes
        for first in range(0, raws[0].nbytes, size_bytes):
            start = offset + first // entry.item_bytes
            read = [decode(raw[first : first + size_bytes], entry.dtype) for raw in raws]
            # Copies also where they are float64 already: what was read is used again.
            values = [each.to(torch.float64, copy=True) for each in read]
            deltas = tuple(value.sub_(values[0]) for value in values[1:])
            yield read[0], Block(start, values[0], deltas)

    def _blend(
        self,
        entry: TensorEntry,
        offset: int,
        raws: Sequence[memoryview],
        blended: Sequence[int],
        observed: object,
        sums: TensorSums,
        hashes: Mapping[int, hashlib._Hash],
    ) -> None:
        method, dtype = self._blending.method, self._blending.out_dtype(entry)
        item_bytes = TORCH_DTYPES[dtype].itemsize
        size_bytes = raws[0].nbytes // entry.item_bytes * item_bytes
        views = {
            index: self._to_outputs[index].place(
                self._sinks[index].start(entry.name) + offset * item_bytes, size_bytes
            )
            for index in blended
        }
        rules = {index: method.rule(index, entry, observed) for index in blended}
        for before, block in self._decoded(entry, offset, raws):
            reach = self._reach(entry, block)
            looked_at = is_looked_at(block)
            observe_inputs(sums, block, self._signs)
            entering = method.deltas(entry, block, observed)
            sums.as_read = entering is block
            first = (block.offset - offset) * item_bytes
            for index in blended:
                rule = rules[index]
                of_output = sums.outputs[index]
                exact = self._exact[: block.anchor.numel()]
                place = views[index][first : first + exact.numel() * item_bytes]
                rounded = decode(place, dtype)
                blend(rule, entering, exact)
                round_to(exact, dtype, rounded)
                if rounded.data_ptr() != _address(place):  # the file's layout is not aligned
                    place[:] = rounded.view(torch.uint8).numpy().data
                bound = abs(rule.scale) * reach[0] + sum(
                    abs(coefficient) * largest
                    for coefficient, largest in zip(rule.coefficients, reach[1:], strict=True)
                )
                if entering is not block or not bound < LARGEST[dtype]:
                    _require_finite(entry, rounded)
                if not sums.as_read or rule.scale != 1.0:
                    step = exact - block.anchor
                    of_output.step_squared += float(torch.dot(step, step))
                if looked_at:
                    of_output.error_squared += rounding_error_squared(exact, rounded)
                    of_output.unmoved += unmoved(rounded, before)
        for index, view in views.items():
            hashes[index].update(view)
            self._sinks[index].write(entry.name, offset * item_bytes, view)

    def _reach(self, entry: TensorEntry, block: Block) -> list[float]:
        """The largest magnitudes of anchor and deltas; all are finite."""
        reach = [largest_magnitude(values) for values in (block.anchor, *block.deltas)]
        if not all(value < float("inf") for value in reach):  # nan is not smaller either
            raise MergeRefused(f"tensor {entry.name} holds nan or inf: {self._culprit(entry)}")
        return reach

    def _culprit(self, entry: TensorEntry) -> str:
        """Which input it is, for the message."""
        guilty = []
        for offset, count in self._stretches(entry):
            for checkpoint, raw in zip(
                self._blending.inputs, self._read(entry, offset, count), strict=True
            ):
                if not torch.isfinite(decode(raw, entry.dtype)).all():
                    guilty.append(checkpoint.location)
        return ", ".join(dict.fromkeys(guilty))

    def _require_equal(self, entry: TensorEntry, raws: Sequence[memoryview]) -> None:
        for (here, one), (there, other) in pairwise(zip(self._blending.inputs, raws, strict=True)):
            if one != other:
                raise MergeRefused(
                    f"tensor {entry.name} ({entry.dtype}, not averaged) differs between "
                    f"{here.location} and {there.location}"
                )

    def _copy(self, tensor: str, index: int, offset: int, raw: memoryview) -> None:
        start = self._sinks[index].start(tensor) + offset
        view = self._to_outputs[index].place(start, raw.nbytes)
        view[:] = raw
        self._sinks[index].write(tensor, offset, view)


def _address(view: memoryview) -> int:
    return int(np.frombuffer(view, dtype=np.uint8).ctypes.data) if view.nbytes else 0


def _require_finite(entry: TensorEntry, rounded: torch.Tensor) -> None:
    if not torch.isfinite(rounded).all():
        raise MergeRefused(
            f"tensor {entry.name} would hold inf: its values overflow the output's dtype; "
            "choose a smaller alpha or a wider --dtype"
        )
