"""theta(alpha) tensor by tensor, without a file: for an engine that takes weights as they come."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch

from cupel_trainer.errors import MergeRefused
from cupel_trainer.merge.agreement import FLOATS, check_agreement, check_tied, tied_tensors
from cupel_trainer.merge.checkpoint import open_checkpoint, open_readers
from cupel_trainer.merge.kernel import (
    BLOCK,
    LARGEST,
    TORCH_DTYPES,
    Block,
    blend,
    decode,
    largest_magnitude,
    round_to,
)
from cupel_trainer.merge.layout import TensorEntry
from cupel_trainer.merge.manifest import merge_digest, tensors_digest
from cupel_trainer.merge.methods.linear import Linear
from cupel_trainer.merge.places import Reader, Window

_OTHER_DTYPES = {
    **{"BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16},
    **{"I32": torch.int32, "I64": torch.int64},
}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a tensor of the model is."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


class Lerp:
    """The line through two checkpoints: weights at any alpha, rounded exactly as on disk.

    Nothing is kept in memory but the tensor that is being made. The inputs' hashes are taken while
    they are read for the first time, so that `digest` names the weights as a merge's manifest does.

    Args:
        low: The checkpoint at alpha 0: a folder or URL.
        high: The checkpoint at alpha 1.

    Raises:
        CheckpointError: One cannot be read.
        MergeRefused: They do not fit together.
    """

    def __init__(self, low: str, high: str) -> None:
        self._ends = (open_checkpoint(low), open_checkpoint(high))
        if self._ends[0].adapter:
            raise MergeRefused(f"{low}: an adapter; merge it on disk, engines load it from there")
        self.warnings = check_agreement(self._ends)
        self._tied = {name for end in self._ends for name in tied_tensors(end)}
        self._hashes: dict[int, dict[str, str]] = {0: {}, 1: {}}

    @property
    def config(self) -> Mapping[str, object]:
        """The model's config.json; both ends agree in it."""
        return self._ends[0].config

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """All tensors, in the order in which they come."""
        return tuple(
            TensorSpec(name, _torch_dtype(entry), entry.shape)
            for name, entry in self._ends[0].tensors.items()
        )

    def tensors(self, alpha: float) -> Iterator[tuple[str, torch.Tensor]]:
        """The weights at one alpha.

        Args:
            alpha: 0 is low, 1 is high; any other is allowed.

        Yields:
            Each tensor's name and a new tensor of its shape.

        Raises:
            CheckpointError: An input cannot be read to its end.
            MergeRefused: A tensor holds nan or inf, or would; or integers differ.
        """
        with ExitStack() as stack:
            readers = [open_readers(stack, checkpoint) for checkpoint in self._ends]
            for name, entry in self._ends[0].tensors.items():
                tensor = self._tensor(entry, alpha, readers)
                if name in self._tied:
                    for checkpoint, hashes in zip(self._ends, self._hashes.values(), strict=True):
                        check_tied(checkpoint, hashes)
                yield name, tensor

    def digest(self, alpha: float) -> str:
        """The SHA-256 that names the weights at one alpha: that of the manifest of a merge.

        Reads the inputs once if no `tensors` ran to its end before.

        Args:
            alpha: Which weights.

        Raises:
            CheckpointError: An input cannot be read to its end.
            MergeRefused: As `tensors`.
        """
        if len(self._hashes[0]) < len(self._ends[0].tensors):
            for _ in self.tensors(0.0):
                pass
        method = Linear((float(alpha) + 0.0,))  # as recipes have it
        inputs = [
            tensors_digest(checkpoint, self._hashes[position])
            for position, checkpoint in enumerate(self._ends)
        ]
        return merge_digest(method.formula, method.parameters(0), None, inputs)

    def _tensor(
        self, entry: TensorEntry, alpha: float, readers: Sequence[Mapping[str, Reader]]
    ) -> torch.Tensor:
        windows = [Window(entry.size_bytes) for _ in self._ends]
        raws = []
        for position, checkpoint in enumerate(self._ends):
            there = checkpoint.tensors[entry.name]
            reader = readers[position][checkpoint.file_of[entry.name]]
            raws.append(reader.read(there.start, there.size_bytes, windows[position]))
            if entry.name not in self._hashes[position]:
                self._hashes[position][entry.name] = hashlib.sha256(raws[-1]).hexdigest()
        if entry.dtype not in FLOATS:
            if raws[0] != raws[1]:
                raise MergeRefused(f"tensor {entry.name} ({entry.dtype}, not averaged) differs")
            return _whole(raws[0], entry)
        if alpha in (0.0, 1.0):  # as they are: also the sign of a zero
            _require_finite(entry, *(decode(raw, entry.dtype) for raw in raws))
            return _whole(raws[int(alpha)], entry)
        low, high = (decode(raw, entry.dtype) for raw in raws)
        out = torch.empty(entry.elements, dtype=TORCH_DTYPES[entry.dtype])
        exact = torch.empty(BLOCK, dtype=torch.float64)
        rule = Linear((alpha,)).rule(0, entry, None)
        for start in range(0, entry.elements, BLOCK):
            anchor = low[start : start + BLOCK].double()
            delta = high[start : start + BLOCK].double().sub_(anchor)
            here = exact[: anchor.numel()]
            blend(rule, Block(start, anchor, (delta,)), here)
            # Not smaller is also what nan says.
            overflows = not largest_magnitude(here) < LARGEST[entry.dtype]
            round_to(here, entry.dtype, out[start : start + BLOCK])
            if overflows:
                _require_finite(entry, anchor, delta)
                if not torch.isfinite(out[start : start + BLOCK]).all():
                    raise MergeRefused(f"tensor {entry.name} would hold inf at alpha {alpha:g}")
        return out.view(entry.shape)


def _whole(raw: memoryview, entry: TensorEntry) -> torch.Tensor:
    dtype = _torch_dtype(entry)
    if not raw.nbytes:
        return torch.empty(entry.shape, dtype=dtype)
    return torch.frombuffer(bytearray(raw), dtype=dtype).view(entry.shape)


def _require_finite(entry: TensorEntry, *values: torch.Tensor) -> None:
    if not all(torch.isfinite(each).all() for each in values):
        raise MergeRefused(f"tensor {entry.name} holds nan or inf")


def _torch_dtype(entry: TensorEntry) -> torch.dtype:
    dtype = TORCH_DTYPES.get(entry.dtype, _OTHER_DTYPES.get(entry.dtype))
    if dtype is None:
        raise MergeRefused(f"tensor {entry.name}: {entry.dtype} cannot be given to an engine")
    return dtype
