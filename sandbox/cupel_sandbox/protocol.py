"""The frames between this process and a box's runner; `runner/protocol.c` has the layout."""

from __future__ import annotations

import struct
from enum import IntEnum

from cupel_sandbox.box import BoxStatistics, Limit, Outcome, Run

VERSION = 2
HEADER = struct.Struct("<IBI")  # size of what follows this field, type, id
_FIELD = struct.Struct("<BI")
_NUMBER = struct.Struct("<BIQ")
TAKEN = struct.Struct("<I")
_OUTCOME = struct.Struct("<BBI10Q")
_COUNTS = struct.Struct("<5Q")


class Request(IntEnum):
    """Frame types to the runner."""

    PUT = 1
    GET = 2
    RUN = 3
    RESET = 4
    CANCEL = 5
    STATISTICS = 6
    STREAM = 7
    INPUT = 8


class Reply(IntEnum):
    """Frame types from the runner."""

    HELLO = 100
    DONE = 101
    REFUSED = 102
    CONTENT = 103
    OUTCOME = 104
    CANCELLED = 105
    COUNTS = 106
    OUTPUT = 107
    TAKEN = 108


def encode_frame(kind: int, number: int, payload: bytes = b"") -> bytes:
    """One whole frame; `number` is the request's id (u32)."""
    return HEADER.pack(len(payload) + HEADER.size - 4, kind, number) + payload


def encode_field(tag: int, value: bytes) -> bytes:
    """One field of a payload."""
    return _FIELD.pack(tag, len(value)) + value


def encode_number(tag: int, value: int) -> bytes:
    """One field of a payload that holds a number."""
    return _NUMBER.pack(tag, 8, value)


def encode_put(path: str, content: bytes, executable: bool) -> bytes:
    """The payload of PUT."""
    return encode_field(1, path.encode()) + encode_field(2, content) + encode_number(3, executable)


def encode_get(path: str, max_bytes: int) -> bytes:
    """The payload of GET."""
    return encode_field(1, path.encode()) + encode_number(4, max_bytes)


def encode_run(run: Run) -> bytes:
    """The payload of RUN, and of STREAM, which takes no standard input from it."""
    limits = run.limits
    numbers = (
        (14, round(limits.cpu_s * 1e9)),
        (15, round(limits.wall_s * 1e9)),
        (16, limits.memory_bytes),
        (17, limits.processes),
        (18, limits.output_bytes),
        (19, limits.stderr_bytes),
        (20, limits.file_bytes),
        (21, limits.open_files),
        (22, limits.memory_bytes if limits.stack_bytes is None else limits.stack_bytes),
        (23, run.memory_baseline_bytes),
        (24, run.writable_submission),
    )
    parts = [encode_field(10, word.encode()) for word in run.argv]
    parts += [
        encode_field(11, f"{name}={value}".encode()) for name, value in run.environment.items()
    ]
    parts.append(
        encode_field(12, run.stdin)
        if isinstance(run.stdin, bytes)
        else encode_field(13, run.stdin.encode())
    )
    parts += [encode_number(tag, value) for tag, value in numbers]
    return b"".join(parts)


def decode_outcome(payload: bytes) -> Outcome:
    """The Outcome that an OUTCOME frame holds."""
    (
        signalled,
        limit,
        code,
        cpu_ns,
        user_ns,
        system_ns,
        wall_ns,
        memory_bytes,
        processes,
        stdout_bytes,
        stderr_bytes,
        stdout_kept,
        stderr_kept,
    ) = _OUTCOME.unpack_from(payload)
    begin = _OUTCOME.size
    return Outcome(
        exit_code=None if signalled else code,
        signal=code if signalled else None,
        limit=Limit(limit) if limit else None,
        cpu_s=cpu_ns / 1e9,
        user_s=user_ns / 1e9,
        system_s=system_ns / 1e9,
        wall_s=wall_ns / 1e9,
        memory_bytes=memory_bytes,
        processes=processes,
        stdout=payload[begin : begin + stdout_kept],
        stderr=payload[begin + stdout_kept : begin + stdout_kept + stderr_kept],
        stdout_bytes=stdout_bytes,
        stderr_bytes=stderr_bytes,
    )


def decode_counts(payload: bytes) -> BoxStatistics:
    """What a COUNTS frame holds."""
    return BoxStatistics(*_COUNTS.unpack(payload))
