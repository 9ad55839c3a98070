"""Rewards: pure functions from a judgement to a number in [0, 1], or None where there is none.

A judging error is never a reward: what it leaves undecided is None, which trainers mask.
"""

from __future__ import annotations

from collections import Counter

from cupel.schema import Judgement, RewardKind, RewardSpec, Verdict


def needs_every_test(spec: RewardSpec) -> bool:
    """Whether a reward counts tests or tiers, so that judging must use stop `never`."""
    return spec.kind is not RewardKind.ALL_OR_NOTHING


def reward(judgement: Judgement, spec: RewardSpec) -> float | None:
    """The reward of one judgement.

    A coverage beyond the last tier means all tiers. A program that does not compile, or a
    completion without one, is worth 0.

    * `all_or_nothing`: 1 if every covered test passed, 0 if one failed, whatever else is unknown.
    * `test_fraction`: the part of the covered tests that passed.
    * `tier_fraction`: the part of the covered tiers whose tests all passed.
    * `tier_weights`: the same with each tier's weight, over the sum of the weights.

    Args:
        judgement: What the judge found.
        spec: Which reward, at which coverage.

    Returns:
        The reward, or None if a judging error leaves it undecided.

    Raises:
        ValueError: The judgement does not hold the tests that this reward counts, or the weights
            are not as many as the covered tiers.
    """
    if judgement.verdict is Verdict.JE and not judgement.tests:
        return None  # nothing was judged; even the number of tiers may be unknown
    coverage = min(spec.coverage or judgement.tiers, judgement.tiers)
    weights = _weights(spec, coverage)
    if judgement.verdict is Verdict.CE:
        return 0.0
    covered = [test for test in judgement.tests if test.tier <= coverage]
    verdicts = {test.verdict for test in covered}
    if spec.kind is RewardKind.ALL_OR_NOTHING and verdicts - {Verdict.AC, Verdict.JE}:
        return 0.0
    tests = sum(judgement.tests_per_tier[:coverage])
    if Verdict.JE in verdicts or (judgement.verdict is Verdict.JE and len(covered) < tests):
        return None
    if len(covered) < tests:
        raise ValueError(_missing(judgement, spec, coverage, len(covered), tests))
    passed = Counter(test.tier for test in covered if test.verdict is Verdict.AC)
    if spec.kind is RewardKind.TEST_FRACTION:
        return passed.total() / tests
    if spec.kind is RewardKind.ALL_OR_NOTHING:
        return 1.0
    won = sum(
        weight
        for tier, weight in enumerate(weights, start=1)
        if passed[tier] == judgement.tests_per_tier[tier - 1]
    )
    return won / sum(weights)


def check_weights(spec: RewardSpec, tiers: int) -> str:
    """What is wrong with a reward's weights for a problem of so many tiers; empty if nothing."""
    covered = min(spec.coverage or tiers, tiers)
    if spec.weights is None or len(spec.weights) == covered:
        return ""
    return (
        f"has {len(spec.weights)} weights, but {covered} tiers of the problem are covered: "
        "give one weight per covered tier"
    )


def _weights(spec: RewardSpec, coverage: int) -> tuple[float, ...]:
    """One weight per covered tier; equal ones where the reward brings none."""
    if spec.weights is None:
        return (1.0,) * coverage
    if len(spec.weights) != coverage:
        raise ValueError(
            f"tier_weights needs one weight per covered tier: {coverage} tiers are covered, "
            f"but there are {len(spec.weights)} weights"
        )
    return spec.weights


def _missing(judgement: Judgement, spec: RewardSpec, coverage: int, judged: int, tests: int) -> str:
    if judgement.coverage < coverage:
        remedy = f"judge with coverage {coverage} or more (this one has {judgement.coverage})"
    else:
        remedy = "judge with stop `never`"
    return f"reward {spec.kind} at coverage {coverage}: {judged} of {tests} tests judged; {remedy}"
