"""The frames between this process and a session's agent; `runner/agent.c` has the layout.

Whatever comes from an agent comes from an untrusted program.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum

from cupel_sandbox.protocol import HEADER, TAKEN, encode_field, encode_frame, encode_number

FRAME_BYTES_MAX = 256 * 1024
"""Of what an agent sends; the largest that it has to send is 64 KiB of output."""
INPUT_AHEAD_BYTES = 256 * 1024
"""How much of a command's input may be on its way to it."""

_EXIT = struct.Struct("<BIQQ")
_ENTRY = struct.Struct("<BHQQH")


class Action(IntEnum):
    """Frame types to the agent."""

    INPUT = 8
    EXEC = 32
    READ_FILE = 33
    WRITE_FILE = 34
    LIST = 35
    SAVE = 36
    LOAD = 37
    KILL = 38
    COUNT = 39


class Report(IntEnum):
    """Frame types from the agent."""

    OUTPUT = 107
    TAKEN = 108
    EXIT = 110
    COUNTED = 111


_REPORTS = frozenset(Report)


class Stream(IntEnum):
    """Where a command wrote to."""

    STDOUT = 0
    STDERR = 1


class Forged(ValueError):
    """Bytes that no agent of ours sends."""


@dataclass(frozen=True, slots=True)
class CommandExit:
    """How a command ended, as the agent says. Both codes are None if it ended with its workspace.

    Args:
        exit_code: What its first process returned; 126 if it could not be started, 127 if there is
            no such program (as shells say it).
        signal: The signal that ended it instead.
        cpu_s: Of its first process and the children that this has waited for.
        wall_s: From its start to the end of its first process.
    """

    exit_code: int | None
    signal: int | None
    cpu_s: float
    wall_s: float


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a folder of a workspace.

    Args:
        name: Without its folder. Bytes that are no UTF-8 are surrogates, as Python has them.
        kind: `file`, `directory`, `link` or `other`.
        size_bytes: Of a file.
        executable: Whether its owner may execute it.
        modified_s: When it was changed last, in seconds since the epoch.
    """

    name: str
    kind: str
    size_bytes: int
    executable: bool
    modified_s: float


_KINDS = {4: "directory", 8: "file", 10: "link"}


def encode_exec(
    number: int,
    argv: tuple[str, ...],
    environment: Mapping[str, str],
    cwd: str,
    open_stdin: bool,
) -> bytes:
    """EXEC: starts a program as a command of that number."""
    parts = [encode_field(10, word.encode()) for word in argv]
    parts += [encode_field(11, f"{name}={value}".encode()) for name, value in environment.items()]
    parts += [encode_field(1, cwd.encode()), encode_number(25, open_stdin)]
    return encode_frame(Action.EXEC, number, b"".join(parts))


def encode_action(
    action: Action, number: int, path: str = "", max_bytes: int = 0, *, executable: bool = False
) -> bytes:
    """Any action on files, as a command of that number."""
    payload = encode_field(1, path.encode("utf-8", "surrogateescape"))
    payload += encode_number(4, max_bytes) + encode_number(3, executable)
    return encode_frame(action, number, payload)


def decode_exit(payload: bytes) -> CommandExit:
    """What an EXIT says.

    Raises:
        Forged: It says nothing of the kind.
    """
    if len(payload) != _EXIT.size:
        raise Forged("an exit of a wrong size")
    signalled, code, cpu_ns, wall_ns = _EXIT.unpack(payload)
    if code > 255 or signalled > 1:
        raise Forged("an exit of an impossible code")
    return CommandExit(
        None if signalled else code, code if signalled else None, cpu_ns / 1e9, wall_ns / 1e9
    )


def decode_number(payload: bytes) -> int:
    """What a TAKEN or a COUNTED says.

    Raises:
        Forged: It is no number.
    """
    if len(payload) != TAKEN.size:
        raise Forged("a number of a wrong size")
    (number,) = TAKEN.unpack(payload)
    return int(number)


def decode_output(payload: bytes) -> tuple[Stream, bytes]:
    """What an OUTPUT holds.

    Raises:
        Forged: It names no stream.
    """
    if len(payload) < 2 or payload[0] > Stream.STDERR:
        raise Forged("output of no stream")
    return Stream(payload[0]), payload[1:]


def decode_entries(listing: bytes) -> tuple[Entry, ...]:
    """What LIST has put out, by name.

    Raises:
        Forged: It is no list.
    """
    entries = []
    at = 0
    while at < len(listing):
        if len(listing) - at < _ENTRY.size:
            raise Forged("a list that is cut off")
        kind, mode, size, mtime_ns, name_size = _ENTRY.unpack_from(listing, at)
        at += _ENTRY.size
        name = listing[at : at + name_size]
        at += name_size
        if not 0 < name_size <= 255 or len(name) != name_size or b"/" in name or b"\0" in name:
            raise Forged("a name that is none")
        entries.append(
            Entry(
                name=name.decode("utf-8", "surrogateescape"),
                kind=_KINDS.get(kind, "other"),
                size_bytes=size if kind == 8 else 0,
                executable=kind == 8 and bool(mode & 0o100),
                modified_s=mtime_ns / 1e9,
            )
        )
    return tuple(sorted(entries, key=lambda entry: entry.name))


class ReportReader:
    """Cuts what comes from an agent into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Report, int, bytes]]:
        """The frames that are whole now: type, number of the command, payload.

        Raises:
            Forged: What comes is no frame of an agent. Nothing more can be read then.
        """
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            size, kind, number = HEADER.unpack_from(self._buffer)
            end = size + 4
            if not HEADER.size <= end <= FRAME_BYTES_MAX:
                raise Forged(f"a frame of {end} bytes")
            if kind not in _REPORTS:
                raise Forged(f"a frame of type {kind}")
            if len(self._buffer) < end:
                return
            payload = bytes(memoryview(self._buffer)[HEADER.size : end])
            del self._buffer[:end]
            yield Report(kind), number, payload
