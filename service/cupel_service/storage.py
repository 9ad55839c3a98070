"""Where a problem store's files are: a local folder, or whatever a URL names.

A storage keeps small trees of files by name, such as `problems/two-sum.json`. A file is whole or
absent at any moment, for every reader, whatever is killed:

* a folder: written under a temporary name, synced, renamed (data_folder.write_whole);
* an object store (s3, gs, az, ...): one put, which the store itself makes whole or absent;
* any other file system behind fsspec: written under a temporary name and moved.
"""

from __future__ import annotations

import errno
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import fsspec

from cupel_service.data_folder import DISK_FULL, TEMPORARY_PREFIX, StoreFull, write_whole
from cupel_service.errors import CannotServe, StoreFailed

# Where a put is whole or absent by itself, and a move would be a copy.
_OBJECT_STORES = frozenset(
    {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "oci", "tos", "memory"}
)
_MARK = "store.json"
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
# A file where a folder must be, or the other way round: waiting does not mend that.
_MISPLACED = (FileExistsError, NotADirectoryError, IsADirectoryError)
# Object stores that are full or over quota say so in words; s3fs knows no code for it.
_FULL_IN_WORDS = re.compile(r"StorageFull|QuotaExceeded|InsufficientStorage", re.IGNORECASE)
# Every cloud's library has its own exception for "no key" or "wrong key".
_DENIED_IN_WORDS = re.compile(r"Credential|Authenticat|Forbidden|Unauthorized", re.IGNORECASE)


class StoreDenied(StoreFailed):
    """The store is there, but these credentials may not do that."""


class StoreUnreachable(StoreFailed):
    """The store cannot be used now; the same may work later."""


class Storage(Protocol):
    """Files by name. Thread-safe, and for any number of processes at once.

    Every method raises `StoreFailed` (`StoreFull`, `StoreDenied` and `StoreUnreachable` are kinds
    of it); then nothing was changed.
    """

    def read(self, name: str) -> bytes | None:
        """A file's whole content; None if there is no such file."""

    def write(self, name: str, content: bytes) -> None:
        """Writes a file, or replaces it, as a whole."""

    def delete(self, name: str) -> None:
        """Removes a file. Nothing if it is not there."""

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""

    def names(self, folder: str) -> list[str]:
        """The names of all files below a folder, sorted; none if there is no such folder.

        Names that begin with `data_folder.TEMPORARY_PREFIX` are of files that are being written,
        or were when their writer died.
        """


class LocalFolder:
    """A folder of this machine, or one that is mounted. Private to its user.

    Args:
        path: The folder; made when something is first written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def read(self, name: str) -> bytes | None:
        """See `Storage`."""
        with self._failures():
            try:
                return (self._path / name).read_bytes()
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """See `Storage`."""
        path = self._path / name
        with self._failures():
            for parent in reversed(Path(name).parents):
                (self._path / parent).mkdir(mode=0o700, exist_ok=True)
            write_whole(path, content)

    def delete(self, name: str) -> None:
        """See `Storage`."""
        with self._failures():
            (self._path / name).unlink(missing_ok=True)

    def exists(self, name: str) -> bool:
        """See `Storage`."""
        with self._failures():
            return (self._path / name).exists()

    def names(self, folder: str) -> list[str]:
        """See `Storage`."""
        with self._failures():
            return sorted(
                path.relative_to(self._path).as_posix() for path in _files(self._path / folder)
            )

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise storage_failure(str(self), error) from error


class FsspecStorage:
    """A folder or bucket on a file system that fsspec knows.

    Args:
        url: Such as `s3://bucket/problems`.

    Raises:
        CannotServe: Nobody knows such a URL, or the package for it is not installed.
    """

    def __init__(self, url: str) -> None:
        self._shown = shown(url)
        try:
            # A listing from memory would hide what other processes put and delete.
            self._files, root = fsspec.url_to_fs(url, use_listings_cache=False)
        except ImportError as error:
            raise CannotServe(
                f"the problem store {self._shown} needs a package that is not installed: {error}",
                "Install it with pip where the service and the workers run",
            ) from error
        except Exception as error:
            raise CannotServe(
                f"the problem store {self._shown} cannot be opened: {error}",
                "Give CUPEL_STORE a URL such as file:///srv/cupel or s3://bucket/cupel",
            ) from error
        self._root = str(root).rstrip("/")
        self._puts_are_whole = urlsplit(url).scheme in _OBJECT_STORES

    def __str__(self) -> str:
        return self._shown

    def read(self, name: str) -> bytes | None:
        """See `Storage`."""
        with self._failures():
            try:
                content: bytes = self._files.cat_file(self._at(name))
            except FileNotFoundError:
                return None
            return content

    def write(self, name: str, content: bytes) -> None:
        """See `Storage`."""
        path = self._at(name)
        with self._failures():
            if self._puts_are_whole:
                self._files.pipe_file(path, content)
                return
            folder = path.rpartition("/")[0]
            temporary = f"{folder}/{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
            self._files.makedirs(folder, exist_ok=True)
            try:
                self._files.pipe_file(temporary, content)
                self._files.mv(temporary, path)
            except BaseException:
                self._remove(temporary)
                raise

    def delete(self, name: str) -> None:
        """See `Storage`."""
        with self._failures():
            self._remove(self._at(name))

    def exists(self, name: str) -> bool:
        """See `Storage`."""
        with self._failures():
            try:
                self._files.info(self._at(name))  # fsspec's exists() takes any failure for "no"
            except FileNotFoundError:
                return False
            return True

    def names(self, folder: str) -> list[str]:
        """See `Storage`."""
        # Walks skip folders that they cannot list, unless told; object stores list in one go.
        options = {} if self._puts_are_whole else {"on_error": "raise"}
        with self._failures():
            try:
                found: list[str] = self._files.find(self._at(folder), **options)
            except FileNotFoundError:
                return []
            return sorted(path.removeprefix(self._root).lstrip("/") for path in found)

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _remove(self, path: str) -> None:
        try:
            self._files.rm_file(path)
        except FileNotFoundError:
            return

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each file system raises its own kinds
            raise storage_failure(self._shown, error) from error


def open_storage(url: str) -> Storage:
    """The storage of a cluster's problem store.

    Args:
        url: `file:///folder` or the path of a folder, or any URL that fsspec knows. Credentials and
            endpoints come from where the cloud's own tools take them (for S3 the `AWS_*` variables)
            or from `FSSPEC_<PROTOCOL>_<OPTION>`.

    Raises:
        CannotServe: The URL means nothing here, or the package for it is not installed.
    """
    if "::" in url:
        # A cache in front of the store would hide what other processes put and delete.
        raise CannotServe(
            f"the problem store {shown(url)} is a chain of file systems",
            "Give CUPEL_STORE the last one alone: workers have a cache of their own",
        )
    folder = local_path(url)
    return FsspecStorage(url) if folder is None else LocalFolder(folder)


def set_mark(storage: Storage) -> None:
    """Says in a shared storage that it is a problem store."""
    if not storage.exists(_MARK):
        storage.write(_MARK, b'{"version": 1}\n')


def check_mark(storage: Storage) -> None:
    """Makes sure that what is missing in a shared storage is not missing with all the rest.

    Raises:
        StoreUnreachable: There is no problem store: its volume is not mounted, say.
    """
    if not storage.exists(_MARK):
        raise StoreUnreachable(
            f"there is no problem store in {storage}: a volume that is not mounted, another bucket "
            "or folder than the API's, or no API was ever started with it"
        )


def is_temporary(name: str) -> bool:
    """Whether a name is of a file that is being written, or was when its writer died."""
    return name.rpartition("/")[2].startswith(TEMPORARY_PREFIX)


def local_path(url: str) -> Path | None:
    """The folder that a URL names, if it is one of this machine's file system."""
    if "://" not in url:
        return Path(url).expanduser().absolute()
    scheme, _, path = url.partition("://")
    return Path(path).expanduser().absolute() if scheme in {"file", "local"} else None


def shown(url: str) -> str:
    """A URL as people may see it: without a password, a key, or options."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def storage_failure(where: str, error: Exception) -> StoreFailed:
    """Turns any failure of a storage into one that says what the operator can do.

    Args:
        where: The folder or URL.
        error: As the system or a file system's library raised it.
    """
    code = error.errno if isinstance(error, OSError) else None
    words = f"{type(error).__name__} {error}"
    why = (error.strerror if isinstance(error, OSError) else None) or str(error) or words.strip()
    if code in DISK_FULL or _FULL_IN_WORDS.search(words):
        return StoreFull(
            f"no room left in the problem store {where} ({why}); nothing was changed. Free space "
            "there, or choose another place with CUPEL_DATA_DIR or CUPEL_STORE, and send it again"
        )
    if isinstance(error, PermissionError) or code in _DENIED or _DENIED_IN_WORDS.search(words):
        return StoreDenied(
            f"the problem store {where} denies access ({why}); nothing was changed. Check its "
            "owner and permissions, or the credentials: the service lists, reads, writes and "
            "deletes there, workers list and read"
        )
    if isinstance(error, _MISPLACED):
        return StoreFailed(
            f"the problem store {where} cannot be used ({why}); nothing was changed. "
            "Something else is where its folders must be: move that, or choose another place with "
            "CUPEL_DATA_DIR or CUPEL_STORE"
        )
    if isinstance(error, FileNotFoundError):
        why = f"{why}: its folder or bucket must be made first"
    return StoreUnreachable(
        f"the problem store {where} cannot be used now ({why}); nothing was changed. "
        "Check that it is up, mounted and reachable from here"
    )


def _files(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        # What cannot be listed must not look empty: what seems unused is removed.
        if not isinstance(error, FileNotFoundError):
            raise error

    for parent, _, files in os.walk(folder, onerror=refuse):
        for name in files:
            yield Path(parent, name)
