"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from cupel_trainer.errors import OutputError


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file under a temporary name beside it, and renames it when it is on the disk.

    Args:
        path: Where; what is there is replaced, missing folders are made.
        content: All of it.

    Raises:
        OutputError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
            raise
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error


def sync_folder(folder: Path) -> None:
    """Brings a folder's names to the disk, such as those of files that were renamed in it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    """The process's mask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def refuse_existing_file(path: Path, *, force: bool) -> None:
    """Refuses a file that is there already, unless it may be replaced.

    Raises:
        OutputError: It exists and `force` is not given, or it is a folder.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder: name a file")
    if path.exists() and not force:
        raise OutputError(f"{path} exists already: name another file, or replace it with --force")


def refuse_filled_folder(path: Path, *, force: bool) -> None:
    """Refuses a folder that holds anything, unless its files may be replaced.

    Raises:
        OutputError: It is not empty and `force` is not given, or it is a file.
    """
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path} is a file: name a folder")
    if not force and path.is_dir() and any(path.iterdir()):
        raise OutputError(
            f"{path} is not empty: name another folder, or replace files in it with --force"
        )
