"""What a step brings the judge: how long answers are, and how long each keeps a box.

Measured where there is a run to replay: the file of verdicts of a checkpoint holds both for every
sample. Else a default, which says so: lengths from a log-normal distribution, verdict times from
submissions that `bench/verdict_times.py` measured, drawn by a mix of outcomes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import numpy as np
from pydantic import Field

from cupel.schema import Language, Verdict
from cupel_trainer.errors import RecordsError
from cupel_trainer.evaluate.record_file import read_header, read_lines
from cupel_trainer.evaluate.records import JudgedSample, Record, VerdictsHeader

TEST_OVERHEAD_S = 0.002
"""What a box takes per test beside the program's own CPU time (`bench/floor.py`: 1 to 2 ms)."""
KILLED_AT = 1.1
"""A program is killed at this multiple of its CPU limit (docs/api.md)."""
DEFAULT_MEDIAN_SHARE = 0.25
"""Median length over the longest allowed; an assumption, with `DEFAULT_SIGMA`, not a measurement:
one answer in 42 then meets the limit."""
DEFAULT_SIGMA = 0.7


@dataclass(frozen=True, slots=True)
class Rollout:
    """One answer.

    Args:
        tokens: Its length.
        judging_s: How long its judgement keeps a box.
        tests: How many tests are run for it.
    """

    tokens: int
    judging_s: float
    tests: int


class VerdictTime(Record):
    """One measured submission: a line of `verdict_times.jsonl`."""

    language: Language
    verdict: Verdict
    tests: int = Field(ge=0, description="Tests judged.")
    compile_s: float = Field(ge=0, description="CPU time of the compiler.")
    cpu_limit_s: float = Field(gt=0, description="The problem's limit.")
    run_s: float = Field(ge=0, description="CPU time of all tests; wall time of idle ones.")


@dataclass(frozen=True, slots=True)
class Suite:
    """What a training problem's tests are like.

    Args:
        tests: Tests of the coverage that is rewarded.
        cpu_limit_s: Per test.
        every_test: Judge on after the first failure: rewards that count tests or tiers do so.
    """

    tests: int
    cpu_limit_s: float = 2.0
    every_test: bool = False


@dataclass(frozen=True, slots=True)
class Mix:
    """Shares of outcomes among the answers of a policy in training; the rest is too slow.

    The default is an assumption: a policy that solves a third and is wrong about half.
    """

    accepted: float = 0.35
    wrong: float = 0.45


@dataclass(frozen=True, slots=True)
class Workload:
    """Answers to draw from, and where they come from, for whoever reads the figures."""

    source: str
    rollouts: Sequence[Rollout] = field(repr=False)

    def draw(self, count: int, random: np.random.Generator) -> list[Rollout]:
        """Draws answers with replacement.

        Args:
            count: How many.
            random: Where chance comes from.
        """
        return [self.rollouts[index] for index in random.integers(len(self.rollouts), size=count)]

    @property
    def mean_tokens(self) -> float:
        """Mean length."""
        return math.fsum(each.tokens for each in self.rollouts) / len(self.rollouts)

    @property
    def mean_judging_s(self) -> float:
        """Mean time in a box."""
        return math.fsum(each.judging_s for each in self.rollouts) / len(self.rollouts)

    @property
    def mean_tests(self) -> float:
        """Mean number of tests that are run."""
        return math.fsum(each.tests for each in self.rollouts) / len(self.rollouts)


def judging_s(time: VerdictTime, suite: Suite) -> tuple[float, int]:
    """What a measured submission would take with a training problem's tests.

    What is kept is its CPU time over the limit. An accepted program runs all tests, each as long
    as its own took in the mean. One that is wrong, or too slow, ends with the test that it ended
    with. Where every test is judged, both run all; the slow one is taken to be too slow in half.

    Args:
        time: The submission.
        suite: The tests.

    Returns:
        Seconds in a box, and tests run.
    """
    if time.tests == 0:
        return time.compile_s, 0
    scale = suite.cpu_limit_s / time.cpu_limit_s
    accepted, slow = time.verdict is Verdict.AC, time.verdict is Verdict.TLE
    tests = suite.tests if accepted or suite.every_test else min(time.tests, suite.tests)
    killed = 0
    passing_s = time.run_s / time.tests
    if slow:
        killed = math.ceil(tests / 2) if suite.every_test else 1
        # Never negative, whatever was rounded or overran.
        passing_s = max(0.0, time.run_s - KILLED_AT * time.cpu_limit_s) / max(1, time.tests - 1)
    run_s = killed * KILLED_AT * suite.cpu_limit_s + (tests - killed) * passing_s * scale
    return time.compile_s + run_s + tests * TEST_OVERHEAD_S, tests


def measured_times() -> tuple[VerdictTime, ...]:
    """The submissions that the default is drawn from."""
    lines = (files(__package__) / "verdict_times.jsonl").read_text("utf-8").splitlines()
    return tuple(VerdictTime.model_validate_json(line) for line in lines)


def default_workload(
    max_tokens: int,
    suite: Suite,
    *,
    language: Language | None = None,
    mix: Mix | None = None,
    count: int = 20_000,
    seed: int = 0,
) -> Workload:
    """Answers as they may be where nothing was measured.

    Args:
        max_tokens: The longest answer that the recipe allows.
        suite: The tests of its problems.
        language: Of the answers; of any if None.
        mix: Shares of outcomes.
        count: How many answers stand for the distribution.
        seed: Of the draw.
    """
    mix = mix or Mix()
    random = np.random.default_rng(seed)
    median = max(1.0, DEFAULT_MEDIAN_SHARE * max_tokens)
    drawn = random.lognormal(math.log(median), DEFAULT_SIGMA, size=count)
    lengths = np.clip(drawn, 1, max_tokens).astype(int).tolist()
    groups = _by_outcome([t for t in measured_times() if language in (None, t.language)])
    shares = {"accepted": mix.accepted, "wrong": mix.wrong}
    shares["slow"] = max(0.0, 1.0 - mix.accepted - mix.wrong)
    names = [name for name in shares if groups[name]]
    weights = np.array([shares[name] for name in names])
    outcomes = random.choice(len(names), size=count, p=weights / weights.sum())
    rollouts = []
    for length, outcome in zip(lengths, outcomes, strict=True):
        group = groups[names[outcome]]
        seconds, tests = judging_s(group[random.integers(len(group))], suite)
        # An answer that was cut holds no program, which takes no box.
        whole = length < max_tokens
        rollouts.append(Rollout(length, seconds if whole else 0.0, tests if whole else 0))
    source = (
        f"assumed lengths (median {median:.0f} of at most {max_tokens} tokens), "
        f"{len(measured_times())} measured submissions with {suite.tests} tests each"
    )
    return Workload(source, rollouts)


def replayed_workload(paths: Iterable[Path]) -> Workload:
    """Answers of a checkpoint as they were sampled and judged: files of verdicts.

    A verdict's line holds the largest CPU time of each tier, not the sum over its tests: every
    test is taken to have used the largest of its tier, so the judge is asked for more than it was.
    What the compiler took is not in the file; it is taken to be the mean of those measured.

    Args:
        paths: The files.

    Raises:
        RecordsError: One cannot be read, or there is no sample in them.
    """
    compile_s = _mean_compile_s()
    rollouts = []
    names = []
    for path in paths:
        read_header(path, VerdictsHeader)
        names.append(path.name)
        rollouts += [_replayed(line.record, compile_s) for line in read_lines(path, JudgedSample)]
    if not rollouts:
        raise RecordsError("there is no judged sample to replay: name files of verdicts")
    return Workload(f"replayed from {', '.join(names)} ({len(rollouts)} samples)", rollouts)


def _replayed(sample: JudgedSample, compile_s: Mapping[Language | None, float]) -> Rollout:
    largest = max((tier.headroom or 0.0 for tier in sample.tiers), default=0.0)
    limit_s = sample.cpu_s / largest if largest else 0.0
    run_s = sum(tier.tests * (tier.headroom or 0.0) * limit_s for tier in sample.tiers)
    tests = sum(tier.tests for tier in sample.tiers)
    seconds = compile_s.get(sample.language, 0.0) + run_s + tests * TEST_OVERHEAD_S
    return Rollout(max(1, sample.completion_tokens), seconds, tests)


def _by_outcome(times: Sequence[VerdictTime]) -> dict[str, list[VerdictTime]]:
    groups: dict[str, list[VerdictTime]] = {"accepted": [], "wrong": [], "slow": []}
    for time in times:
        if time.verdict is Verdict.AC:
            groups["accepted"].append(time)
        else:
            groups["slow" if time.verdict is Verdict.TLE else "wrong"].append(time)
    return groups


def _mean_compile_s() -> dict[Language | None, float]:
    found: dict[Language | None, list[float]] = {}
    for time in measured_times():
        if time.tests:
            found.setdefault(time.language, []).append(time.compile_s)
    return {language: math.fsum(each) / len(each) for language, each in found.items()}
