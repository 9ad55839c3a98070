"""A worker's copies of test data on its own disk: bounded, and never needed.

Files are named by digest and checked by who reads them. Any number of processes may share the
folder. Nothing that happens to the disk fails a caller: what cannot be kept is fetched again.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from cupel_service.data_folder import TEMPORARY_PREFIX, write_whole

_log = logging.getLogger(__name__)

WARN_EVERY_S = 60.0
_LOCK = ".lock"


class SuiteFolder:
    """Content by digest in a folder; the least recently used leaves when a bound is exceeded.

    Thread-safe, and for any number of processes at once.

    Args:
        path: The folder, of which every file is a copy; made when something is first kept.
        capacity_bytes: Content to keep at most.
    """

    def __init__(self, path: Path, capacity_bytes: int) -> None:
        self._path = path
        self._capacity_bytes = capacity_bytes
        self._warned_s = -WARN_EVERY_S
        self._warning = Lock()

    def get(self, digest: str) -> bytes | None:
        """What is kept under a digest; the caller checks that it is what it should be."""
        path = self._path / digest
        try:
            content = path.read_bytes()
            _note_use(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(error)
            return None
        return content

    def add(self, digest: str, content: bytes) -> None:
        """Keeps content, unless it alone exceeds the bound, or the disk will not have it."""
        if len(content) > self._capacity_bytes:
            return
        try:
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._alone():
                self._make_room(digest, len(content))
                write_whole(self._path / digest, content, durable=False)
                _note_use(self._path / digest)
        except OSError as error:
            self._warn(error)

    def drop(self, digest: str) -> None:
        """Removes what is kept under a digest. Nothing if there is nothing."""
        try:
            with self._alone():
                (self._path / digest).unlink(missing_ok=True)
        except OSError as error:
            self._warn(error)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Only one thread of one process at a time adds and removes."""
        with (self._path / _LOCK).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _make_room(self, digest: str, content_bytes: int) -> None:
        used = []
        with os.scandir(self._path) as entries:
            for entry in entries:
                if entry.name.startswith(TEMPORARY_PREFIX):
                    Path(entry.path).unlink()  # its writer died: only this one writes now
                elif entry.name not in (_LOCK, digest):
                    facts = entry.stat(follow_symlinks=False)
                    used.append((facts.st_mtime_ns, facts.st_size, entry.name))
        room_bytes = self._capacity_bytes - sum(size for _, size, _ in used)
        for _, size, name in sorted(used):
            if room_bytes >= content_bytes:
                return
            (self._path / name).unlink()
            room_bytes += size

    def _warn(self, error: OSError) -> None:
        with self._warning:
            now_s = time.monotonic()
            if now_s - self._warned_s < WARN_EVERY_S:
                return
            self._warned_s = now_s
        _log.warning(
            "cache: %s cannot be used (%s): test data is fetched from the store each time it left "
            "memory. Free space there, or choose another folder with CUPEL_CACHE_DIR",
            self._path,
            error.strerror or error,
        )


def _note_use(path: Path) -> None:
    """A copy's modification time says when it was last used; the kernel's own is in ticks."""
    now_ns = time.time_ns()
    os.utime(path, ns=(now_ns, now_ns))
