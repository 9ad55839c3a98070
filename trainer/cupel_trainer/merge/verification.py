"""Whether a merged checkpoint is what its manifest says: hashes, and the merge once more."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cupel_trainer.errors import CheckpointError, TrainerError
from cupel_trainer.merge.checkpoint import INDEX, MANIFEST, open_checkpoint
from cupel_trainer.merge.manifest import Manifest, merge_digest, read_manifest, tensors_digest
from cupel_trainer.merge.one_pass import hashes_of_input, hashes_of_output
from cupel_trainer.merge.places import Window, place_of
from cupel_trainer.merge.recipe import make_recipe
from cupel_trainer.merge.sweep import Prepared, prepare
from cupel_trainer.merge.worker import TensorDone

_READ_BYTES = 8 << 20


@dataclass(slots=True)
class Verified:
    """What was found."""

    manifest: Manifest
    faults: list[str] = field(default_factory=list)
    tensors: int = 0
    recomputed: bool = False
    """Whether the merge was computed once more from its inputs."""
    not_recomputed: str = ""
    """Why not."""


def verify(
    folder: str,
    *,
    recompute: bool = True,
    memory_bytes: int = 1_400_000_000,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Verified:
    """Checks a merged checkpoint against its manifest.

    Args:
        folder: The checkpoint, a folder or URL.
        recompute: Compute the merge once more where its inputs are at hand; else hashes only.
        memory_bytes: What the process may use.
        progress: Called with bytes done and bytes to do.

    Returns:
        What was found; no faults mean that all is as it was written.

    Raises:
        CheckpointError: There is no manifest, or the checkpoint cannot be read.
    """
    place = place_of(folder)
    manifest = read_manifest(place)
    found = Verified(manifest)
    try:
        checkpoint = open_checkpoint(folder)
    except CheckpointError as error:
        found.faults.append(str(error))
        return found
    total = sum(entry.size_bytes for entry in checkpoint.tensors.values())
    hashes: dict[str, str] = {}
    done = 0
    window = Window(_READ_BYTES)
    for file in checkpoint.files:
        reader = place.open(file.name)
        try:
            for entry in file.tensors:
                digest = hashlib.sha256()
                for offset in range(0, entry.size_bytes, _READ_BYTES):
                    count = min(_READ_BYTES, entry.size_bytes - offset)
                    digest.update(reader.read(entry.start + offset, count, window))
                    done += count
                    progress(done, total)
                hashes[entry.name] = digest.hexdigest()
        finally:
            reader.close()
    found.tensors = len(hashes)
    found.faults += _differences("tensor", manifest.tensors, hashes)
    headers = {each.name: hashlib.sha256(each.header).hexdigest() for each in checkpoint.files}
    found.faults += _differences("the header of", manifest.headers, headers)
    weights = {file.name for file in checkpoint.files}
    files = {
        name: hashlib.sha256(place.read_whole(name)).hexdigest()
        for name in place.sizes_bytes()
        if name not in weights and (name in manifest.files or name in checkpoint.side_files)
    }
    if checkpoint.index is not None:
        files[INDEX] = hashlib.sha256(checkpoint.index).hexdigest()
    found.faults += _differences("file", manifest.files, files)
    inputs = [each.digest for each in manifest.inputs]
    said = merge_digest(manifest.formula, manifest.parameters, manifest.dtype, inputs)
    if said != manifest.digest:
        found.faults.append(f"{MANIFEST}: its digest does not follow from what it says")
    if recompute and not found.faults:
        _recompute(found, memory_bytes, progress)
    return found


def _recompute(found: Verified, memory_bytes: int, progress: Callable[[int, int], None]) -> None:
    manifest = found.manifest
    try:
        prepared = _prepared_again(manifest)
    except TrainerError as error:
        found.not_recomputed = f"its inputs are not at hand: {error}"
        return
    rows: dict[str, TensorDone] = {}
    total = sum(each.size_bytes for each in prepared.blending.inputs)
    done = 0

    def read(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    try:
        prepared.blending.run(
            [_Nowhere()],
            sizing=prepared.blending.size(memory_bytes),
            finished=rows.__setitem__,
            progress=read,
        )
    except TrainerError as error:
        found.not_recomputed = f"its inputs are no longer what they were: {error}"
        return
    for position, record in enumerate(manifest.inputs):
        hashes = hashes_of_input(rows, position)
        if tensors_digest(prepared.blending.inputs[position], hashes) != record.digest:
            found.not_recomputed = f"{record.location} is no longer what it was"
            return
    found.recomputed = True
    again = hashes_of_output(rows, 0)
    found.faults += [
        f"{fault} when computed once more"
        for fault in _differences("tensor", manifest.tensors, again)
    ]


def _prepared_again(manifest: Manifest) -> Prepared:
    return prepare(make_recipe({**manifest.recipe, "out": Path()}))


class _Nowhere:
    """Takes an output's bytes and forgets them: the pass has hashed them."""

    def start(self, tensor: str) -> int:
        return 0

    def write(self, tensor: str, offset: int, view: memoryview) -> None:
        pass


def _differences(kind: str, said: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    faults = [f"{kind} {name} is missing" for name in said if name not in found]
    faults += [f"{kind} {name} is not in the manifest" for name in found if name not in said]
    faults += [
        f"{kind} {name} is not what was written"
        for name in said
        if name in found and said[name] != found[name]
    ]
    return faults
