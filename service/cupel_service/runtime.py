"""A running service as the HTTP API sees it, the same in one process and in a cluster."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from cupel.schema import SOURCE_BYTES_MAX, Info, Problem, Submission
from cupel_service.errors import LanguageUnavailable
from cupel_service.judging import is_too_large
from cupel_service.queue.contract import Assignment, Dispatcher
from cupel_service.requests import InvalidRequest
from cupel_service.sessions.registry import Sessions
from cupel_service.store import ProblemStore
from cupel_service.suite import Suite, prepare


@dataclass(frozen=True, slots=True)
class Runtime:
    """What a running service holds; routes see nothing else.

    Args:
        store: The registered problems.
        dispatcher: Where submissions are judged.
        read_info: What the service runs on, as far as it is known now; never waits.
        read_obstacle: Why nothing is judged now and what to do; empty if all is well. Never waits.
        sessions: The boxes kept for episodes; None if this service has none.
    """

    store: ProblemStore
    dispatcher: Dispatcher
    read_info: Callable[[], Info]
    read_obstacle: Callable[[], str]
    sessions: Sessions | None = None

    @property
    def info(self) -> Info:
        """What the service runs on now."""
        info = self.read_info()
        if self.sessions is None:
            return info
        return info.model_copy(update={"sessions": self.sessions.info})

    @property
    def obstacle(self) -> str:
        """Why nothing is judged now and what to do; empty if all is well."""
        return self.read_obstacle()

    async def assign(self, submissions: Sequence[Submission]) -> list[Assignment]:
        """Finds all that judging takes.

        Args:
            submissions: Of one request.

        Returns:
            One assignment each, in the same order.

        Raises:
            InvalidRequest: Two have one id, or a source is too large.
            LanguageUnavailable: A language was asked for that the boxes do not have.
            ProblemUnknown: A problem was named that is not registered.
            StoreFailed: A problem could not be read.
        """
        _check_ids(submissions)
        _check_programs(submissions, self.info)
        suites = await self.suites(submission.problem for submission in submissions)
        return [
            Assignment(
                submission=submission,
                submission_id=submission.id or uuid.uuid4().hex,
                problem_id=submission.problem if isinstance(submission.problem, str) else None,
                suite=suites[submission.problem],
            )
            for submission in submissions
        ]

    async def suites(self, problems: Iterable[str | Problem]) -> dict[str | Problem, Suite]:
        """The suite of every problem, each prepared once; problems are equal by content.

        Raises:
            ProblemUnknown: A problem was named that is not registered.
            StoreFailed: A problem could not be read.
        """
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


def _check_ids(submissions: Sequence[Submission]) -> None:
    counts = Counter(submission.id for submission in submissions if submission.id is not None)
    twice = [index for index, each in enumerate(submissions) if each.id and counts[each.id] > 1]
    if twice:
        raise InvalidRequest(
            f"submissions {twice[0]} and {twice[1]} have the same id: give each its own, or none"
        )


def _check_programs(submissions: Sequence[Submission], info: Info) -> None:
    """Refuses what the client, not a policy, got wrong; before anything is judged."""
    # A cluster that has not seen a worker yet knows no toolchains, and refuses no language.
    missing = {each.language: each.reason for each in info.toolchains if not each.available}
    for index, submission in enumerate(submissions):
        language = submission.language
        if language in missing:
            available = [each.language for each in info.toolchains if each.available]
            raise LanguageUnavailable(
                language,
                f"{missing[language] or 'no toolchain'}. "
                f"Languages here: {', '.join(sorted(available)) or 'none'}",
            )
        if submission.source is not None and is_too_large(submission.source):
            raise InvalidRequest(
                f"the source of submission {index} has more than {SOURCE_BYTES_MAX} bytes"
            )
