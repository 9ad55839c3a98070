"""A whole merge: from a recipe to finished folders and a report."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cupel_trainer.errors import MergeRefused, OutputError
from cupel_trainer.merge.adapter import AdapterBlending, LowRank
from cupel_trainer.merge.adapter_agreement import check_adapters, open_adapters
from cupel_trainer.merge.agreement import FLOATS, check_agreement, check_tied
from cupel_trainer.merge.catalog import find_entry, make_method
from cupel_trainer.merge.checkpoint import open_checkpoint
from cupel_trainer.merge.manifest import (
    InputRecord,
    Manifest,
    merge_digest,
    tensors_digest,
    versions,
)
from cupel_trainer.merge.one_pass import (
    Blending,
    Sizing,
    hashes_of_input,
    hashes_of_output,
)
from cupel_trainer.merge.outputs import OutputLayout, PartialOutput
from cupel_trainer.merge.recipe import Recipe, alpha_name
from cupel_trainer.merge.report import Report, TensorRow, write_report
from cupel_trainer.merge.worker import TensorDone

MARKER = ".cupel-merge"
"""Stands in the output folder while a merge is under way, with what it is making."""

_OTHER_FILES = 256
"""Open files that are none of ours: of the process that merges."""

Progress = Callable[[int, int], None]
"""Called with bytes read so far and bytes to read."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A merge that has been checked and can begin."""

    recipe: Recipe
    blending: Blending | AdapterBlending
    names: tuple[str, ...]
    alphas: tuple[float | None, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Merged:
    """What came out."""

    folders: tuple[Path, ...]
    report: Report


def prepare(recipe: Recipe) -> Prepared:
    """Opens and checks the checkpoints of a recipe; writes nothing.

    Raises:
        CheckpointError: One cannot be read.
        MergeRefused: They do not fit together, or the recipe makes no sense.
    """
    inputs = tuple(open_checkpoint(location) for location in recipe.inputs)
    adapters = open_adapters(inputs) if any(each.adapter for each in inputs) else None
    warnings = check_adapters(adapters) if adapters else check_agreement(inputs)
    method = make_method(recipe, inputs)
    if adapters:
        method = LowRank(method)
    count = len(recipe.alphas) or len(recipe.coefficients) or 1
    dtype = recipe.dtype.code if recipe.dtype else None
    entries = [entry for each in inputs for entry in each.tensors.values()]
    if dtype and all(entry.dtype == dtype for entry in entries if entry.dtype in FLOATS):
        dtype = None
    copies = [None if dtype else method.copied(index, entries) for index in range(count)]
    if recipe.alphas:
        names = tuple(alpha_name(alpha) for alpha in recipe.alphas)
    elif count == 1:
        names = (recipe.method,)
    else:
        names = tuple(f"{recipe.method}_{index + 1}" for index in range(count))
    on_line = recipe.alphas and find_entry(recipe.method).between_ends
    alphas = recipe.alphas if on_line else (None,) * count
    blending = (
        AdapterBlending(adapters, method, copies, dtype)
        if adapters
        else Blending(inputs, method, copies, dtype)
    )
    return Prepared(recipe, blending, names, alphas, warnings)


def run(prepared: Prepared, progress: Progress = lambda done, total: None) -> Merged:
    """Makes all outputs of a merge, or goes on with one that was killed.

    Args:
        prepared: What is to be made.
        progress: Called as the work goes on.

    Returns:
        The folders in the order of the alphas or coefficients, and the report.

    Raises:
        CheckpointError: An input cannot be read to its end.
        MergeRefused: A tensor must not be averaged; nothing is left then.
        OutputError: An output exists, or cannot be written.
    """
    recipe, blending = prepared.recipe, prepared.blending
    out = recipe.out
    contents: dict[bytes, bytes] = {}  # one tokenizer in memory, not one per output
    layouts = [
        replace(layout, side_files={n: contents.setdefault(c, c) for n, c in files.items()})
        for layout in map(blending.layout, range(len(blending.copies)))
        for files in [layout.side_files]
    ]
    finals = [out / name for name in prepared.names]
    outputs = [PartialOutput(final, layout) for final, layout in zip(finals, layouts, strict=True)]
    sizing = blending.size(recipe.memory_bytes)
    _check_room(out, outputs)
    _allow_open_files(blending, outputs)
    with _claimed(out, plan_of(prepared), finals) as resumed:
        try:
            if not resumed:
                for output in outputs:
                    output.discard()  # at most a journal, of a merge that was killed at its end
            rows = _fill(prepared, outputs, sizing, progress)
            _finish(prepared, outputs, rows)
        except MergeRefused:
            for output in outputs:
                output.discard()
            raise
        finally:
            for output in outputs:
                output.close()
        report = Report.of(prepared.names, prepared.warnings, rows)
        write_report(report, out)
    for output in outputs:
        output.forget_journal()
    return Merged(tuple(finals), report)


def plan_of(prepared: Prepared) -> str:
    """Names what is made from what, cheaply: by files' sizes and times, not their content."""
    recipe = prepared.recipe.model_dump(mode="json", exclude={"memory_bytes", "out"})
    inputs = [each.fingerprint() for each in prepared.blending.inputs]
    text = json.dumps([recipe, inputs], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def _claimed(out: Path, plan: str, finals: Sequence[Path]) -> Iterator[bool]:
    """Holds the output folder for a merge; yields whether one of its plan was killed there."""
    marker = out / MARKER
    made = not out.exists()
    descriptor = _lock(marker)
    try:
        said = os.pread(descriptor, 1024, 0).decode()
        if said and said != plan:
            raise OutputError(
                f"{out} holds what an interrupted merge of other inputs or settings left: repeat "
                f"that one to finish it, or remove {marker}, .*.partial and .*.journal there, or "
                "choose another --out"
            )
        existing = [str(final) for final in finals if final.exists()]
        if existing and not said:
            marker.unlink()
            raise OutputError(
                f"{', '.join(existing)} exists already and is never overwritten: remove it, or "
                "choose another --out"
            )
        try:
            os.pwrite(descriptor, plan.encode(), 0)
            os.fsync(descriptor)
        except OSError as error:
            raise OutputError(f"{marker}: {error.strerror}") from error
        try:
            yield bool(said)
        except MergeRefused:
            marker.unlink()
            if made and not list(out.iterdir()):
                out.rmdir()
            raise
        marker.unlink()
    finally:
        os.close(descriptor)


def _lock(marker: Path) -> int:
    """Opens and locks the marker, which another merge may remove at the same moment."""
    while True:
        try:
            marker.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(marker, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise OutputError(f"{marker.parent}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), marker.stat()):
                return descriptor
        except BlockingIOError as error:
            os.close(descriptor)
            raise OutputError(f"{marker.parent}: another merge is writing there now") from error
        except FileNotFoundError:
            pass  # removed between the two looks: make it anew
        os.close(descriptor)


def _check_room(out: Path, outputs: Sequence[PartialOutput]) -> None:
    """Refuses what the disk cannot hold; what a killed merge has begun has its room already."""
    needed = sum(output.layout.size_bytes for output in outputs if not output.begun)
    try:
        there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
        free = shutil.disk_usage(there).free
    except OSError as error:
        raise OutputError(f"{out}: {error.strerror}") from error
    if needed > free:
        raise OutputError(
            f"{out}: the outputs need {needed / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB free"
        )


def _allow_open_files(
    blending: Blending | AdapterBlending, outputs: Sequence[PartialOutput]
) -> None:
    """Raises the limit of open files where many shards of many outputs need it."""
    needed = sum(len(each.files) for each in blending.inputs)
    needed += sum(2 * len(output.layout.files) + 1 for output in outputs) + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed or soft == resource.RLIM_INFINITY:
        return
    if needed > hard != resource.RLIM_INFINITY:
        raise OutputError(
            f"{needed} files are open at one time, this process may open {hard}: raise the limit "
            "(ulimit -Hn), or make fewer outputs at a time"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _fill(
    prepared: Prepared, outputs: Sequence[PartialOutput], sizing: Sizing, progress: Progress
) -> dict[str, TensorRow]:
    """Writes all tensors of all outputs; returns what is known of each tensor."""
    blending = prepared.blending
    rows: dict[str, TensorRow] = {}
    had = [_begin(output) for output in outputs]
    total = sum(entry.size_bytes for each in blending.inputs for entry in each.tensors.values())
    read_bytes = 0
    progress(0, total)

    def skip(tensor: str) -> frozenset[int]:
        return frozenset(index for index, done in enumerate(had) if tensor in done)

    def note(tensor: str, done: TensorDone) -> None:
        row = TensorRow.of(tensor, blending.copies, done)
        inputs = [done.inputs[position] for position in sorted(done.inputs)]
        for index, sha256 in done.outputs.items():
            outputs[index].note(tensor, sha256, {"inputs": inputs, **row.journal(index)})
        for index, earlier in enumerate(had):
            if tensor in earlier:
                if earlier[tensor].get("inputs") != inputs:
                    raise MergeRefused(
                        f"tensor {tensor} of an input is not what it was when this merge was "
                        "interrupted: what was done is removed, repeat the merge"
                    )
                row.recall(index, earlier[tensor])
        rows[tensor] = row

    def read(count: int) -> None:
        nonlocal read_bytes
        read_bytes += count
        progress(read_bytes, total)

    blending.run(
        outputs,
        sizing=sizing,
        skip=skip,
        finished=note,
        progress=read,
    )
    for position, checkpoint in enumerate(blending.inputs):
        check_tied(checkpoint, hashes_of_input(rows, position))
    return rows


def _begin(output: PartialOutput) -> dict[str, dict[str, object]]:
    """Makes an output ready to be written; returns what an interrupted merge has done of it."""
    done = output.done()
    if not output.final.exists():
        output.prepare()
    elif len(done) < output.tensors:
        raise OutputError(
            f"{output.final} was finished by a merge that was interrupted, but its journal is not "
            "whole: remove the folder, and repeat the merge"
        )
    return done


def _finish(
    prepared: Prepared, outputs: Sequence[PartialOutput], rows: Mapping[str, TensorRow]
) -> None:
    for index, output in enumerate(outputs):
        if not output.final.exists():
            output.finish(make_manifest(prepared, index, output.layout, rows).content())


def make_manifest(
    prepared: Prepared, index: int, layout: OutputLayout, rows: Mapping[str, TensorRow]
) -> Manifest:
    """The manifest of one output.

    Args:
        prepared: The merge.
        index: Which output.
        layout: Its files.
        rows: What is known of each tensor.
    """
    blending, method = prepared.blending, prepared.blending.method
    inputs = tuple(
        InputRecord(
            location=checkpoint.location,
            digest=tensors_digest(checkpoint, hashes),
            tensors=hashes,
        )
        for position, checkpoint in enumerate(blending.inputs)
        for hashes in [hashes_of_input(rows, position)]
    )
    parameters = method.parameters(index)
    files = dict(layout.side_files)
    if layout.index is not None:
        files["model.safetensors.index.json"] = layout.index
    return Manifest(
        name=prepared.names[index],
        method=prepared.recipe.method,
        formula=method.formula,
        parameters=parameters,
        recipe=prepared.recipe.of_output(index),
        alpha=prepared.alphas[index],
        dtype=blending.dtype,
        digest=merge_digest(
            method.formula, parameters, blending.dtype, [each.digest for each in inputs]
        ),
        inputs=inputs,
        tensors=hashes_of_output(rows, index),
        headers={each.name: hashlib.sha256(each.header).hexdigest() for each in layout.files},
        files={name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)},
        versions=versions(),
    )
