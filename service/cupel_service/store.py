"""The problem store: content-addressed blobs, and a small manifest per problem.

Layout below the data folder:

    problems/<id>.json     manifest: what may be read of the problem, and its content's digest
    blobs/<xx>/<digest>    content: the whole problem with its hidden tests, as JSON

A blob is written before the manifest that names it and removed after the last one that did, so a
crash at any moment leaves whole problems only, and at worst a blob that the next start removes.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from pydantic import BaseModel, ConfigDict, ValidationError

from cupel.schema import Problem, ProblemSummary
from cupel_service.data_folder import TEMPORARY_PREFIX, store_failed, write_whole
from cupel_service.errors import ProblemUnknown, StoreFailed
from cupel_service.suite import Suite, prepare

_log = logging.getLogger(__name__)


class ProblemDamaged(StoreFailed):
    """A registered problem's content is missing or altered on disk."""

    def __init__(self, problem_id: str) -> None:
        super().__init__(
            f"problem {problem_id!r} is damaged on disk: its content does not match its digest. "
            "Register it again"
        )


@dataclass(frozen=True, slots=True)
class Stored:
    """What a put did.

    Args:
        summary: What may be read of the problem.
        created: There was no problem of that id before.
    """

    summary: ProblemSummary
    created: bool


class Manifest(BaseModel):
    """The small file of a problem: everything but its tests."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: int = 1
    summary: ProblemSummary


class ProblemStore:
    """Problems on disk, with the most recently used test suites in memory. Thread-safe.

    Args:
        folder: The data folder; the caller holds its lock.
        cache_bytes: Content of prepared suites to keep in memory.

    Raises:
        StoreFailed: The folder cannot be read or written.
    """

    def __init__(self, folder: Path, cache_bytes: int) -> None:
        self._problems = folder / "problems"
        self._blobs = folder / "blobs"
        self._lock = Lock()
        self._manifests: dict[str, Manifest] = {}
        self._cache = _SuiteCache(cache_bytes)
        try:
            self._problems.mkdir(mode=0o700, exist_ok=True)
            self._blobs.mkdir(mode=0o700, exist_ok=True)
            self._remove_temporaries()
            self._read_manifests()
        except OSError as error:
            raise store_failed(folder, error) from error

    def put(self, problem_id: str, problem: Problem) -> Stored:
        """Registers a problem, or replaces the one of that id as a whole.

        Args:
            problem_id: A valid identifier.
            problem: The problem with its tests.

        Returns:
            Its summary, and whether it is new. The same content twice changes nothing.

        Raises:
            StoreFull: No room; the problem is as it was before.
            StoreFailed: The disk refused for another reason; likewise.
        """
        suite = prepare(problem)
        digest = suite.digest
        manifest = Manifest(summary=_summary(problem_id, problem, suite))
        with self._lock:
            known = self._manifests.get(problem_id)
            if known is None or known.summary.digest != digest or not self._blob(digest).exists():
                self._write(manifest, problem)
                self._manifests[problem_id] = manifest
                if known is not None:
                    self._drop_unreferenced(known.summary.digest)
        self._cache.add(suite)
        return Stored(manifest.summary, created=known is None)

    def summary(self, problem_id: str) -> ProblemSummary:
        """What may be read of a problem.

        Raises:
            ProblemUnknown: No such problem.
        """
        return self._manifest(problem_id).summary

    def summaries(self) -> tuple[ProblemSummary, ...]:
        """All problems, by id."""
        with self._lock:
            return tuple(self._manifests[key].summary for key in sorted(self._manifests))

    def cached_suite(self, problem_id: str) -> Suite | None:
        """A problem's suite if it is in memory: never waits for the disk.

        Raises:
            ProblemUnknown: No such problem.
        """
        return self._cache.get(self._manifest(problem_id).summary.digest)

    def suite(self, problem_id: str) -> Suite:
        """A problem's suite, from memory or from disk.

        Raises:
            ProblemUnknown: No such problem.
            ProblemDamaged: Its content on disk is not what was put.
            StoreFailed: The disk cannot be read.
        """
        manifest = self._manifest(problem_id)
        digest = manifest.summary.digest
        cached = self._cache.get(digest)
        if cached is not None:
            return cached
        try:
            content = self._blob(digest).read_bytes()
        except FileNotFoundError as error:
            if self._manifest(problem_id).summary.digest != digest:
                return self.suite(problem_id)  # replaced meanwhile
            raise ProblemDamaged(problem_id) from error
        except OSError as error:
            raise store_failed(self._blobs, error) from error
        try:
            suite = prepare(Problem.model_validate_json(content))
        except ValidationError:
            raise ProblemDamaged(problem_id) from None  # its text would quote hidden tests
        if suite.digest != digest:
            raise ProblemDamaged(problem_id)
        self._cache.add(suite)
        return suite

    def delete(self, problem_id: str) -> None:
        """Forgets a problem; what is being judged by it is judged to its end.

        Raises:
            ProblemUnknown: No such problem.
            StoreFailed: The disk refused; the problem is still there.
        """
        with self._lock:
            if problem_id not in self._manifests:
                raise ProblemUnknown(problem_id)
            try:
                self._manifest_path(problem_id).unlink(missing_ok=True)
            except OSError as error:
                raise store_failed(self._problems, error) from error
            gone = self._manifests.pop(problem_id)
            self._drop_unreferenced(gone.summary.digest)

    def _manifest(self, problem_id: str) -> Manifest:
        with self._lock:
            found = self._manifests.get(problem_id)
        if found is None:
            raise ProblemUnknown(problem_id)
        return found

    def _write(self, manifest: Manifest, problem: Problem) -> None:
        blob = self._blob(manifest.summary.digest)
        try:
            blob.parent.mkdir(mode=0o700, exist_ok=True)
            if not blob.exists():
                write_whole(blob, problem.model_dump_json().encode())
            write_whole(
                self._manifest_path(manifest.summary.id), manifest.model_dump_json().encode()
            )
        except OSError as error:
            self._drop_unreferenced(manifest.summary.digest)
            raise store_failed(self._problems.parent, error) from error

    def _drop_unreferenced(self, digest: str) -> None:
        if any(known.summary.digest == digest for known in self._manifests.values()):
            return
        self._cache.drop(digest)
        try:
            self._blob(digest).unlink(missing_ok=True)
        except OSError as error:
            # It is only unused space, and the next start tries again.
            _log.warning("store: cannot remove blob %s: %s", digest, error.strerror)

    def _remove_temporaries(self) -> None:
        for folder in (self._problems, *self._blobs.iterdir()):
            for left in folder.glob(TEMPORARY_PREFIX + "*"):
                left.unlink()

    def _read_manifests(self) -> None:
        unreadable = 0
        for path in sorted(self._problems.glob("*.json")):
            manifest = _read_manifest(path)
            if manifest is None:
                unreadable += 1
                _log.error("store: %s is not a manifest: register that problem again", path)
            else:
                self._manifests[manifest.summary.id] = manifest
        if not unreadable:  # else a blob may belong to a manifest that a person can still mend
            self._remove_unreferenced()

    def _remove_unreferenced(self) -> None:
        wanted = {known.summary.digest for known in self._manifests.values()}
        for blob in self._blobs.glob("??/*"):
            if blob.name not in wanted:
                blob.unlink()

    def _manifest_path(self, problem_id: str) -> Path:
        return self._problems / f"{problem_id}.json"

    def _blob(self, digest: str) -> Path:
        return self._blobs / digest[:2] / digest


class _SuiteCache:
    """Prepared suites by digest; the least recently used leave when their bytes exceed a bound."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._used_bytes = 0
        self._suites: OrderedDict[str, Suite] = OrderedDict()
        self._lock = Lock()

    def get(self, digest: str) -> Suite | None:
        with self._lock:
            suite = self._suites.get(digest)
            if suite is not None:
                self._suites.move_to_end(digest)
            return suite

    def add(self, suite: Suite) -> None:
        with self._lock:
            if suite.digest in self._suites or suite.data_bytes > self._capacity_bytes:
                return
            self._suites[suite.digest] = suite
            self._used_bytes += suite.data_bytes
            while self._used_bytes > self._capacity_bytes:
                _, oldest = self._suites.popitem(last=False)
                self._used_bytes -= oldest.data_bytes

    def drop(self, digest: str) -> None:
        with self._lock:
            suite = self._suites.pop(digest, None)
            if suite is not None:
                self._used_bytes -= suite.data_bytes


def _summary(problem_id: str, problem: Problem, suite: Suite) -> ProblemSummary:
    return ProblemSummary(
        id=problem_id,
        title=problem.title,
        statement=problem.statement,
        limits=problem.limits,
        checker=problem.checker.type,
        tests_per_tier=suite.tests_per_tier,
        digest=suite.digest,
    )


def _read_manifest(path: Path) -> Manifest | None:
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError:
        return None
    return manifest if manifest.summary.id == path.stem else None
