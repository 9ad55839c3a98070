"""Saved working folders on disk, by number, up to a bound. Opaque: nothing here looks into them."""

from __future__ import annotations

import errno
import fcntl
import itertools
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from cupel_service.data_folder import DISK_FULL, StoreFull
from cupel_service.errors import CannotServe, StoreFailed

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Archive:
    """A saved folder.

    Args:
        path: Its file.
        size_bytes: Of the file.
    """

    path: Path
    size_bytes: int


class Spool:
    """A folder of archives that lives as long as this process. Thread-safe.

    Its files are private, and removed by whoever starts next in the same place if this process is
    killed: the kernel drops the lock on them with the process.

    Args:
        root: Where the folders of all such processes are; made if absent.
        bytes_max: What all archives together may take.

    Raises:
        CannotServe: The folder cannot be made.
    """

    def __init__(self, root: Path, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._used_bytes = 0
        self._numbers = itertools.count(1)
        self._guard = Lock()
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            _remove_dead(root)
            self._folder = _make_folder(root)
            self._lock = _hold(self._folder / "lock")
        except OSError as error:
            raise CannotServe(
                f"the folder of parked sessions {root} cannot be used ({error.strerror or error})",
                "Check its owner and permissions, or choose another data folder",
            ) from error

    @property
    def used_bytes(self) -> int:
        """What all archives take together."""
        return self._used_bytes

    @property
    def bytes_max(self) -> int:
        """What they may take."""
        return self._bytes_max

    def write(self, content: bytes) -> Archive:
        """Keeps an archive.

        Raises:
            StoreFull: There is no room for it.
            StoreFailed: It could not be written.
        """
        self._reserve(len(content))
        path = self._folder / f"{next(self._numbers)}.folder"
        try:
            # Not durable: nothing here is worth anything after this process.
            path.write_bytes(content)
        except OSError as error:
            self._release(len(content))
            path.unlink(missing_ok=True)
            raise _refused(error) from error
        return Archive(path, len(content))

    def copy(self, archive: Archive) -> Archive:
        """Keeps an archive a second time, under a name of its own.

        Raises:
            StoreFull: There is no room for it.
            StoreFailed: It could not be written.
        """
        self._reserve(archive.size_bytes)
        path = self._folder / f"{next(self._numbers)}.folder"
        try:
            path.hardlink_to(archive.path)  # archives never change
        except OSError as error:
            self._release(archive.size_bytes)
            raise _refused(error) from error
        return Archive(path, archive.size_bytes)

    def read(self, archive: Archive) -> bytes:
        """An archive's content.

        Raises:
            StoreFailed: It could not be read, or is not whole.
        """
        try:
            content = archive.path.read_bytes()
        except OSError as error:
            raise _refused(error) from error
        if len(content) != archive.size_bytes:
            raise StoreFailed("a parked session's file is not whole")
        return content

    def remove(self, archive: Archive) -> None:
        """Forgets an archive."""
        self._release(archive.size_bytes)
        try:
            archive.path.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("session: a parked folder was not removed: %s", error.strerror)

    def close(self) -> None:
        """Removes everything. Idempotent."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.close()

    def _reserve(self, size_bytes: int) -> None:
        with self._guard:
            if self._used_bytes + size_bytes > self._bytes_max:
                raise StoreFull(
                    f"parked sessions take {self._used_bytes} bytes, and may take "
                    f"{self._bytes_max}: end some, or raise CUPEL_SESSION_SPOOL_BYTES"
                )
            self._used_bytes += size_bytes

    def _release(self, size_bytes: int) -> None:
        with self._guard:
            self._used_bytes -= size_bytes


class _Held:
    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _make_folder(root: Path) -> Path:
    for number in itertools.count():
        folder = root / f"{os.getpid()}-{number}"
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            continue
        return folder
    raise AssertionError("there is always a next number")


def _hold(path: Path) -> _Held:
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return _Held(descriptor)


def _remove_dead(root: Path) -> None:
    for folder in root.iterdir():
        try:
            held = _hold(folder / "lock")
        except OSError as error:
            if error.errno != errno.EWOULDBLOCK:
                _log.warning("session: %s was not removed: %s", folder, error.strerror)
            continue
        shutil.rmtree(folder, ignore_errors=True)
        held.close()


def _refused(error: OSError) -> StoreFailed:
    if error.errno in DISK_FULL:
        return StoreFull("the disk of parked sessions is full")
    return StoreFailed(f"a parked session's file failed: {error.strerror or error}")
