"""A checkpoint as the hub keeps it: safetensors files, their index, config, tokenizer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import cast

from cupel_trainer.errors import CheckpointError
from cupel_trainer.merge.layout import FileLayout, TensorEntry, header_bytes, parse_layout
from cupel_trainer.merge.places import Place, Reader, place_of

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
MANIFEST = "cupel_merge.json"

SIDE_FILE_BYTES_MAX = 64 * 1024 * 1024
"""A file beside the weights that is larger is no part of a model."""

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx")
_ARCHIVES = (".zip", ".tar", ".gz", ".pkl", ".npz", ".parquet")
_TRAINING = (
    *("optimizer", "scheduler", "rng_state", "trainer_state", "training_args", "zero_"),
    *("events.out.tfevents", "latest", "scaler"),
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint's tensors and files; opened, but no tensor read yet."""

    place: Place
    files: tuple[FileLayout, ...]
    tensors: Mapping[str, TensorEntry]
    file_of: Mapping[str, str]
    """The file of each tensor, by the tensor's name."""
    index: bytes | None
    """The index as it stands, of a sharded checkpoint."""
    config: Mapping[str, object]
    side_files: tuple[str, ...]
    """Files that belong to the model beside its weights: config, tokenizer, templates, code."""
    adapter: bool = False
    """Whether it is a LoRA adapter instead of a whole model."""

    @property
    def location(self) -> str:
        """What the user calls it."""
        return self.place.location

    @property
    def size_bytes(self) -> int:
        """Bytes of its weight files."""
        return sum(file.size_bytes for file in self.files)

    def fingerprint(self) -> dict[str, str]:
        """Something cheap that changes when a file of the checkpoint does, by name."""
        names = [*(file.name for file in self.files), *self.side_files]
        return {name: self.place.fingerprint(name) for name in names}


def open_checkpoint(location: str) -> Checkpoint:
    """Opens a checkpoint: reads headers and config, checks that they describe what is there.

    Args:
        location: A local folder, or an fsspec URL.

    Returns:
        The checkpoint.

    Raises:
        CheckpointError: It is missing, cut off, not safetensors, or its index lies.
    """
    place = place_of(location)
    sizes = place.sizes_bytes()
    names, index, adapter = _weight_files(place, sizes)
    files = tuple(_read_layout(place, name, sizes) for name in names)
    tensors: dict[str, TensorEntry] = {}
    file_of: dict[str, str] = {}
    for file in files:
        for entry in file.tensors:
            if entry.name in tensors:
                both = f"{file_of[entry.name]} and {file.name}"
                raise CheckpointError(f"{location}: tensor {entry.name} stands in {both}")
            tensors[entry.name] = entry
            file_of[entry.name] = file.name
    if index is not None:
        _check_index(location, index, file_of)
    if not tensors:
        raise CheckpointError(f"{location}: no tensor in it")
    return Checkpoint(
        place,
        files,
        tensors,
        file_of,
        index,
        read_json(place, ADAPTER_CONFIG if adapter else "config.json", sizes),
        tuple(name for name, size in sizes.items() if _is_side_file(name, size)),
        adapter,
    )


def open_readers(stack: ExitStack, checkpoint: Checkpoint) -> dict[str, Reader]:
    """Opens all weight files, by name; the stack closes them.

    Raises:
        CheckpointError: One cannot be opened.
    """
    readers = {}
    for file in checkpoint.files:
        readers[file.name] = checkpoint.place.open(file.name)
        stack.callback(readers[file.name].close)
    return readers


def read_json(place: Place, name: str, names: Mapping[str, int]) -> dict[str, object]:
    """A JSON object among a checkpoint's files; empty if there is no such file.

    Raises:
        CheckpointError: It is not a JSON object.
    """
    if name not in names:
        return {}
    try:
        document = json.loads(place.read_whole(name))
    except ValueError as error:
        raise CheckpointError(f"{place.location}/{name}: not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{place.location}/{name}: not a JSON object")
    return document


def _weight_files(place: Place, sizes: Mapping[str, int]) -> tuple[list[str], bytes | None, bool]:
    where = place.location
    if INDEX in sizes:
        index = place.read_whole(INDEX)
        names = sorted(set(_weight_map(where, index).values()))
        for name in names:
            if name not in sizes:
                raise CheckpointError(f"{where}: {INDEX} names {name}, which is not there")
        # Other weights beside them, such as Mistral's consolidated.safetensors, are none of ours.
        shards = {name for name in sizes if re.fullmatch(r"model-.*\.safetensors", name)}
        strays = shards - set(names)
        if strays:
            raise CheckpointError(f"{where}: {INDEX} does not name {', '.join(sorted(strays))}")
        return names, index, False
    if SINGLE in sizes:
        return [SINGLE], None, False
    if ADAPTER in sizes:
        return [ADAPTER], None, True
    found = [name for name in sizes if name.endswith(".safetensors")]
    if len(found) > 1:
        raise CheckpointError(f"{where}: several safetensors files, but no {INDEX}")
    if found:
        raise CheckpointError(f"{where}: {found[0]} should be named {SINGLE}")
    if any(name.endswith((".bin", ".pt", ".pth")) for name in sizes):
        raise CheckpointError(
            f"{where}: pickled weights only, which are never loaded here; "
            "convert them: model.save_pretrained(..., safe_serialization=True)"
        )
    raise CheckpointError(f"{where}: no {SINGLE}, {INDEX} or {ADAPTER} in it")


def _weight_map(where: str, index: bytes) -> dict[str, str]:
    try:
        document = json.loads(index)
    except ValueError as error:
        raise CheckpointError(f"{where}: {INDEX} is not valid JSON: {error}") from error
    match document:
        case {"weight_map": dict(weight_map)} if all(
            isinstance(name, str) and "/" not in name for name in weight_map.values()
        ):
            return cast("dict[str, str]", weight_map)  # keys are strings in JSON
    raise CheckpointError(f"{where}: {INDEX} has no valid weight_map")


def _check_index(where: str, index: bytes, file_of: Mapping[str, str]) -> None:
    said = _weight_map(where, index)
    for tensor, name in said.items():
        if tensor not in file_of:
            raise CheckpointError(
                f"{where}: {INDEX} says that {tensor} is in {name}; it is nowhere"
            )
        if file_of[tensor] != name:
            raise CheckpointError(
                f"{where}: {INDEX} says that {tensor} is in {name}; it is in {file_of[tensor]}"
            )
    for tensor, name in file_of.items():
        if tensor not in said:
            raise CheckpointError(f"{where}: {name} holds {tensor}, which {INDEX} does not name")


def _read_layout(place: Place, name: str, sizes: Mapping[str, int]) -> FileLayout:
    size_bytes = sizes[name]
    where = f"{place.location}/{name}"
    length = header_bytes(where, place.read_whole(name, 8), size_bytes)
    layout = parse_layout(where, place.read_whole(name, length), size_bytes)
    return FileLayout(name, layout.header, layout.size_bytes, layout.tensors)


def _is_side_file(name: str, size_bytes: int) -> bool:
    return (
        not name.endswith((*_WEIGHTS, *_ARCHIVES, ".index.json", ".lock"))
        and not name.startswith((".", *_TRAINING))
        and name != MANIFEST
        and size_bytes <= SIDE_FILE_BYTES_MAX
    )
