"""A running service: its boxes, store and queue, from start to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version

from cupel.schema import (
    FAILURE_CLASS,
    SOURCE_BYTES_MAX,
    Info,
    Judgement,
    Language,
    Problem,
    Submission,
    ToolchainInfo,
    Verdict,
)
from cupel_sandbox.errors import CannotStart, SandboxError
from cupel_sandbox.toolchains import Toolchain
from cupel_service.baseline import measure_baselines
from cupel_service.boxes import Facts, Pool
from cupel_service.data_folder import DataFolder
from cupel_service.errors import CannotServe, LanguageUnavailable, StoreFailed
from cupel_service.host import physical_cores, warnings_of
from cupel_service.judge import judge
from cupel_service.languages import LanguageSetup, setup_languages
from cupel_service.program import Slot
from cupel_service.queue.contract import Assignment, Dispatcher
from cupel_service.queue.embedded import InProcessDispatcher
from cupel_service.requests import InvalidRequest
from cupel_service.settings import Settings
from cupel_service.store import ProblemStore
from cupel_service.suite import Suite, prepare

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Runtime:
    """What a running service holds; routes see nothing else.

    Args:
        store: The registered problems.
        dispatcher: Where submissions are judged.
        judging: How they are judged, and in which languages.
        info: What the service runs on.
    """

    store: ProblemStore
    dispatcher: Dispatcher
    judging: Judging
    info: Info

    async def assign(self, submissions: Sequence[Submission]) -> list[Assignment]:
        """Finds all that judging takes.

        Args:
            submissions: Of one request.

        Returns:
            One assignment each, in the same order.

        Raises:
            InvalidRequest: Two have one id, or a source is too large.
            LanguageUnavailable: A language was asked for that this host does not have.
            ProblemUnknown: A problem was named that is not registered.
            StoreFailed: A problem could not be read.
        """
        _check_ids(submissions)
        self.judging.check(submissions)
        suites = await self._suites(submission.problem for submission in submissions)
        return [
            Assignment(
                submission=submission,
                submission_id=submission.id or uuid.uuid4().hex,
                problem_id=submission.problem if isinstance(submission.problem, str) else None,
                suite=suites[submission.problem],
            )
            for submission in submissions
        ]

    async def _suites(self, problems: Iterable[str | Problem]) -> dict[str | Problem, Suite]:
        """The suite of every problem, each prepared once; problems are equal by content."""
        found: dict[str | Problem, Suite] = {}
        for problem in problems:
            if problem in found:
                continue
            if isinstance(problem, Problem):
                found[problem] = await asyncio.to_thread(prepare, problem)
                continue
            suite = self.store.cached_suite(problem)
            if suite is None:
                suite = await asyncio.to_thread(self.store.suite, problem)
            found[problem] = suite
        return found


@dataclass(frozen=True, slots=True)
class Judging:
    """Judges assignments in slots.

    Args:
        setups: The languages that this host has.
        missing: Why it lacks the others.
        degraded: Isolation layers given up by name.
    """

    setups: Mapping[Language, LanguageSetup]
    missing: Mapping[Language, str]
    degraded: tuple[str, ...]

    def check(self, submissions: Sequence[Submission]) -> None:
        """Refuses what the client, not a policy, got wrong; before anything is judged.

        Raises:
            InvalidRequest: A source is too large.
            LanguageUnavailable: A language was asked for that this host does not have.
        """
        for index, submission in enumerate(submissions):
            language = submission.language
            if language is not None and language not in self.setups:
                raise self._unavailable(language)
            if submission.source is not None and _is_too_large(submission.source):
                raise InvalidRequest(
                    f"the source of submission {index} has more than {SOURCE_BYTES_MAX} bytes"
                )

    def judge(self, assignment: Assignment, slot: Slot) -> Judgement:
        """Judges one assignment. May take long, and never raises for a program's fault."""
        completion = assignment.submission.completion
        if completion is not None and _is_too_large(completion):
            # A policy's own doing: it must not fail the batch that it is part of.
            return self._no_program(
                assignment, slot, f"the completion has more than {SOURCE_BYTES_MAX} bytes"
            )
        try:
            judgement = self._judge(assignment, assignment.submission, slot)
        except LanguageUnavailable as error:
            # Only a completion's own fence comes here: `check` has seen what the client asked for.
            return self._no_program(
                assignment, slot, str(self._unavailable(Language(error.language)))
            )
        _log.debug("submission %s: %s", assignment.submission_id, judgement.verdict)
        return judgement

    def judging_error(self, assignment: Assignment) -> Judgement:
        """The judgement of what could not be judged, by Cupel's own fault."""
        suite = assignment.suite
        return Judgement(
            id=assignment.submission_id,
            problem=assignment.problem_id,
            language=assignment.submission.language,
            verdict=Verdict.JE,
            failure_class=FAILURE_CLASS[Verdict.JE],
            complete=False,
            coverage=min(assignment.submission.coverage or suite.tiers, suite.tiers),
            tiers=suite.tiers,
            tests_per_tier=suite.tests_per_tier,
            cpu_s=0.0,
            wall_s=0.0,
            memory_bytes=0,
            message="judging error: the service's log says where, under this submission's id",
            degraded=self.degraded,
        )

    def _no_program(self, assignment: Assignment, slot: Slot, why: str) -> Judgement:
        """A compile error, as the judge makes it of an answer without a program."""
        empty = assignment.submission.model_copy(update={"completion": "", "source": None})
        judgement = self._judge(assignment, empty, slot)
        return judgement.model_copy(update={"message": f"no program found: {why}"})

    def _judge(self, assignment: Assignment, submission: Submission, slot: Slot) -> Judgement:
        return judge(
            submission,
            assignment.suite,
            slot,
            self.setups,
            submission_id=assignment.submission_id,
            problem_id=assignment.problem_id,
            degraded=self.degraded,
        )

    def _unavailable(self, language: Language) -> LanguageUnavailable:
        available = ", ".join(sorted(self.setups)) or "none"
        reason = self.missing.get(language, "no toolchain")
        return LanguageUnavailable(language, f"{reason}. Languages here: {available}")


@asynccontextmanager
async def running(
    settings: Settings, pool: Pool, toolchains: Sequence[Toolchain]
) -> AsyncIterator[Runtime]:
    """Starts a service, and stops it at the end.

    Args:
        settings: The service's settings.
        pool: Its boxes, not yet started.
        toolchains: What was found on this host.

    Yields:
        The running service.

    Raises:
        CannotServe: It cannot start here; says why and what to do.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(DataFolder(settings.data_dir))
        store = _open_store(folder, settings.suite_cache_bytes)
        stack.callback(pool.close)
        judging = _start_boxes(settings, pool, toolchains)
        dispatcher = InProcessDispatcher(
            pool.slots,
            judging.judge,
            judging.judging_error,
            capacity=settings.queue_capacity,
            interrupt=pool.interrupt,
        )
        try:
            yield Runtime(
                store, dispatcher, judging, _info(settings, pool.facts, len(pool.slots), toolchains)
            )
        finally:
            await dispatcher.stop(settings.stop_grace_s)


def _open_store(folder: DataFolder, cache_bytes: int) -> ProblemStore:
    try:
        return ProblemStore(folder.path, cache_bytes)
    except StoreFailed as error:
        raise CannotServe(
            str(error), "Or choose another folder with --data-dir or CUPEL_DATA_DIR"
        ) from error


def _start_boxes(settings: Settings, pool: Pool, toolchains: Sequence[Toolchain]) -> Judging:
    try:
        pool.start()
        setups = setup_languages(toolchains, settings.time_factors, settings.memory_factors, {})
        baselines = measure_baselines(pool.slots[0].box, setups)
    except CannotStart as error:
        raise CannotServe(error.reason, error.remedy) from error
    except SandboxError as error:
        raise CannotServe(
            f"a box failed while the service started: {error}", "`cupel doctor` tests the boxes"
        ) from error
    return Judging(
        setup_languages(toolchains, settings.time_factors, settings.memory_factors, baselines),
        {Language(each.name): each.reason for each in toolchains if not each.available},
        pool.facts.degraded,
    )


def _info(settings: Settings, facts: Facts, slots: int, toolchains: Sequence[Toolchain]) -> Info:
    cores = physical_cores()
    warnings = warnings_of(slots, cores, os.getloadavg()[0], facts.degraded)
    for warning in warnings:
        _log.warning("start: %s", warning)
    return Info(
        version=version("cupel"),
        box=facts.box,
        cgroup=facts.cgroup,
        seccomp=facts.seccomp,
        user=facts.user,
        slots=slots,
        physical_cores=cores,
        queue_capacity=settings.queue_capacity,
        toolchains=tuple(
            ToolchainInfo(
                language=Language(each.name),
                available=each.available,
                version=each.version,
                reason=each.reason,
            )
            for each in toolchains
        ),
        degraded=facts.degraded,
        warnings=warnings,
    )


def _check_ids(submissions: Sequence[Submission]) -> None:
    counts = Counter(submission.id for submission in submissions if submission.id is not None)
    twice = [index for index, each in enumerate(submissions) if each.id and counts[each.id] > 1]
    if twice:
        raise InvalidRequest(
            f"submissions {twice[0]} and {twice[1]} have the same id: give each its own, or none"
        )


def _is_too_large(program: str) -> bool:
    # A character takes 1 to 4 bytes: most texts need not be encoded to know.
    if len(program) * 4 <= SOURCE_BYTES_MAX:
        return False
    return len(program.encode()) > SOURCE_BYTES_MAX
