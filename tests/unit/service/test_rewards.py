from __future__ import annotations

from collections import Counter

import pytest

from cupel.schema import FailureClass, Judgement, RewardKind, RewardSpec, TestResult, Verdict
from cupel_service.rewards import needs_every_test, reward

ALL = RewardKind.ALL_OR_NOTHING
TESTS = RewardKind.TEST_FRACTION
TIERS = RewardKind.TIER_FRACTION
WEIGHTS = RewardKind.TIER_WEIGHTS


def judgement(
    *results: tuple[int, str], tests_per_tier: tuple[int, ...] | None = None, verdict: str = ""
) -> Judgement:
    """A judgement from (tier, verdict) pairs; its verdict is the first that is not AC."""
    counts = Counter(tier for tier, _ in results)
    per_tier = tests_per_tier or tuple(counts[tier] for tier in sorted(counts))
    first = next((name for _, name in results if name != "AC"), "AC")
    return Judgement(
        id="s",
        language=None,
        verdict=Verdict(verdict or first),
        failure_class=FailureClass.NONE,
        complete=True,
        coverage=len(per_tier),
        tiers=len(per_tier),
        tests_per_tier=per_tier,
        cpu_s=0,
        wall_s=0,
        memory_bytes=0,
        tests=tuple(
            TestResult(
                name=str(n), tier=tier, verdict=Verdict(name), cpu_s=0, wall_s=0, memory_bytes=0
            )
            for n, (tier, name) in enumerate(results)
        ),
    )


PERFECT = judgement((1, "AC"), (2, "AC"), (2, "AC"), (3, "AC"))
SLOW = judgement((1, "AC"), (1, "AC"), (2, "AC"), (2, "TLE"), (3, "AC"), (3, "TLE"), (3, "TLE"))
STOPPED = judgement((1, "AC"), (2, "WA"), tests_per_tier=(1, 3, 2))
BROKEN = judgement((1, "AC"), (1, "AC"), (2, "JE"), tests_per_tier=(2, 2))
PROVEN = judgement((1, "AC"), (1, "WA"), (2, "JE"), tests_per_tier=(2, 2))
NO_PROGRAM = judgement(tests_per_tier=(2, 2), verdict="CE")
NOTHING_RAN = judgement(tests_per_tier=(2, 2), verdict="JE")


def value(
    found: Judgement,
    kind: RewardKind,
    coverage: int | None = None,
    weights: tuple[float, ...] | None = None,
) -> float | None:
    return reward(found, RewardSpec(kind=kind, coverage=coverage, weights=weights))


@pytest.mark.parametrize(
    ("found", "kind", "coverage", "expected"),
    [
        (PERFECT, ALL, None, 1.0),
        (PERFECT, ALL, 2, 1.0),
        (PERFECT, TESTS, None, 1.0),
        (PERFECT, TIERS, None, 1.0),
        (SLOW, ALL, 1, 1.0),
        (SLOW, ALL, 2, 0.0),
        (SLOW, ALL, None, 0.0),
        (SLOW, TESTS, None, 4 / 7),
        (SLOW, TESTS, 1, 1.0),
        (SLOW, TESTS, 2, 3 / 4),
        (SLOW, TESTS, 99, 4 / 7),  # beyond the last tier: all of them
        (SLOW, TIERS, None, 1 / 3),
        (SLOW, TIERS, 2, 1 / 2),
        (STOPPED, ALL, 1, 1.0),
        (STOPPED, ALL, 2, 0.0),
        (STOPPED, ALL, 3, 0.0),
        (STOPPED, TESTS, 1, 1.0),
        (NO_PROGRAM, ALL, None, 0.0),
        (NO_PROGRAM, TESTS, None, 0.0),
        (NO_PROGRAM, TIERS, 1, 0.0),
        (BROKEN, ALL, 1, 1.0),  # the judging error lies beyond the coverage
        (BROKEN, TESTS, 1, 1.0),
        (BROKEN, ALL, 2, None),
        (BROKEN, TESTS, 2, None),
        (BROKEN, TIERS, None, None),
        (PROVEN, ALL, 1, 0.0),
        (PROVEN, ALL, 2, 0.0),  # a failure stays proven whatever judging error follows
        (PROVEN, TESTS, 2, None),
        (PROVEN, TESTS, 1, 0.5),
        (NOTHING_RAN, ALL, 1, None),
        (NOTHING_RAN, TESTS, 1, None),
        (NOTHING_RAN, TIERS, None, None),
    ],
)
def test_rewards_by_hand(
    found: Judgement, kind: RewardKind, coverage: int | None, expected: float | None
) -> None:
    assert value(found, kind, coverage) == expected


@pytest.mark.parametrize(
    ("found", "coverage", "weights", "expected"),
    [
        (SLOW, None, (1, 2, 5), 1 / 8),
        (SLOW, 2, (1, 3), 1 / 4),
        (PERFECT, None, (0.1, 0.2, 0.4), 1.0),
        (judgement((1, "WA"), (2, "AC")), None, (1, 3), 3 / 4),
        (judgement((1, "WA"), (2, "AC")), None, (1, 0), 0.0),
        (NO_PROGRAM, None, (1, 3), 0.0),
        (BROKEN, 2, (1, 3), None),
    ],
)
def test_tier_weights_by_hand(
    found: Judgement, coverage: int | None, weights: tuple[float, ...], expected: float | None
) -> None:
    assert value(found, WEIGHTS, coverage, weights) == expected


@pytest.mark.parametrize("found", [PERFECT, NO_PROGRAM])
def test_weights_must_be_as_many_as_the_covered_tiers(found: Judgement) -> None:
    with pytest.raises(ValueError, match="one weight per covered tier"):
        value(found, WEIGHTS, None, (1.0,))


@pytest.mark.parametrize("weights", [None, (1.0, 2.0)])
@pytest.mark.parametrize("coverage", [None, 1, 2])
def test_a_judging_error_that_does_not_know_its_problem_is_no_reward(
    coverage: int | None, weights: tuple[float, ...] | None
) -> None:
    lost = judgement(tests_per_tier=(), verdict="JE")
    kinds = [WEIGHTS] if weights else [ALL, TESTS, TIERS]
    assert [value(lost, kind, coverage, weights) for kind in kinds] == [None] * len(kinds)


@pytest.mark.parametrize("kind", [TESTS, TIERS])
def test_what_counts_tests_needs_every_test(kind: RewardKind) -> None:
    with pytest.raises(ValueError, match="2 of 4 tests judged; judge with stop `never`"):
        value(STOPPED, kind, 2)


def test_a_judgement_at_a_lower_coverage_decides_no_higher_one() -> None:
    low = judgement((1, "AC"), tests_per_tier=(1, 3)).model_copy(update={"coverage": 1})
    assert value(low, ALL, 1) == 1.0
    with pytest.raises(ValueError, match="judge with coverage 2 or more"):
        value(low, ALL, 2)


def test_only_all_or_nothing_may_stop_early() -> None:
    assert not needs_every_test(RewardSpec())
    assert needs_every_test(RewardSpec(kind=TESTS))
    assert needs_every_test(RewardSpec(kind=TIERS))
    assert needs_every_test(RewardSpec(kind=WEIGHTS, weights=(1.0,)))
