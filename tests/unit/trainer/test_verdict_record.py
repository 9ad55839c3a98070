from __future__ import annotations

import pytest

from cupel.schema import FailureClass, Judgement, Language, TestResult, TleKind, Verdict
from cupel_trainer.evaluate.records import JudgedSample, TierResult
from cupel_trainer.evaluate.verdict_record import is_settled, judged_sample, outcome_of


def result(tier: int, verdict: Verdict, cpu_s: float, **more: object) -> TestResult:
    fields = {"name": f"{tier}/{cpu_s}", "tier": tier, "verdict": verdict, "cpu_s": cpu_s}
    return TestResult.model_validate(fields | {"wall_s": cpu_s, "memory_bytes": 7} | more)


def judgement(*tests: TestResult, **more: object) -> Judgement:
    fields = {
        "id": "x",
        "problem": None,
        "language": "cpp",
        "verdict": "AC",
        "failure_class": "none",
        "complete": True,
        "coverage": 3,
        "tiers": 3,
        "tests_per_tier": (2, 1, 1),
        "cpu_s": max((test.cpu_s for test in tests), default=0),
        "wall_s": 1,
        "memory_bytes": 7,
        "tests": tests,
    }
    return Judgement.model_validate(fields | more)


def test_headroom_is_the_largest_share_of_the_limit_in_each_tier() -> None:
    record = judged_sample(
        judgement(
            result(1, Verdict.AC, 0.5),
            result(1, Verdict.AC, 1.0),
            result(2, Verdict.TLE, 2.2, tle_kind="cpu"),
            result(3, Verdict.TLE, 0.1, tle_kind="idle"),
            verdict="TLE",
            failure_class="optimization",
            first_failing_tier=2,
            endless=False,
        ),
        problem="sum",
        cpu_limit_s=2.0,
    )
    assert record == JudgedSample(
        problem="sum",
        sample=0,
        verdict=Verdict.TLE,
        failure_class=FailureClass.OPTIMIZATION,
        complete=True,
        language=Language.CPP,
        tiers=(
            TierResult(tests=2, passed=2, headroom=0.5),
            TierResult(tests=1, passed=0, headroom=1.1),
            TierResult(tests=1, passed=0, headroom=0.05),
        ),
        first_failing_tier=2,
        tle_kind=TleKind.CPU,
        endless=False,
        cpu_s=2.2,
        memory_bytes=7,
    )


def test_a_tier_that_never_ran_has_no_headroom() -> None:
    no_program = judgement(verdict="CE", failure_class="correctness", language=None)
    record = judged_sample(no_program, problem="sum", cpu_limit_s=2.0)
    assert record.tiers == (TierResult(tests=0, passed=0),) * 3
    assert outcome_of(record) is FailureClass.CORRECTNESS


def test_a_judging_error_is_no_test() -> None:
    broken = judgement(
        result(1, Verdict.AC, 0.5),
        result(1, Verdict.JE, 0),
        verdict="JE",
        failure_class="infrastructure",
        complete=False,
    )
    record = judged_sample(broken, problem="sum", cpu_limit_s=1.0)
    assert record.tiers[0] == TierResult(tests=1, passed=1, headroom=0.5)
    assert record.tiers[1].headroom is None


@pytest.mark.parametrize(
    ("verdict", "complete", "settled"),
    [("AC", True, True), ("WA", True, True), ("TLE", False, False), ("JE", False, False)],
)
def test_what_is_open_counts_as_infrastructure(verdict: str, complete: bool, settled: bool) -> None:
    classes = {"AC": "none", "WA": "correctness", "TLE": "optimization", "JE": "infrastructure"}
    judged = judgement(verdict=verdict, failure_class=classes[verdict], complete=complete)
    assert is_settled(judged) is settled
    record = judged_sample(judged, problem="sum", cpu_limit_s=1.0)
    counted = outcome_of(record)
    assert counted is (judged.failure_class if settled else FailureClass.INFRASTRUCTURE)
