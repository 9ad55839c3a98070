"""The problem store: content-addressed blobs, and a small manifest per problem.

Layout of its storage:

    problems/<id>.json     manifest: what may be read of the problem, and its content's digest
    blobs/<xx>/<digest>    content: the whole problem with its hidden tests, as JSON

and, where several services share it:

    store.json             says that this is a store: a volume that is not mounted lacks it
    released/<digest>      when that content was last put again or let go, in Unix seconds

A blob is written before the manifest that names it and removed after the last one that did, so a
crash at any moment leaves whole problems only, and at worst a blob that a later start removes.

One service alone knows all that is judged: it removes a blob with the last manifest that names it.
Services that share a store do not know what others judge: there, content stays for a day after
nothing names it, which is longer than anything waits in a queue.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from threading import Lock

from cupel.schema import Problem, ProblemSummary, PublicTest
from cupel_service.data_folder import DataFolder
from cupel_service.errors import CannotServe, ProblemUnknown, StoreFailed
from cupel_service.manifests import PROBLEMS, Manifest, Manifests
from cupel_service.storage import Storage, is_temporary, local_path, open_storage, set_mark
from cupel_service.stored_suite import BLOBS, ProblemDamaged, SuiteMemory, blob_name, parse_suite
from cupel_service.suite import Suite, prepare

_log = logging.getLogger(__name__)

RELEASED = "released"
UNUSED_KEPT_S = 86400.0
"""How long a shared store keeps content that no manifest names."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What a put did.

    Args:
        summary: What may be read of the problem.
        created: There was no problem of that id before.
    """

    summary: ProblemSummary
    created: bool


class ProblemStore:
    """Problems in a storage, with the most recently used test suites in memory. Thread-safe.

    Args:
        storage: Where they are; unless it is shared, the caller holds its lock.
        cache_bytes: Content of prepared suites to keep in memory.
        shared: Other services use the same storage at the same time.
        now_s: The clock by which unused content ages, in Unix seconds.

    Raises:
        StoreFailed: The storage cannot be read or written.
    """

    def __init__(
        self,
        storage: Storage,
        cache_bytes: int,
        *,
        shared: bool = False,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._storage = storage
        self._shared = shared
        self._now_s = now_s
        self._changing = Lock()  # one put or delete at a time in this process
        self._manifests = Manifests(storage, shared=shared)
        self._cache = SuiteMemory(cache_bytes)
        if shared:
            set_mark(storage)
        self._remove_unused()

    def put(self, problem_id: str, problem: Problem) -> Stored:
        """Registers a problem, or replaces the one of that id as a whole.

        Args:
            problem_id: A valid identifier.
            problem: The problem with its tests.

        Returns:
            Its summary, and whether it is new. The same content twice changes nothing.

        Raises:
            StoreFull: No room; the problem is as it was before.
            StoreFailed: The storage refused for another reason; likewise.
        """
        suite = prepare(problem)
        digest = suite.digest
        manifest = Manifest(summary=_summary(problem_id, problem, suite))
        with self._changing:
            known = self._manifests.latest(problem_id)
            if (
                known is None
                or known.summary.digest != digest
                or not self._storage.exists(blob_name(digest))
            ):
                self._write(manifest, problem, known)
        self._cache.add(suite)
        return Stored(manifest.summary, created=known is None)

    def summary(self, problem_id: str) -> ProblemSummary:
        """What may be read of a problem; waits for the storage if that is shared.

        Raises:
            ProblemUnknown: No such problem.
            StoreFailed: The storage cannot be read.
        """
        return self._manifest(problem_id).summary

    def summaries(self) -> tuple[ProblemSummary, ...]:
        """All problems, by id; waits for the storage if that is shared.

        Raises:
            StoreFailed: The storage cannot be read.
        """
        found = (manifest.summary for manifest in self._manifests.all())
        return tuple(sorted(found, key=lambda summary: summary.id))

    def cached_suite(self, problem_id: str) -> Suite | None:
        """A problem's suite if it is in memory: never waits for the storage.

        Raises:
            ProblemUnknown: No such problem, as far as that is known without waiting.
        """
        manifest = self._manifests.remembered(problem_id)
        if manifest is not None:
            return self._cache.get(manifest.summary.digest)
        if self._shared:
            return None
        raise ProblemUnknown(problem_id)

    def suite(self, problem_id: str) -> Suite:
        """A problem's suite, from memory or from the storage.

        Raises:
            ProblemUnknown: No such problem.
            ProblemDamaged: Its content is not what was put.
            StoreFailed: The storage cannot be read.
        """
        digest = self._manifest(problem_id).summary.digest
        cached = self._cache.get(digest)
        if cached is not None:
            return cached
        content = self._storage.read(blob_name(digest))
        if content is None:
            latest = self._manifests.latest(problem_id)
            if latest is None or latest.summary.digest != digest:
                return self.suite(problem_id)  # deleted or replaced meanwhile
            raise ProblemDamaged(problem_id)
        suite = parse_suite(content, digest)
        if suite is None:
            raise ProblemDamaged(problem_id)
        self._cache.add(suite)
        return suite

    def delete(self, problem_id: str) -> None:
        """Forgets a problem; what is being judged by it is judged to its end.

        Raises:
            ProblemUnknown: No such problem.
            StoreFailed: The storage refused; the problem is still there.
        """
        with self._changing:
            known = self._manifests.latest(problem_id)
            if known is None:
                raise ProblemUnknown(problem_id)
            digest = known.summary.digest
            self._release(digest)
            self._manifests.delete(problem_id)
            self._drop_unreferenced(digest)

    def _manifest(self, problem_id: str) -> Manifest:
        found = self._manifests.remembered(problem_id) or self._manifests.latest(problem_id)
        if found is None:
            raise ProblemUnknown(problem_id)
        return found

    def _write(self, manifest: Manifest, problem: Problem, replaced: Manifest | None) -> None:
        digest = manifest.summary.digest
        blob = blob_name(digest)
        content = problem.model_dump_json().encode()
        try:
            if replaced is not None:
                self._release(replaced.summary.digest)
            if self._storage.exists(blob):
                self._release(digest)  # else another's start may remove it now, unused for long
            else:
                self._storage.write(blob, content)
            self._manifests.write(manifest)
            if self._shared and not self._storage.exists(blob):
                self._storage.write(blob, content)  # that start was under way already
        except StoreFailed:
            self._drop_unreferenced(digest)
            raise
        if replaced is not None:
            self._drop_unreferenced(replaced.summary.digest)

    def _drop_unreferenced(self, digest: str) -> None:
        if self._shared or any(each.summary.digest == digest for each in self._manifests.all()):
            return
        self._cache.drop(digest)
        try:
            self._storage.delete(blob_name(digest))
        except StoreFailed as error:
            # It is only unused space, and the next start tries again.
            _log.warning("store: cannot remove blob %s: %s", digest, error)

    def _remove_unused(self) -> None:
        # Content is listed before manifests: what is put meanwhile is not taken for unused.
        names = [
            name for folder in (BLOBS, RELEASED, PROBLEMS) for name in self._storage.names(folder)
        ]
        listing = self._manifests.read_all()
        wanted = {manifest.summary.digest for manifest in listing.manifests}
        for name in names:
            unreferenced = name.startswith(BLOBS) and _last_part(name) not in wanted
            # A blob may belong to an unreadable manifest that a person can still mend.
            if is_temporary(name) or (unreferenced and not listing.unreadable):
                self._remove_if_old(name)

    def _remove_if_old(self, name: str) -> None:
        if not self._shared:
            self._storage.delete(name)
            return
        key = _last_part(name).lstrip(".")  # the release of a temporary file is none itself
        released_s = _parse_time(self._storage.read(f"{RELEASED}/{key}"))
        if released_s is None:
            self._release(key)  # its writer died, or is at it just now
        elif self._now_s() - released_s > UNUSED_KEPT_S:
            self._storage.delete(name)
            self._storage.delete(f"{RELEASED}/{key}")

    def _release(self, key: str) -> None:
        """Notes in a shared storage that something is kept for a day from now, used or not."""
        if self._shared:
            self._storage.write(f"{RELEASED}/{key}", f"{self._now_s():.0f}\n".encode())


@contextmanager
def shared_store(url: str, cache_bytes: int) -> Iterator[ProblemStore]:
    """Opens a store that any number of services use at the same time.

    Args:
        url: As `open_storage` takes it.
        cache_bytes: Content of prepared suites to keep in memory.

    Raises:
        CannotServe: It cannot be opened, or an embedded service holds it; says what to do.
    """
    storage = open_storage(url)
    path = local_path(url)
    # On a file system of this machine, an embedded service must not hold the same folder.
    with nullcontext() if path is None else DataFolder(path, shared=True):
        try:
            store = ProblemStore(storage, cache_bytes, shared=True)
        except StoreFailed as error:
            raise CannotServe(str(error), "Or choose another place with CUPEL_STORE") from error
        yield store


def _summary(problem_id: str, problem: Problem, suite: Suite) -> ProblemSummary:
    return ProblemSummary(
        id=problem_id,
        title=problem.title,
        statement=problem.statement,
        limits=problem.limits,
        checker=problem.checker.type,
        tests_per_tier=suite.tests_per_tier,
        digest=suite.digest,
        public_tests=tuple(
            PublicTest(name=test.name, input=test.input, output=test.output)
            for test in problem.tests
            if test.public
        ),
    )


def _last_part(name: str) -> str:
    return name.rpartition("/")[2]


def _parse_time(content: bytes | None) -> float | None:
    try:
        return None if content is None else float(content)
    except ValueError:
        return None
