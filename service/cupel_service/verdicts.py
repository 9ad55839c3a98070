"""From outcomes to verdicts: pure functions, and the numbers behind them.

CPU time decides TLE. A program is killed at 1.1 times its limit; one that finishes between 1.0 and
1.1 may be measured again, and then the smaller CPU time decides.
"""

from __future__ import annotations

import math

from cupel.schema import Limits, TestResult, TleKind, Verdict
from cupel_sandbox.box import Limit, Outcome, RunLimits
from cupel_service.checkers import check
from cupel_service.languages import LanguageSetup
from cupel_service.suite import Suite, SuiteTest

KILL_AT = 1.1
"""A program is killed at this multiple of its CPU limit."""
SHOWN_BYTES_MAX = 4096
"""How much of what a program printed in a public test its result holds."""


def cpu_limit_s(limits: Limits, setup: LanguageSetup) -> float:
    """The CPU time above which a test is TLE, in seconds."""
    return limits.cpu_s * setup.time_factor


def run_limits(
    limits: Limits, setup: LanguageSetup, time_multiple: float | None = None
) -> RunLimits:
    """What the box enforces for one test.

    Args:
        limits: The problem's limits.
        setup: The language, whose factors multiply CPU time, wall time and memory.
        time_multiple: If given, the program is killed at this multiple of both time limits; else
            at 1.1 times the limit of CPU time, and at the limit of wall time.

    Returns:
        The limits of the run.
    """
    return RunLimits(
        cpu_s=cpu_limit_s(limits, setup) * (time_multiple or KILL_AT),
        wall_s=limits.effective_wall_s * setup.time_factor * (time_multiple or 1.0),
        memory_bytes=int(limits.memory_bytes * setup.memory_factor),
        processes=limits.processes,
        output_bytes=limits.output_bytes,
    )


def is_near_limit(outcome: Outcome, limit_s: float) -> bool:
    """Whether a run finished by itself between 1.0 and 1.1 times its CPU limit."""
    return outcome.limit is None and limit_s < outcome.cpu_s <= KILL_AT * limit_s


def assess(outcome: Outcome, test: SuiteTest, suite: Suite, limit_s: float) -> TestResult:
    """Says how a program did in one test.

    Args:
        outcome: How its run ended.
        test: The test that it ran on.
        suite: The test's suite, for its checker and output limit.
        limit_s: The CPU limit in seconds, with the language's factor.

    Returns:
        The test's result, of one measurement.
    """
    kind = _tle_kind(outcome, limit_s)
    return TestResult(
        name=test.name,
        tier=test.tier,
        verdict=_verdict(outcome, kind, test, suite),
        cpu_s=outcome.cpu_s,
        wall_s=outcome.wall_s,
        memory_bytes=outcome.memory_bytes,
        exit_code=outcome.exit_code,
        signal=outcome.signal,
        tle_kind=None if outcome.limit is Limit.MEMORY else kind,
        stdout=_shown(outcome.stdout[:SHOWN_BYTES_MAX]) if test.public else None,
        stderr=_shown(outcome.stderr[-SHOWN_BYTES_MAX:]) if test.public else None,
    )


def assess_twice(
    first: Outcome, second: Outcome, test: SuiteTest, suite: Suite, limit_s: float
) -> TestResult:
    """Says how a program did in a test that it finished near the time limit and ran once more.

    Args:
        first: Its first run, which finished by itself above the limit.
        second: Its second run.
        test: The test that it ran on.
        suite: The test's suite.
        limit_s: The CPU limit in seconds, with the language's factor.

    Returns:
        TLE if both took too long; else what is wrong with either run, the second one first.
    """
    if second.cpu_s > limit_s:
        faster = min(first, second, key=lambda outcome: outcome.cpu_s)
        return assess(faster, test, suite, limit_s).model_copy(update={"measurements": 2})
    result = assess(second, test, suite, limit_s)
    verdict = result.verdict
    if verdict is Verdict.AC:
        # The first run was too slow, perhaps by bad luck; a wrong output is no matter of luck.
        verdict = assess(first, test, suite, math.inf).verdict
    return result.model_copy(update={"measurements": 2, "verdict": verdict})


def _shown(printed: bytes) -> str:
    return printed.decode("utf-8", "replace")


def _tle_kind(outcome: Outcome, limit_s: float) -> TleKind | None:
    if outcome.limit is Limit.CPU or outcome.cpu_s > limit_s:
        return TleKind.CPU
    return TleKind.IDLE if outcome.limit is Limit.WALL else None


def _verdict(outcome: Outcome, kind: TleKind | None, test: SuiteTest, suite: Suite) -> Verdict:
    if outcome.limit is Limit.MEMORY:
        return Verdict.MLE
    if kind is not None:
        return Verdict.TLE
    # By bytes written, not by what was kept: a truncated output proves nothing.
    flooded = outcome.stdout_bytes > suite.limits.output_bytes
    if flooded or outcome.limit in (Limit.OUTPUT, Limit.FILE_SIZE):
        return Verdict.OLE
    if outcome.signal is not None or outcome.exit_code != 0:
        return Verdict.RTE
    if not check(suite.checker, outcome.stdout, test.expected):
        return Verdict.WA
    return Verdict.AC
