"""Files of records: a header line, then lines that are only ever appended.

What is appended once stays as it is, so that kill -9 harms the last line at most: a line without
its line feed is torn, and dropped. One process writes at a time, which a lock on the file sees to.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import ValidationError

from cupel_trainer.errors import OutputError, RecordsError
from cupel_trainer.evaluate.records import Record
from cupel_trainer.whole_files import sync_folder

SYNC_EVERY_S = 1.0
"""How much of what was appended a power failure may take, in seconds. kill -9 takes nothing."""

_BLOCK_BYTES = 1 << 16
_HEADER_BYTES_MAX = 1 << 20

_Record = TypeVar("_Record", bound=Record)


@dataclass(frozen=True, slots=True)
class Line(Generic[_Record]):
    """One line of a file after its header.

    Args:
        number: From 1, the header being line 1.
        offset_bytes: Where it begins.
        record: What it says.
    """

    number: int
    offset_bytes: int
    record: _Record


def read_header(path: Path, model: type[_Record]) -> _Record:
    """Reads the first line of a file of records.

    Args:
        path: The file.
        model: The header's model.

    Raises:
        RecordsError: It cannot be read, or begins with something else.
    """
    try:
        with path.open("rb") as file:
            first = file.readline(_HEADER_BYTES_MAX)
    except OSError as error:
        raise RecordsError(f"{path} cannot be read: {error.strerror}") from error
    if not first.endswith(b"\n"):
        raise RecordsError(f"{path} has no whole first line, so it is no file of ours")
    return _parse(model, first, path, 1)


def read_lines(path: Path, model: type[_Record]) -> Iterator[Line[_Record]]:
    """Reads the lines after the header, one by one; a torn last line is left out.

    Args:
        path: The file.
        model: The model of a line.

    Raises:
        RecordsError: It cannot be read, or a line is not such a record; names the line.
    """
    try:
        with path.open("rb") as file:
            offset_bytes = len(file.readline())
            for number, line in enumerate(file, start=2):
                if not line.endswith(b"\n"):
                    return
                yield Line(number, offset_bytes, _parse(model, line, path, number))
                offset_bytes += len(line)
    except OSError as error:
        raise RecordsError(f"{path} cannot be read: {error.strerror}") from error


def read_at(path: Path, model: type[_Record], offsets_bytes: Iterable[int]) -> list[_Record]:
    """Reads single lines, in the order of the offsets given.

    Args:
        path: The file.
        model: The model of a line.
        offsets_bytes: Where they begin, as `read_lines` said.

    Raises:
        RecordsError: It cannot be read, or a line is not such a record any more.
    """
    try:
        with path.open("rb") as file:
            found = []
            for offset_bytes in offsets_bytes:
                file.seek(offset_bytes)
                found.append(_parse(model, file.readline(), path, None))
            return found
    except OSError as error:
        raise RecordsError(f"{path} cannot be read: {error.strerror}") from error


def _parse(model: type[_Record], line: bytes, path: Path, number: int | None) -> _Record:
    try:
        return model.model_validate_json(line)
    except ValidationError as error:
        where = f"{path}, line {number}" if number else str(path)
        raise RecordsError(
            f"{where} is no {model.__name__} of this version: {first_fault(error)}"
        ) from error


def first_fault(error: ValidationError) -> str:
    """The first thing that a model found wrong, in one line, without the value."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    text = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        text = "unknown field"
    return f"{where}: {text}" if where else text


class Appender:
    """A file of records that this process alone writes to."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._synced_s = time.monotonic()

    def append(self, records: Iterable[Record]) -> None:
        """Appends records in one write; they are on disk at the latest SYNC_EVERY_S later.

        Raises:
            OutputError: The disk is full, or refuses for another reason.
        """
        self._write(b"".join(record.model_dump_json().encode() + b"\n" for record in records))
        if time.monotonic() - self._synced_s >= SYNC_EVERY_S:
            self.sync()

    def sync(self) -> None:
        """Waits until all that was appended is on disk.

        Raises:
            OutputError: The disk refuses.
        """
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise OutputError(f"{self._path} cannot be written: {error.strerror}") from error
        self._synced_s = time.monotonic()

    def _write(self, content: bytes) -> None:
        rest = memoryview(content)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            raise OutputError(
                f"{self._path} cannot be written: {error.strerror}; what is in it stays, run the "
                "same command again to go on"
            ) from error


@contextmanager
def appending(
    path: Path, header: Record, *, ignored: frozenset[str] = frozenset()
) -> Iterator[Appender]:
    """Opens a file to append to: a new one gets its header, an old one must have the same.

    Args:
        path: The file; its folder is made if need be.
        header: What its first line must say.
        ignored: Fields of the header that may differ, such as `checkpoint.path`.

    Yields:
        The file, its torn last line dropped. It is on disk as a whole when the block ends.

    Raises:
        RecordsError: It is the file of another run, no file of records at all, or being written to.
        OutputError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise RecordsError(f"{path} is no ordinary file")
        _lock(path, descriptor)
        appender = Appender(path, descriptor)
        if _is_new(path, descriptor, header):
            os.ftruncate(descriptor, 0)
            appender.append([header])
            appender.sync()
            sync_folder(path.parent)
        else:
            _check_header(path, header, ignored)
            os.ftruncate(descriptor, _whole_bytes(descriptor))
        try:
            yield appender
        finally:
            appender.sync()
    finally:
        os.close(descriptor)


def _lock(path: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RecordsError(f"{path} is being written to by another run: wait for it") from error


def _is_new(path: Path, descriptor: int, header: Record) -> bool:
    """Whether nothing but part of this very header is there; never drops what is not ours."""
    expected = header.model_dump_json().encode()
    start = os.pread(descriptor, len(expected) + 1, 0)
    if len(start) <= len(expected) and b"\n" not in start and not expected.startswith(start):
        raise RecordsError(f"{path} exists and is no file of ours: choose another name")
    return expected.startswith(start)


def _whole_bytes(descriptor: int) -> int:
    """The bytes up to and with the last line feed."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - _BLOCK_BYTES)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _check_header(path: Path, header: Record, ignored: frozenset[str]) -> None:
    there = read_header(path, type(header))
    told = [
        f"{name} is {old!r} there and {new!r} here"
        for name, old, new in _differences(there.model_dump(), header.model_dump())
        if name not in ignored
    ]
    if told:
        raise RecordsError(
            f"{path} belongs to another run: {'; '.join(told)}. Choose another file, or the "
            "options of that run"
        )


def _differences(
    there: Mapping[str, object], here: Mapping[str, object], within: str = ""
) -> Iterator[tuple[str, object, object]]:
    """The dotted names of the fields in which two headers differ, and both values."""
    for name, new in here.items():
        old = there[name]
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, f"{within}{name}.")
        elif old != new:
            yield f"{within}{name}", old, new
