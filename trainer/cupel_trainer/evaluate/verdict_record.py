"""From a judgement to the line of a file of verdicts."""

from __future__ import annotations

from collections.abc import Sequence

from cupel.schema import FailureClass, Judgement, TestResult, TleKind, Verdict
from cupel_trainer.evaluate.records import JudgedSample, TierResult


def is_settled(judged: Judgement | JudgedSample) -> bool:
    """Whether nothing remains to be learnt of a sample.

    A judging error leaves it open, also one that came after a failure was proven: a later test
    could still have shown a failure of another class.
    """
    return judged.complete and judged.verdict is not Verdict.JE


def judged_sample(judgement: Judgement, *, problem: str, cpu_limit_s: float) -> JudgedSample:
    """The record of a judgement, without what only the sample and its problem set know.

    Args:
        judgement: Of every test (stop `never`).
        problem: The problem's id.
        cpu_limit_s: The problem's CPU limit in seconds.

    Returns:
        The record of sample 0: give it its number, tokens, difficulty and date.
    """
    outcomes = [test for test in judgement.tests if test.verdict is not Verdict.JE]
    return JudgedSample(
        problem=problem,
        sample=0,
        verdict=judgement.verdict,
        failure_class=judgement.failure_class,
        complete=judgement.complete,
        language=judgement.language,
        tiers=tuple(
            _tier_result([test for test in outcomes if test.tier == tier], cpu_limit_s)
            for tier in range(1, judgement.coverage + 1)
        ),
        first_failing_tier=judgement.first_failing_tier,
        tle_kind=_first_tle_kind(outcomes),
        endless=judgement.endless,
        cpu_s=judgement.cpu_s,
        memory_bytes=judgement.memory_bytes,
    )


def _tier_result(tests: Sequence[TestResult], cpu_limit_s: float) -> TierResult:
    return TierResult(
        tests=len(tests),
        passed=sum(test.verdict is Verdict.AC for test in tests),
        headroom=max((test.cpu_s / cpu_limit_s for test in tests), default=None),
    )


def _first_tle_kind(tests: Sequence[TestResult]) -> TleKind | None:
    return next((test.tle_kind for test in tests if test.verdict is Verdict.TLE), None)


def outcome_of(judged: JudgedSample) -> FailureClass:
    """What a sample counts as; what is not settled counts as infrastructure."""
    return judged.failure_class if is_settled(judged) else FailureClass.INFRASTRUCTURE
