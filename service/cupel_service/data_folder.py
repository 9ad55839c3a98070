"""A folder of data: held by one service or shared by agreement, private, files whole or absent."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from cupel_service.errors import CannotServe, StoreFailed

TEMPORARY_PREFIX = ".tmp-"
"""Names of files that are being written; no problem's id and no digest begins with a dot."""

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system says when there is no room."""


class StoreFull(StoreFailed):
    """There is no room to write to the data folder; nothing was changed."""


class DataFolder:
    """A folder that this process holds until it is closed, or until it ends in any way.

    Args:
        path: Where it is; made with its parents if absent.
        shared: Others may hold it too, if they share it as well; else this process holds it alone.

    Raises:
        CannotServe: Another process holds it, or it cannot be made or written.
    """

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self.path = path
        setting = "CUPEL_STORE" if shared else "--data-dir or CUPEL_DATA_DIR"
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            # The kernel drops the lock with its last descriptor, so a killed service leaves none.
            self._file: IO[str] = (path / "lock").open("a+", encoding="ascii")
        except OSError as error:
            raise _unusable(path, error, setting) from error
        try:
            how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(self._file, how | fcntl.LOCK_NB)
            self._sign()
        except BlockingIOError as error:
            with self._file:
                holder = self._holder()
            raise CannotServe(
                f"data folder {path} is in use by another service (process {holder})",
                f"Stop that one, or choose another folder with {setting}",
            ) from error
        except OSError as error:
            self._file.close()
            raise _unusable(path, error, setting) from error

    def _holder(self) -> str:
        self._file.seek(0)
        return self._file.read(20).strip() or "unknown"

    def _sign(self) -> None:
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()

    def close(self) -> None:
        """Lets go of the folder. Idempotent."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def write_whole(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Writes a file so that a crash at any moment leaves the old one, the new one, or none.

    Args:
        path: Where it goes; its folder must exist.
        content: All of it.
        durable: It survives a power failure from now on.

    Raises:
        OSError: It could not be written; nothing is left of it.
    """
    descriptor, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Makes the names in a folder survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unusable(path: Path, error: OSError, setting: str) -> CannotServe:
    return CannotServe(
        f"data folder {path} cannot be used ({error.strerror or error})",
        f"Check its owner and permissions, or choose another with {setting}",
    )
