"""The safetensors file format: what a file's header says, checked strictly.

Format (huggingface.co/docs/safetensors): eight bytes, the length of the header as a little-endian
integer; the header, a JSON object from each tensor's name to its dtype, shape and data offsets;
then the data, without holes or overlaps. We read headers ourselves because a merge needs byte
ranges of tensors, and writes files of the same layout in place; no library offers either.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import cast

from cupel_trainer.errors import CheckpointError

HEADER_BYTES_MAX = 100_000_000
"""Longest header that the format allows."""

ITEM_BYTES = {
    **{"BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1},
    **{"U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4, "I32": 4, "F32": 4},
    **{"U64": 8, "I64": 8, "F64": 8, "C64": 8},
}
"""Bytes of one element, by the format's names of dtypes; sub-byte ones are not read."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a file: `start` counts bytes from the file's beginning."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    size_bytes: int

    @property
    def elements(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def item_bytes(self) -> int:
        """Bytes of one element."""
        return ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class FileLayout:
    """A whole file: its header as it stands, and its tensors in the order of their data."""

    name: str
    header: bytes
    size_bytes: int
    tensors: tuple[TensorEntry, ...]


def header_bytes(name: str, first: bytes, size_bytes: int) -> int:
    """How long the header of a file is, with the eight bytes before it.

    Args:
        name: The file's name, for messages.
        first: Its first eight bytes, or fewer if it is shorter.
        size_bytes: Its size.

    Raises:
        CheckpointError: The file is cut off, or is no safetensors file.
    """
    if len(first) < 8:
        raise CheckpointError(f"{name}: only {size_bytes} bytes, not a safetensors file")
    if first.startswith(b"version "):
        raise CheckpointError(f"{name}: a Git LFS pointer, not the file itself: run git lfs pull")
    length = int.from_bytes(first[:8], "little")
    if length > HEADER_BYTES_MAX:
        raise CheckpointError(f"{name}: not a safetensors file (a header of {length} bytes)")
    if 8 + length > size_bytes:
        raise CheckpointError(
            f"{name}: cut off: its header should end at byte {8 + length}, the file at {size_bytes}"
        )
    return 8 + length


def parse_layout(name: str, header: bytes, size_bytes: int) -> FileLayout:
    """Reads a header.

    Args:
        name: The file's name, for messages.
        header: The header with the eight bytes before it.
        size_bytes: The size of the whole file.

    Returns:
        The file's layout.

    Raises:
        CheckpointError: The header is malformed, or does not describe a file of this size.
    """
    try:
        document = json.loads(header[8:], object_pairs_hook=_without_duplicates)
    except ValueError as error:
        raise CheckpointError(f"{name}: its header is not valid: {error}") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{name}: its header is not a JSON object")
    entries = [
        _entry(name, tensor, value, len(header))
        for tensor, value in document.items()
        if tensor != "__metadata__"
    ]
    entries.sort(key=lambda entry: (entry.start, entry.size_bytes))
    end = len(header)
    for entry in entries:
        if entry.start != end:
            kind = "overlaps the one before it" if entry.start < end else "leaves a hole before it"
            raise CheckpointError(f"{name}: tensor {entry.name} {kind}")
        end = entry.start + entry.size_bytes
        if end > size_bytes:
            raise CheckpointError(
                f"{name}: cut off inside tensor {entry.name}: it should end at byte {end}, "
                f"the file ends at {size_bytes}"
            )
    if end != size_bytes:
        raise CheckpointError(f"{name}: {size_bytes - end} bytes follow the last tensor")
    return FileLayout(name, header, size_bytes, tuple(entries))


def format_header(
    tensors: list[tuple[str, str, tuple[int, ...]]], metadata: dict[str, str]
) -> bytes:
    """Writes the header of a file, with the eight bytes before it.

    Args:
        tensors: Name, dtype and shape of each tensor, in the order of their data.
        metadata: The header's `__metadata__`.

    Returns:
        The header, padded with spaces so that the data begins at a multiple of eight.
    """
    document: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name, dtype, shape in tensors:
        end = offset + math.prod(shape) * ITEM_BYTES[dtype]
        document[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def new_layout(
    name: str, tensors: list[tuple[str, str, tuple[int, ...]]], metadata: dict[str, str]
) -> FileLayout:
    """The layout of a file that is to be written; arguments as of `format_header`."""
    header = format_header(tensors, metadata)
    data_bytes = sum(math.prod(shape) * ITEM_BYTES[dtype] for _, dtype, shape in tensors)
    return parse_layout(name, header, len(header) + data_bytes)


def read_metadata(layout: FileLayout) -> dict[str, str]:
    """The `__metadata__` of a file's header."""
    document = json.loads(layout.header[8:])
    return cast("dict[str, str]", document.get("__metadata__") or {})  # strings by the format


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} stands there twice")
    return dict(pairs)


def _entry(file: str, name: str, value: object, data_start: int) -> TensorEntry:
    match value:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
            pass
        case _:
            raise CheckpointError(f"{file}: the entry of tensor {name} is malformed")
    if dtype not in ITEM_BYTES:
        raise CheckpointError(f"{file}: tensor {name} has the unknown dtype {dtype}")
    if not all(type(extent) is int and extent >= 0 for extent in shape):
        raise CheckpointError(f"{file}: tensor {name} has the impossible shape {shape}")
    size_bytes = math.prod(shape) * ITEM_BYTES[dtype]
    if begin < 0 or end - begin != size_bytes:
        raise CheckpointError(
            f"{file}: tensor {name} of {size_bytes} bytes is said to lie at {begin} to {end}"
        )
    return TensorEntry(name, dtype, tuple(shape), data_start + begin, size_bytes)
