"""Where checkpoints are read from: a local folder, or any URL that fsspec knows.

Large local reads bypass the page cache: a checkpoint is read once, and what it would push out of
memory is worth more than it is. Buffers are page-aligned for that reason.
"""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from cupel_trainer.errors import CheckpointError

PAGE = 4096
"""Alignment of direct I/O, in bytes: at least that of every disk."""


class Window:
    """A page-aligned buffer that holds one stretch of a file at a time.

    Args:
        size_bytes: The longest stretch.
    """

    def __init__(self, size_bytes: int) -> None:
        # An anonymous mapping starts at a page. A stretch may begin and end within pages.
        self.buffer = memoryview(mmap.mmap(-1, size_bytes + 2 * PAGE))

    def place(self, offset: int, size_bytes: int) -> memoryview:
        """Where bytes lie that stand at `offset` of a file: aligned in memory as they are there."""
        start = offset % PAGE
        return self.buffer[start : start + size_bytes]


class Reader(Protocol):
    """Reads stretches of one file."""

    def read(self, offset: int, size_bytes: int, window: Window) -> memoryview:
        """Reads `size_bytes` at `offset` into the window; returns them as they lie there.

        Raises:
            CheckpointError: The file ends before, or cannot be read.
        """

    def close(self) -> None:
        """Closes the file."""


class Place(Protocol):
    """A folder of files."""

    @property
    def location(self) -> str:
        """What the user calls it."""

    def sizes_bytes(self) -> dict[str, int]:
        """The files at its top level, by name.

        Raises:
            CheckpointError: There is no such folder, or it cannot be read.
        """

    def fingerprint(self, name: str) -> str:
        """Something that changes when the file does: cheap, no hash of its content."""

    def read_whole(self, name: str, size_bytes: int | None = None) -> bytes:
        """A file's content, or its first `size_bytes`."""

    def open(self, name: str) -> Reader:
        """Opens a file for reading stretches of it."""


def place_of(location: str) -> Place:
    """The place that a path or URL names.

    Raises:
        CheckpointError: The URL's file system is not known or not installed.
    """
    scheme, separator, rest = location.partition("://")
    if separator and scheme != "file":
        return RemotePlace(location)
    return LocalPlace(location, Path(rest if separator else location).expanduser())


class LocalPlace:
    """A local folder. Symbolic links are followed: the hub's cache consists of them."""

    def __init__(self, location: str, folder: Path) -> None:
        self.location = location
        self._folder = folder

    def sizes_bytes(self) -> dict[str, int]:
        """The files of the folder."""
        try:
            if self._folder.is_file():
                raise CheckpointError(f"{self.location}: a file; give the folder that it is in")
            if not self._folder.is_dir():
                raise CheckpointError(
                    f"{self.location}: no such folder; a model of the hub must be downloaded first"
                )
            files = [path for path in self._folder.iterdir() if path.is_file()]
            return {path.name: path.stat().st_size for path in sorted(files)}
        except OSError as error:
            raise CheckpointError(f"{self.location}: {error.strerror}") from error

    def fingerprint(self, name: str) -> str:
        """Size and time of the last change."""
        try:
            status = (self._folder / name).stat()
        except OSError as error:
            raise CheckpointError(f"{self.location}/{name}: {error.strerror}") from error
        return f"{status.st_size}:{status.st_mtime_ns}"

    def read_whole(self, name: str, size_bytes: int | None = None) -> bytes:
        """The content, or its beginning."""
        try:
            with (self._folder / name).open("rb") as file:
                return file.read(-1 if size_bytes is None else size_bytes)
        except OSError as error:
            raise CheckpointError(f"{self.location}/{name}: {error.strerror}") from error

    def open(self, name: str) -> Reader:
        """A reader past the page cache, where the file system allows that."""
        return LocalReader(self._folder / name)


class LocalReader:
    """Reads one local file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._descriptor = _open_direct(path, os.O_RDONLY)
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror}") from error

    def read(self, offset: int, size_bytes: int, window: Window) -> memoryview:
        """Reads whole pages around the stretch, as direct I/O demands."""
        first = offset - offset % PAGE
        wanted = offset - first + size_bytes
        pages = wanted + -wanted % PAGE
        got = 0
        try:
            while got < wanted:
                count = os.preadv(self._descriptor, [window.buffer[got:pages]], first + got)
                if not count:
                    raise CheckpointError(f"{self._path}: ends before byte {offset + size_bytes}")
                got += count
        except OSError as error:
            raise CheckpointError(f"{self._path}: {error.strerror}") from error
        return window.place(offset, size_bytes)

    def close(self) -> None:
        """Closes the file."""
        os.close(self._descriptor)


class RemotePlace:
    """A folder behind an fsspec URL, such as `s3://bucket/run/checkpoint-300`."""

    def __init__(self, location: str) -> None:
        import fsspec

        self.location = location
        try:
            self._files, self._folder = fsspec.core.url_to_fs(location)
        except Exception as error:  # every file system has errors of its own
            raise CheckpointError(f"{location}: {error}") from error

    def sizes_bytes(self) -> dict[str, int]:
        """The files below the URL."""
        try:
            entries = self._files.ls(self._folder, detail=True)
        except Exception as error:  # every file system has errors of its own
            raise CheckpointError(f"{self.location}: cannot be listed: {error}") from error
        if any(entry["type"] == "file" and entry["size"] is None for entry in entries):
            raise CheckpointError(f"{self.location}: this file system does not tell files' sizes")
        return {
            entry["name"].rstrip("/").rpartition("/")[2]: int(entry["size"])
            for entry in sorted(entries, key=lambda entry: str(entry["name"]))
            if entry["type"] == "file"
        }

    def fingerprint(self, name: str) -> str:
        """What the file system says that identifies the content."""
        try:
            return str(self._files.ukey(f"{self._folder}/{name}"))
        except Exception as error:  # every file system has errors of its own
            raise CheckpointError(f"{self.location}/{name}: {error}") from error

    def read_whole(self, name: str, size_bytes: int | None = None) -> bytes:
        """The content, or its beginning."""
        return self._cat(name, 0, size_bytes)

    def open(self, name: str) -> Reader:
        """A reader of byte ranges."""
        return RemoteReader(self, name)

    def _cat(self, name: str, start: int, end: int | None) -> bytes:
        try:
            return bytes(self._files.cat_file(f"{self._folder}/{name}", start=start, end=end))
        except Exception as error:  # every file system has errors of its own
            raise CheckpointError(f"{self.location}/{name}: {error}") from error


class RemoteReader:
    """Reads one file behind a URL, a range a request."""

    def __init__(self, place: RemotePlace, name: str) -> None:
        self._place = place
        self._name = name

    def read(self, offset: int, size_bytes: int, window: Window) -> memoryview:
        """Asks for the range."""
        data = self._place._cat(self._name, offset, offset + size_bytes)
        if len(data) != size_bytes:
            where = f"{self._place.location}/{self._name}"
            raise CheckpointError(f"{where}: ends before byte {offset + size_bytes}")
        view = window.place(offset, size_bytes)
        view[:] = data
        return view

    def close(self) -> None:
        """Nothing to do."""


def _open_direct(path: Path, flags: int) -> int:
    with suppress(OSError):  # tmpfs, for one, has no direct I/O
        return os.open(path, flags | os.O_DIRECT | os.O_CLOEXEC)
    return os.open(path, flags | os.O_CLOEXEC)
