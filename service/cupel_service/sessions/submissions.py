"""Submitting a file of a session: judged in an ordinary slot, and told in two voices.

The policy hears of public tests in detail and of hidden ones as counts. The trainer hears the
rewards and the whole judgement.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from cupel.schema import SOURCE_BYTES_MAX, Judgement, Language, RewardSpec, Submission, Verdict
from cupel.session_schema import (
    HiddenTests,
    PublicTestFeedback,
    SessionRequest,
    SubmitFeedback,
    SubmitRequest,
    SubmitResult,
)
from cupel_service.requests import InvalidRequest
from cupel_service.rewards import reward
from cupel_service.sessions.files import read_file
from cupel_service.sessions.session import Session
from cupel_service.suite import Suite, SuiteTest
from cupel_service.verdicts import SHOWN_BYTES_MAX

_ENDINGS = {
    ".c": Language.C,
    ".cc": Language.CPP,
    ".cpp": Language.CPP,
    ".cxx": Language.CPP,
    ".py": Language.PYTHON,
}

Judge = Callable[[Submission], Awaitable[tuple[Judgement, Suite]]]
"""Judges one submission by the dispatcher; says by which tests."""


async def submit(session: Session, request: SubmitRequest, judge: Judge) -> SubmitResult:
    """Judges a file.

    A judging error, or any other fault of ours, leaves the session as many submissions as before.

    Raises:
        NotThere: There is no such file.
        InvalidRequest: There is no problem, no submission left, or no such language.
        QueueFull: Judging is full; nothing was done.
    """
    if session.request.problem is None:
        raise InvalidRequest(
            "this session was opened without a problem: there is nothing to submit"
        )
    language = request.language or session.language or language_of(request.path)
    if session.submissions_left < 1:
        raise InvalidRequest("no submission is left in this session")
    session.submissions_left -= 1  # at once: two at one time must not share the last one
    counted = False
    try:
        content = await read_file(session, request.path, SOURCE_BYTES_MAX)
        source = content.decode("utf-8", "replace")
        with session.judging():
            judgement, suite = await judge(submission_of(session.request, language, source))
        counted = judgement.verdict is not Verdict.JE
    finally:
        session.submissions_left += not counted
    return SubmitResult(
        feedback=feedback(judgement, suite),
        rewards=rewards(judgement, session.request),
        judgement=judgement,
        source=source,
        submissions_left=session.submissions_left,
    )


def language_of(path: str) -> Language:
    """The language that a file's name tells.

    Raises:
        InvalidRequest: It tells none.
    """
    for ending, language in _ENDINGS.items():
        if path.endswith(ending):
            return language
    raise InvalidRequest("the file's name does not tell its language: say it (c, cpp or python)")


def submission_of(request: SessionRequest, language: Language, source: str) -> Submission:
    """The submission whose judgement yields all that a session answers."""
    if request.problem is None:
        raise ValueError("a session without a problem has no submissions")
    specs = list(specs_of(request).values())
    coverages = [spec.coverage for spec in specs if spec.coverage is not None]
    coverage = max(coverages) if specs and len(coverages) == len(specs) else None
    return Submission(
        problem=request.problem,
        language=language,
        source=source,
        stop=request.stop,
        coverage=coverage,
    )


def specs_of(request: SessionRequest) -> dict[str, RewardSpec]:
    """The rewards of a session, by name."""
    first = {} if request.reward is None else {"reward": request.reward}
    return first | request.extra_rewards


def rewards(judgement: Judgement, request: SessionRequest) -> dict[str, float | None] | None:
    """The rewards of a judgement; None if the session has none."""
    specs = specs_of(request)
    return {name: reward(judgement, spec) for name, spec in specs.items()} if specs else None


def feedback(judgement: Judgement, suite: Suite) -> SubmitFeedback:
    """What a policy may see of a judgement: nothing that the hidden tests hold, nor their names.

    Args:
        judgement: What the judge found.
        suite: The tests that it ran.
    """
    results = {result.name: result for result in judgement.tests}
    covered = suite.covered(judgement.coverage)
    hidden = [results.get(test.name) for test in covered if not test.public]
    judged = [result for result in hidden if result is not None and result.verdict != Verdict.JE]
    public = []
    for test in suite.tests:
        if not test.public:
            continue
        result = results.get(test.name)
        seen = result if result is not None and result.verdict != Verdict.JE else None
        public.append(
            PublicTestFeedback(
                name=test.name,
                verdict=seen.verdict if seen is not None else None,
                cpu_s=seen.cpu_s if seen is not None else None,
                exit_code=seen.exit_code if seen is not None else None,
                signal=seen.signal if seen is not None else None,
                input=_head(test, test.input),
                expected=_head(test, test.expected),
                actual=seen.stdout if seen is not None else None,
                stderr=seen.stderr if seen is not None else None,
            )
        )
    message = judgement.message
    if judgement.verdict is Verdict.JE:
        message = "judging error: not the program's fault, and not counted"
    return SubmitFeedback(
        verdict=judgement.verdict,
        message=message,
        compile=judgement.compile,
        public_tests=tuple(public),
        hidden_tests=HiddenTests(
            passed=sum(result.verdict is Verdict.AC for result in judged),
            judged=len(judged),
            total=len(hidden),
        ),
    )


def _head(test: SuiteTest, data: bytes) -> str:
    if not test.public:
        raise ValueError("a hidden test is never shown")
    return data[:SHOWN_BYTES_MAX].decode("utf-8", "replace")
