"""One pass over the inputs: every tensor is read once, and all outputs are computed from it.

Each worker takes a whole tensor, so that hashing needs no order between workers, and goes through
it in stretches of bounded size. Reading, computing and writing overlap because several workers are
at different points of theirs; memory is the workers' buffers, whatever the tensors' sizes.
"""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from cupel_trainer.errors import OutputError
from cupel_trainer.merge.agreement import FLOATS
from cupel_trainer.merge.checkpoint import Checkpoint, open_readers
from cupel_trainer.merge.kernel import (
    BLOCK,
    TORCH_DTYPES,
)
from cupel_trainer.merge.layout import TensorEntry
from cupel_trainer.merge.methods.contract import Method
from cupel_trainer.merge.outputs import OutputLayout, layout_like
from cupel_trainer.merge.places import PAGE
from cupel_trainer.merge.statistics import (
    SKETCH,
    row_signs,
    rows_of,
)
from cupel_trainer.merge.worker import Stopped, TensorDone, Worker

STRETCH_BYTES = 8 * 1024 * 1024
"""Longest stretch of a tensor that a worker holds of each input and output."""
_LEAST_ELEMENTS = BLOCK
_RESERVE_BYTES = 128 * 1024 * 1024
"""Room for what is no buffer of ours: the interpreter's and torch's own allocations."""

_ROW_BYTES = SKETCH * 4 + 4096
"""What is kept of each tensor until the report is written."""

Skip = Callable[[str], frozenset[int]]
"""The outputs that have a tensor already, by its name."""
Finished = Callable[[str, "TensorDone"], None]
"""Called with each tensor that is done, in one thread at a time."""


@dataclass(frozen=True, slots=True)
class Blending:
    """What is computed: the inputs, the method, and for each output whether it is an input as is.

    `copies[i]` is the input that output i equals byte for byte, or None.
    """

    inputs: Sequence[Checkpoint]
    method: Method
    copies: Sequence[int | None]
    dtype: str | None = None
    """What floating-point tensors become; None: they stay as they are."""

    @property
    def item_bytes(self) -> int:
        """Bytes of the widest element of any input or output."""
        widest = max(entry.item_bytes for entry in self.inputs[0].tensors.values())
        return max(widest, TORCH_DTYPES[self.dtype].itemsize if self.dtype else 0)

    def out_dtype(self, entry: TensorEntry) -> str:
        """The dtype that a tensor has in outputs."""
        return self.dtype if self.dtype is not None and entry.dtype in FLOATS else entry.dtype

    def layout(self, output: int) -> OutputLayout:
        """The files of one output: those of the input that it equals, or of the first."""
        return layout_like(self.inputs[self.copies[output] or 0], self.dtype)

    def size(self, memory_bytes: int) -> Sizing:
        """How many workers fit into the memory that the process may use, and what each holds."""
        return Sizing.within(memory_bytes, self)

    def run(
        self,
        sinks: Sequence[Sink],
        *,
        sizing: Sizing,
        skip: Skip = lambda name: frozenset(),
        finished: Finished = lambda name, done: None,
        progress: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Computes all outputs: see `run_pass`."""
        run_pass(self, sinks, sizing=sizing, skip=skip, finished=finished, progress=progress)


class Hashed(Protocol):
    """A tensor whose hashes are known: by input and by output, where it is among their tensors."""

    @property
    def inputs(self) -> dict[int, str]:
        """By input."""

    @property
    def outputs(self) -> dict[int, str]:
        """By output."""


def hashes_of_input(rows: Mapping[str, Hashed], position: int) -> dict[str, str]:
    """The hashes of an input's tensors, by name, in order."""
    return {
        name: rows[name].inputs[position] for name in sorted(rows) if position in rows[name].inputs
    }


def hashes_of_output(rows: Mapping[str, Hashed], index: int) -> dict[str, str]:
    """The hashes of an output's tensors, by name, in order."""
    return {name: rows[name].outputs[index] for name in sorted(rows) if index in rows[name].outputs}


class Sink(Protocol):
    """Takes the bytes of one output."""

    def start(self, tensor: str) -> int:
        """Where a tensor's bytes will lie, in bytes: only for alignment in memory."""

    def write(self, tensor: str, offset: int, view: memoryview) -> None:
        """Takes a stretch; the view is used again afterwards."""


@dataclass(frozen=True, slots=True)
class Sizing:
    """How many workers there are, and how many elements each holds at a time."""

    workers: int
    elements: int

    @classmethod
    def within(cls, memory_bytes: int, blending: Blending, cores: int | None = None) -> Sizing:
        """The largest that fits.

        Args:
            memory_bytes: What the whole process may use.
            blending: What is computed.
            cores: Processors there are; by default all.

        Raises:
            OutputError: Not even the smallest fits.
        """
        item_bytes = blending.item_bytes
        windows = len(blending.inputs) + len(blending.copies)
        used = _resident_bytes() + len(blending.inputs[0].tensors) * _ROW_BYTES
        free = memory_bytes - used - _RESERVE_BYTES
        blocks = (len(blending.inputs) + 4) * BLOCK * 8  # the float64 values of one block
        most = STRETCH_BYTES // item_bytes
        for workers in range((cores or os.cpu_count() or 1) + 1, 0, -1):
            room = free // workers - blocks - windows * 2 * PAGE
            elements = min(most, room // (windows * item_bytes)) // BLOCK * BLOCK
            if elements >= min(most, 4 * BLOCK) or (workers == 1 and elements >= _LEAST_ELEMENTS):
                return cls(workers, elements)
        needed = used + _RESERVE_BYTES + blocks + windows * (BLOCK * item_bytes + 2 * PAGE)
        raise OutputError(
            f"{windows} buffers do not fit into {memory_bytes / 1e9:.2f} GB: "
            f"allow at least {needed / 1e9 + 0.01:.2f} GB, or make fewer outputs at a time"
        )


def run_pass(
    blending: Blending,
    sinks: Sequence[Sink],
    *,
    sizing: Sizing,
    skip: Skip = lambda name: frozenset(),
    finished: Finished = lambda name, done: None,
    progress: Callable[[int], None] = lambda count: None,
) -> None:
    """Computes all outputs.

    Args:
        blending: What is computed.
        sinks: One per output.
        sizing: How many workers, and how much each holds.
        skip: The outputs that have a tensor already, by its name.
        finished: Called with each tensor that is done, in one thread at a time.
        progress: Called with input bytes as they are dealt with, from several threads.

    Raises:
        MergeRefused: A tensor holds nan or inf, or would; or integers differ.
        CheckpointError: An input cannot be read.
        OutputError: An output cannot be written.
    """
    entries = sorted(blending.inputs[0].tensors.values(), key=lambda entry: -entry.size_bytes)
    signs = row_signs(rows_of(max(entry.elements for entry in entries)))
    stop = threading.Event()
    lock = threading.Lock()
    with ExitStack() as stack:
        readers = [open_readers(stack, checkpoint) for checkpoint in blending.inputs]
        local = threading.local()

        def merge_one(entry: TensorEntry) -> None:
            if stop.is_set():
                return
            if not hasattr(local, "worker"):
                local.worker = Worker(blending, sinks, readers, signs, sizing, stop, progress)
            with suppress(Stopped):
                done = local.worker.merge(entry, skip(entry.name))
                with lock:
                    finished(entry.name, done)

        stack.enter_context(_one_thread_each())
        pool = stack.enter_context(ThreadPoolExecutor(sizing.workers, "merge"))
        futures = [pool.submit(merge_one, entry) for entry in entries]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()  # also on Ctrl-C: nobody begins another tensor
        for future in done:
            future.result()


def _resident_bytes() -> int:
    """What this process holds now; not the most that it ever held."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """The workers are the threads; torch must not start more of its own."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
