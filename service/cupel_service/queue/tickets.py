"""An assignment as it is written down: what a process needs to judge it after another has died."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import BaseModel, ConfigDict, ValidationError

from cupel.schema import Limits, Problem, Submission, TokensChecker
from cupel_service.errors import ProblemUnknown, StoreFailed
from cupel_service.queue.contract import Assignment
from cupel_service.suite import Suite, prepare

SuiteOf = Callable[[str, str | None, bytes | None], Suite]
"""Finds a suite by its digest, the registered problem's id, and the inline problem as JSON.

Raises StoreFailed where it cannot be had (any more).
"""


class Ticket(BaseModel):
    """One assignment without its tests, which are found by their digest.

    Args:
        submission: As it came; an inline problem is replaced by its digest.
        submission_id: The id of its judgement.
        problem_id: The registered problem's id; None for an inline one.
        digest: SHA-256 of the problem, by which its suite is found.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    submission: Submission
    submission_id: str
    problem_id: str | None
    digest: str

    def assignment(self, suite: Suite) -> Assignment:
        """The assignment again, with the suite of that digest."""
        return Assignment(self.submission, self.submission_id, self.problem_id, suite)

    def assignment_without_tests(self) -> Assignment:
        """The assignment where its suite cannot be had: for its judging error only."""
        return self.assignment(
            Suite(
                tests=(),
                limits=Limits(),
                checker=TokensChecker(),
                tests_per_tier=(),
                digest=self.digest,
            )
        )


def ticket_of(assignment: Assignment) -> Ticket:
    """Writes an assignment down; an inline problem must be kept beside it."""
    submission = assignment.submission
    digest = assignment.suite.digest
    if isinstance(submission.problem, Problem):
        submission = submission.model_copy(update={"problem": digest})
    return Ticket(
        submission=submission,
        submission_id=assignment.submission_id,
        problem_id=assignment.problem_id,
        digest=digest,
    )


def inline_problem(assignment: Assignment) -> Problem | None:
    """The problem that came with the submission, if it did."""
    problem = assignment.submission.problem
    return problem if isinstance(problem, Problem) else None


def suites_from(registered: Callable[[str], Suite]) -> SuiteOf:
    """Finds suites of tickets.

    Args:
        registered: The suite of a registered problem as it is now, such as `ProblemStore.suite`.
    """

    def suite_of(digest: str, problem_id: str | None, inline: bytes | None) -> Suite:
        try:
            if problem_id is not None:
                suite = registered(problem_id)
            elif inline is not None:
                suite = prepare(Problem.model_validate_json(inline))
            else:
                raise StoreFailed("its inline problem is missing from the queue")
        except ProblemUnknown as error:
            raise StoreFailed(f"problem {problem_id!r} was deleted meanwhile") from error
        except ValidationError:
            raise StoreFailed("its inline problem is damaged") from None  # else it quotes tests
        if suite.digest != digest:
            raise StoreFailed(f"problem {problem_id!r} was replaced meanwhile")
        return suite

    return suite_of
