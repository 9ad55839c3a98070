"""The judge: one submission, one suite, one slot, and the judgement that comes of them.

What a program does wrong is a verdict. What Cupel does wrong is an exception, and becomes a
judging error (JE) in one place: `judge`. A failure that was proven before a JE stays proven.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cupel.schema import (
    FAILURE_CLASS,
    CompileResult,
    FailureClass,
    Judgement,
    Language,
    Submission,
    TestResult,
    Verdict,
)
from cupel_sandbox.errors import SandboxError
from cupel_service.errors import LanguageUnavailable, ServiceError
from cupel_service.extract import Extracted, extract_program
from cupel_service.faults import frames_of
from cupel_service.languages import LanguageSetup
from cupel_service.program import Program, Slot
from cupel_service.suite import Suite
from cupel_service.suite_run import SuiteRun

__all__ = ["Slot", "judge", "program_of"]

logger = logging.getLogger(__name__)


def program_of(submission: Submission) -> Extracted:
    """Finds a submission's program: its source as it is, or what its completion answers.

    Args:
        submission: As it came over the wire.

    Returns:
        The program with its language, or the reason why there is none that could be judged.
    """
    if submission.completion is not None:
        found = extract_program(submission.completion, submission.language)
    else:
        found = Extracted(submission.language, submission.source)
    if found.source is not None and "\0" in found.source:
        return Extracted(found.language, None, "the source holds NUL bytes")
    return found


def judge(
    submission: Submission,
    suite: Suite,
    slot: Slot,
    languages: Mapping[Language, LanguageSetup],
    *,
    submission_id: str,
    problem_id: str | None,
    degraded: tuple[str, ...] = (),
) -> Judgement:
    """Judges one submission and leaves the slot's box as if it were new.

    Args:
        submission: The program, and how far to judge it. A coverage beyond the suite's last tier
            means all tiers.
        suite: The problem's tests.
        slot: Where the program runs; used by nobody else until this returns.
        languages: The languages that this host has.
        submission_id: The judgement's id, and the submission's in the log.
        problem_id: The registered problem's id, or None for an inline one.
        degraded: Isolation layers given up by name, for the record.

    Returns:
        The judgement. A fault of Cupel's own is in it too, as JE with a message.

    Raises:
        LanguageUnavailable: This host has no toolchain for the program's language.
    """
    judging = _Judging(submission, suite)
    try:
        judging.run(slot, languages)
    except LanguageUnavailable:
        raise
    except Exception as error:  # noqa: BLE001 (the one place where a fault of ours becomes JE)
        # Not the message: it may quote a program or a test.
        logger.error(
            "submission %s: judging raised %s at %s",
            submission_id,
            type(error).__name__,
            frames_of(error),
        )
        judging.fail(error)
    return judging.judgement(submission_id, problem_id, degraded)


@dataclass(slots=True)
class _Judging:
    """What is known of one submission so far, whatever happens next."""

    submission: Submission
    suite: Suite
    language: Language | None = None
    compile: CompileResult | None = None
    tests: SuiteRun | None = None
    endless: bool | None = None
    no_program: str = ""
    error: str = ""

    def run(self, slot: Slot, languages: Mapping[Language, LanguageSetup]) -> None:
        """Finds the program, compiles it, and runs it on the tests."""
        found = program_of(self.submission)
        self.language = found.language
        if found.source is None or found.language is None:
            self.no_program = found.reason
            return
        if found.language not in languages:
            raise LanguageUnavailable(found.language)
        setup = languages[found.language]
        # The wire holds no lone surrogates; were one to come another way, it must not be a JE.
        program = Program(slot, setup, found.source.encode("utf-8", "surrogatepass"))
        try:
            self._run_program(program, setup)
        finally:
            program.leave()

    def _run_program(self, program: Program, setup: LanguageSetup) -> None:
        self.compile = program.compile()
        if self.compile is not None and not self.compile.ok:
            self.no_program = "the program does not compile"
            return
        self.tests = SuiteRun(program, setup, self.suite, self.submission, self.coverage)
        self.tests.run()
        if self.submission.probe_endless:
            self.endless = self.tests.probe_endless()

    def fail(self, error: Exception) -> None:
        """Notes a fault of Cupel's own: the test that was going becomes JE."""
        what = f"unexpected {type(error).__name__}; the log has it under this submission's id"
        if isinstance(error, SandboxError | ServiceError):
            what = str(error)
        self.error = f"judging error, not the program's fault: {what}"
        if self.tests is not None and not self.tests.ended:
            self.tests.fail()

    @property
    def coverage(self) -> int:
        """The tiers that are judged: 1..coverage."""
        return min(self.submission.coverage or self.suite.tiers, self.suite.tiers)

    def judgement(
        self, submission_id: str, problem_id: str | None, degraded: tuple[str, ...]
    ) -> Judgement:
        """Says what all of it amounts to.

        A judgement is complete if nothing remains to be learnt: every test of the coverage was
        judged, or there is no program that compiles (CE then holds for every test).
        """
        results = self.tests.results if self.tests is not None else []
        verdict = self._verdict(results)
        proven = [each for each in results if each.verdict not in (Verdict.AC, Verdict.JE)]
        outcomes = [each for each in results if each.verdict is not Verdict.JE]
        return Judgement(
            id=submission_id,
            problem=problem_id,
            language=self.language,
            verdict=verdict,
            failure_class=_failure_class(verdict, results),
            complete=bool(self.no_program)
            or len(outcomes) == len(self.suite.covered(self.coverage)),
            coverage=self.coverage,
            tiers=self.suite.tiers,
            tests_per_tier=self.suite.tests_per_tier,
            first_failing_tier=proven[0].tier if proven else None,
            endless=self.endless,
            cpu_s=max((each.cpu_s for each in results), default=0.0),
            wall_s=max((each.wall_s for each in results), default=0.0),
            memory_bytes=max((each.memory_bytes for each in results), default=0),
            compile=self.compile,
            tests=tuple(results),
            message=self.error or self.no_program,
            degraded=degraded,
        )

    def _verdict(self, results: Sequence[TestResult]) -> Verdict:
        if self.no_program:
            return Verdict.CE
        for result in results:  # a JE ends the run, so it is the last and hides no failure
            if result.verdict is not Verdict.AC:
                return result.verdict
        return Verdict.JE if self.error else Verdict.AC


def _failure_class(verdict: Verdict, results: Sequence[TestResult]) -> FailureClass:
    met = {FAILURE_CLASS[verdict]} | {FAILURE_CLASS[result.verdict] for result in results}
    for failure_class in (FailureClass.CORRECTNESS, FailureClass.OPTIMIZATION):
        if failure_class in met:
            return failure_class
    return FAILURE_CLASS[verdict]
