"""A program's way through the tests of a suite: what runs next, what runs again, when it ends."""

from __future__ import annotations

from cupel.schema import Stop, Submission, TestResult, TleKind, Verdict
from cupel_sandbox.box import Limit, Outcome, Run
from cupel_sandbox.errors import BoxLost, BoxRefused
from cupel_service.languages import LanguageSetup
from cupel_service.program import Fault, Program
from cupel_service.suite import Suite, SuiteTest
from cupel_service.verdicts import assess, assess_twice, cpu_limit_s, is_near_limit, run_limits

REMEASUREMENTS_MAX = 3
"""How many tests of one submission may be measured again near the time limit."""
ENDLESS_MULTIPLE = 10.0
"""A program that is not done at this multiple of the time limit is taken for endless."""


class SuiteRun:
    """One program on the tests of one suite; its results stay readable if it ends by an exception.

    Args:
        program: The program, compiled.
        setup: Its language.
        suite: The problem's tests.
        submission: For its stop rule.
        coverage: Only tiers 1..coverage are run.
    """

    def __init__(
        self,
        program: Program,
        setup: LanguageSetup,
        suite: Suite,
        submission: Submission,
        coverage: int,
    ) -> None:
        self.results: list[TestResult] = []
        self._program = program
        self._setup = setup
        self._suite = suite
        self._stop = submission.stop
        self._tests = suite.covered(coverage)
        self._limit_s = cpu_limit_s(suite.limits, setup)
        self._remeasured = 0

    def run(self) -> None:
        """Runs the tests in order until they are over or the stop rule ends them.

        Raises:
            SandboxError: The next test could not be run, by no fault of the program.
            JudgingError: It was interrupted too often, or no box can be had.
        """
        while not self.ended:
            try:
                again = self._run_stretch()
            except (BoxLost, BoxRefused) as error:
                self._conclude_alone(interruptions=int(isinstance(error, BoxLost)))
                continue
            if again is not None:
                self._conclude(again)

    @property
    def ended(self) -> bool:
        """Whether the tests are over, or the stop rule ends them here."""
        done = len(self.results)
        if done == len(self._tests):
            return True
        failing = next((each for each in self.results if each.verdict is not Verdict.AC), None)
        if failing is None or self._stop is Stop.NEVER:
            return False
        return self._stop is Stop.FIRST_FAILURE or self._tests[done].tier > failing.tier

    def fail(self) -> None:
        """Gives the test that was going a judging error (JE), and so ends the run."""
        self.results.append(_without_outcome(self._next, Verdict.JE))

    def probe_endless(self) -> bool | None:
        """Runs the first TLE of the smallest tier again, at ten times the limit.

        Returns:
            Whether it was still too slow; None if there was no such test.

        Raises:
            SandboxError: As for `run`.
            JudgingError: As for `run`.
        """
        for test, result in zip(self._tests, self.results, strict=False):
            if test.tier == 1 and result.tle_kind is TleKind.CPU:
                outcome = self._program.run_alone(self._run_of(test, ENDLESS_MULTIPLE))
                if isinstance(outcome, Fault):
                    return None
                return outcome.limit in (Limit.CPU, Limit.WALL)
        return None

    @property
    def _next(self) -> SuiteTest:
        return self._tests[len(self.results)]

    def _run_stretch(self) -> Outcome | None:
        """Runs tests, one sent ahead, up to the stop rule or to one that must run again.

        Returns:
            The outcome near the time limit that is to be measured again, if one ended the stretch.
        """
        tests = self._tests[len(self.results) :]
        outcomes = self._program.run_many(self._run_of(test) for test in tests)
        try:
            for test, outcome in zip(tests, outcomes, strict=True):
                if self._is_worth_remeasuring(outcome):
                    return outcome
                self.results.append(assess(outcome, test, self._suite, self._limit_s))
                if self.ended:
                    break
        finally:
            self._program.abandon(outcomes)
        return None

    def _conclude_alone(self, interruptions: int) -> None:
        """Judges the next test, whose run had no outcome, by a run of its own."""
        run = self._run_of(self._next)
        outcome = self._program.run_alone(run, interruptions=interruptions)
        if isinstance(outcome, Fault):
            self.results.append(_without_outcome(self._next, Verdict.RTE, outcome))
        else:
            self._conclude(outcome)

    def _conclude(self, first: Outcome) -> None:
        """Judges the next test by its outcome, after a second measurement if it needs one."""
        test = self._next
        if not self._is_worth_remeasuring(first):
            self.results.append(assess(first, test, self._suite, self._limit_s))
            return
        self._remeasured += 1
        second = self._program.run_alone(self._run_of(test))
        if isinstance(second, Fault):
            self.results.append(_without_outcome(test, Verdict.RTE, second))
        else:
            self.results.append(assess_twice(first, second, test, self._suite, self._limit_s))

    def _is_worth_remeasuring(self, outcome: Outcome) -> bool:
        return self._remeasured < REMEASUREMENTS_MAX and is_near_limit(outcome, self._limit_s)

    def _run_of(self, test: SuiteTest, multiple: float | None = None) -> Run:
        return Run(
            argv=self._setup.run_argv,
            stdin=test.input,
            limits=run_limits(self._suite.limits, self._setup, multiple),
            environment=self._setup.environment,
            memory_baseline_bytes=self._setup.memory_baseline_bytes,
        )


def _without_outcome(test: SuiteTest, verdict: Verdict, fault: Fault | None = None) -> TestResult:
    return TestResult(
        name=test.name,
        tier=test.tier,
        verdict=verdict,
        cpu_s=0.0,
        wall_s=0.0,
        memory_bytes=0,
        flags=() if fault is None else (str(fault),),
    )
