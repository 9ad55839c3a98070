"""The small file of each problem: everything but its tests, with the digest of its content."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

from pydantic import BaseModel, ConfigDict, ValidationError

from cupel.schema import ProblemSummary
from cupel_service.storage import Storage, check_mark, is_temporary

_log = logging.getLogger(__name__)

PROBLEMS = "problems"
FRESH_S = 1.0
"""How long a manifest of a shared store is believed without being read again."""

_REMEMBERED_MAX = 10_000  # of a shared store, in memory
_READERS = 16  # manifests read at one time: a remote store answers each in milliseconds


class Manifest(BaseModel):
    """The small file of a problem."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: int = 1
    summary: ProblemSummary


@dataclass(frozen=True, slots=True)
class Listing:
    """All manifests of a storage.

    Args:
        manifests: Those that could be read.
        unreadable: Names of files that should be manifests and are not.
    """

    manifests: Sequence[Manifest]
    unreadable: Sequence[str]


@dataclass(frozen=True, slots=True)
class _Known:
    manifest: Manifest
    read_s: float


class Manifests:
    """The manifests of a problem store. Thread-safe.

    Who has a storage alone keeps all of them in memory, once `read_all` was called. Those who share
    one read them when asked, and believe what they read for `FRESH_S`.

    Args:
        storage: Where they are.
        shared: Other processes write there at the same time.
    """

    def __init__(self, storage: Storage, *, shared: bool) -> None:
        self._storage = storage
        self._shared = shared
        self._known: dict[str, _Known] = {}
        self._lock = Lock()

    def remembered(self, problem_id: str) -> Manifest | None:
        """A problem's manifest if it is in memory and fresh: never waits for the storage."""
        with self._lock:
            known = self._known.get(problem_id)
        if known is None or time.monotonic() - known.read_s > FRESH_S:
            return None
        return known.manifest

    def latest(self, problem_id: str) -> Manifest | None:
        """A problem's manifest as it is now, None if there is no such problem.

        Raises:
            StoreFailed: The storage cannot be read, or is not there at all.
        """
        if not self._shared:
            return self.remembered(problem_id)
        asked_s = time.monotonic()
        content = self._storage.read(_name(problem_id))
        if content is None:
            check_mark(self._storage)
        found = None if content is None else self._parse(_name(problem_id), content)
        if found is None:
            self._forget(problem_id)
        else:
            self._remember(found, asked_s)
        return found

    def all(self) -> Sequence[Manifest]:
        """The manifests of all problems, in no order.

        Raises:
            StoreFailed: The storage cannot be read, or is not there at all.
        """
        if not self._shared:
            with self._lock:
                return [known.manifest for known in self._known.values()]
        found = self.read_all().manifests
        if not found:
            check_mark(self._storage)
        return found

    def read_all(self) -> Listing:
        """Reads every manifest anew.

        Raises:
            StoreFailed: The storage cannot be read.
        """
        asked_s = time.monotonic()
        names = [name for name in self._storage.names(PROBLEMS) if not is_temporary(name)]
        with ThreadPoolExecutor(_READERS) as readers:
            contents = list(readers.map(self._storage.read, names))
        manifests, unreadable = [], []
        for name, content in zip(names, contents, strict=True):
            if content is None:
                continue  # deleted meanwhile
            manifest = self._parse(name, content)
            if manifest is None:
                unreadable.append(name)
            else:
                manifests.append(manifest)
                self._remember(manifest, asked_s)
        return Listing(manifests, unreadable)

    def write(self, manifest: Manifest) -> None:
        """Registers or replaces a problem.

        Raises:
            StoreFailed: The storage refused; nothing was changed.
        """
        self._storage.write(_name(manifest.summary.id), manifest.model_dump_json().encode())
        self._remember(manifest, time.monotonic())

    def delete(self, problem_id: str) -> None:
        """Forgets a problem.

        Raises:
            StoreFailed: The storage refused; nothing was changed.
        """
        self._storage.delete(_name(problem_id))
        self._forget(problem_id)

    def _remember(self, manifest: Manifest, read_s: float) -> None:
        key = manifest.summary.id
        with self._lock:
            if not self._shared:
                self._known[key] = _Known(manifest, math.inf)  # nobody else changes it
                return
            if len(self._known) >= _REMEMBERED_MAX:
                self._known.clear()
            known = self._known.get(key)
            if known is None or known.read_s <= read_s:
                self._known[key] = _Known(manifest, read_s)

    def _forget(self, problem_id: str) -> None:
        with self._lock:
            self._known.pop(problem_id, None)

    def _parse(self, name: str, content: bytes) -> Manifest | None:
        try:
            manifest = Manifest.model_validate_json(content)
            if _name(manifest.summary.id) == name:
                return manifest
        except ValidationError:
            pass  # said below, without its text
        _log.error(
            "store: %s in %s is not a manifest: register that problem again", name, self._storage
        )
        return None


def _name(problem_id: str) -> str:
    return f"{PROBLEMS}/{problem_id}.json"
