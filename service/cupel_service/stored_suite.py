"""Suites by the digest of their problem: as they are stored, and the last used ones in memory."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

from pydantic import ValidationError

from cupel.schema import Problem
from cupel_service.errors import StoreFailed
from cupel_service.suite import Suite, prepare

BLOBS = "blobs"


class ProblemDamaged(StoreFailed):
    """A problem's content is missing or altered where it was stored.

    Args:
        problem_id: The registered problem's id, or the digest of an inline one.
    """

    def __init__(self, problem_id: str) -> None:
        super().__init__(
            f"problem {problem_id!r} is damaged in the store: its content is missing or does not "
            "match its digest. Register it again"
        )


def blob_name(digest: str) -> str:
    """The name of a problem's content within a storage."""
    return f"{BLOBS}/{digest[:2]}/{digest}"


def parse_suite(content: bytes, digest: str) -> Suite | None:
    """The suite in a blob.

    Args:
        content: The whole problem as JSON, from wherever it was kept.
        digest: Of the problem that it should be.

    Returns:
        The prepared suite; None if this is not that problem, or no problem at all.
    """
    try:
        suite = prepare(Problem.model_validate_json(content))
    except ValidationError:
        return None  # no word of it: its text would quote hidden tests
    return suite if suite.digest == digest else None


class SuiteMemory:
    """Prepared suites by digest; the least recently used leave when their bytes exceed a bound.

    Thread-safe.

    Args:
        capacity_bytes: Test data to keep at most.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._used_bytes = 0
        self._suites: OrderedDict[str, Suite] = OrderedDict()
        self._lock = Lock()

    def get(self, digest: str) -> Suite | None:
        """The suite of that digest, if it is here."""
        with self._lock:
            suite = self._suites.get(digest)
            if suite is not None:
                self._suites.move_to_end(digest)
            return suite

    def add(self, suite: Suite) -> None:
        """Keeps a suite, unless it alone exceeds the bound."""
        with self._lock:
            if suite.digest in self._suites or suite.data_bytes > self._capacity_bytes:
                return
            self._suites[suite.digest] = suite
            self._used_bytes += suite.data_bytes
            while self._used_bytes > self._capacity_bytes:
                _, oldest = self._suites.popitem(last=False)
                self._used_bytes -= oldest.data_bytes

    def drop(self, digest: str) -> None:
        """Forgets a suite. Nothing if it is not here."""
        with self._lock:
            suite = self._suites.pop(digest, None)
            if suite is not None:
                self._used_bytes -= suite.data_bytes
