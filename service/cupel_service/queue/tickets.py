"""An assignment as it is written down: what a process needs to judge it after another has died."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from cupel.schema import Problem, Submission
from cupel_service.queue.contract import Assignment
from cupel_service.suite import Suite


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
