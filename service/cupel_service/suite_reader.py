"""Where a worker gets its suites: memory, its own disk, then the store that all share."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from threading import Lock

from cupel_service.storage import Storage, StoreUnreachable, check_mark
from cupel_service.stored_suite import ProblemDamaged, SuiteMemory, blob_name, parse_suite
from cupel_service.suite import Suite
from cupel_service.suite_folder import SuiteFolder

_log = logging.getLogger(__name__)

PATIENCE_S = 30.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0


class SuiteReader:
    """Suites by digest, for all threads of a process: each is fetched once at a time.

    Args:
        storage: Of the shared problem store.
        cache_dir: Folder on this machine's disk, below which copies are kept in `suites`; other
            processes may use it too.
        cache_bytes: How much to keep there.
        memory_bytes: Test data of prepared suites to keep in memory.
        patience_s: For how long an unreachable store is tried again.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        cache_dir: Path,
        cache_bytes: int,
        memory_bytes: int,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._storage = storage
        self._folder = SuiteFolder(cache_dir / "suites", cache_bytes)
        self._memory = SuiteMemory(memory_bytes)
        self._patience_s = patience_s
        self._lock = Lock()
        self._fetching: dict[tuple[str, str], Future[Suite]] = {}

    def suite_of(self, digest: str, problem_id: str | None, inline: bytes | None) -> Suite:
        """The suite of a problem.

        Args:
            digest: SHA-256 of the problem.
            problem_id: Its id if it is registered, for messages.
            inline: The problem as JSON if it came with its submission.

        Raises:
            ProblemDamaged: What is stored, or `inline`, is not the problem of that digest.
            StoreDenied: This worker may not read the store.
            StoreUnreachable: The store could not be read for `patience_s`.
        """
        found = self._memory.get(digest)
        if found is not None:
            return found
        name = problem_id or digest
        if inline is None:
            return self._once(digest, "stored", lambda: self._read(digest, name))
        return self._once(digest, "inline", lambda: self._parsed(inline, digest, name))

    def _once(self, digest: str, source: str, find: Callable[[], Suite]) -> Suite:
        """What `find` returns or raises, called by one thread for all that want it meanwhile."""
        key = (digest, source)
        with self._lock:
            flight = self._fetching.get(key)
            leads = flight is None
            if flight is None:
                flight = self._fetching[key] = Future()
        if leads:
            try:
                suite = self._memory.get(digest) or find()  # another may just have found it
                self._memory.add(suite)
                flight.set_result(suite)
            except BaseException as error:  # noqa: BLE001  raised below, in every waiting thread
                flight.set_exception(error)
            with self._lock:
                del self._fetching[key]
        return flight.result()

    def _read(self, digest: str, name: str) -> Suite:
        kept = self._folder.get(digest)
        if kept is not None:
            suite = parse_suite(kept, digest)
            if suite is not None:
                return suite
            _log.warning("cache: the copy of problem %s is damaged, and fetched again", name)
            self._folder.drop(digest)
        content = self._fetch(digest)
        if content is None:
            raise ProblemDamaged(name)
        suite = self._parsed(content, digest, name)
        self._folder.add(digest, content)
        return suite

    def _fetch(self, digest: str) -> bytes | None:
        """A blob of the store; None if the store is there and lacks it."""
        give_up_s = time.monotonic() + self._patience_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                content = self._storage.read(blob_name(digest))
                if content is None:
                    check_mark(self._storage)
                return content
            except StoreUnreachable as error:
                left_s = give_up_s - time.monotonic()
                if left_s <= 0:
                    raise
                _log.warning("store: %s; tried again for %.0f s", error, left_s)
            # Workers that lost the store together must not come back together.
            time.sleep(min(pause_s * random.uniform(0.5, 1.0), left_s))  # noqa: S311
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    def _parsed(self, content: bytes, digest: str, name: str) -> Suite:
        suite = parse_suite(content, digest)
        if suite is None:
            raise ProblemDamaged(name)
        return suite
