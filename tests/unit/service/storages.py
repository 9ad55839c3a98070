"""Every kind of storage, for the tests that all of them pass.

`CUPEL_TEST_STORE=s3://bucket/folder` adds a real one.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cupel_service.storage import FsspecStorage, LocalFolder, Storage, open_storage

REAL = os.environ.get("CUPEL_TEST_STORE")
KINDS = ("fake", "folder", "fsspec-file", "fsspec-memory", *(["real"] if REAL else []))


class FakeStorage:
    """Files in a dictionary; fails or waits when told.

    Args:
        failures: What the next calls raise, in order; None lets a call through.
    """

    def __init__(self, failures: list[Exception | None] | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self.failures = failures or []
        self.calls: Counter[str] = Counter()
        self.gate = threading.Event()
        self.gate.set()
        self._lock = threading.Lock()

    def __str__(self) -> str:
        return "fake"

    def read(self, name: str) -> bytes | None:
        self._count("read")
        return self.files.get(name)

    def write(self, name: str, content: bytes) -> None:
        self._count("write")
        self.files[name] = content

    def delete(self, name: str) -> None:
        self._count("delete")
        self.files.pop(name, None)

    def exists(self, name: str) -> bool:
        self._count("exists")
        return name in self.files

    def names(self, folder: str) -> list[str]:
        self._count("names")
        return sorted(name for name in list(self.files) if name.startswith(folder + "/"))

    def _count(self, call: str) -> None:
        with self._lock:
            self.calls[call] += 1
            failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        assert self.gate.wait(60)


@contextmanager
def opened_storage(kind: str, folder: Path) -> Iterator[Storage]:
    """A storage of that kind with nothing in it, and nothing left of it at the end."""
    if kind == "fake":
        yield FakeStorage()
    elif kind == "folder":
        yield LocalFolder(folder / "storage")
    elif kind == "fsspec-file":
        yield FsspecStorage(f"file://{folder}/storage")
    else:
        root = REAL if kind == "real" else "memory://"
        storage = open_storage(f"{root}/{uuid.uuid4().hex}")
        try:
            yield storage
        finally:
            for top in ("problems", "blobs", "released"):
                for name in storage.names(top):
                    storage.delete(name)
            storage.delete("store.json")
