"""How a process that has boxes judges: its languages, its boxes' baselines, and one judgement."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from cupel.schema import (
    FAILURE_CLASS,
    SOURCE_BYTES_MAX,
    Judgement,
    Language,
    Submission,
    Verdict,
)
from cupel_sandbox.errors import CannotStart, SandboxError
from cupel_service.baseline import measure_baselines
from cupel_service.boxes import Pool
from cupel_service.errors import CannotServe, LanguageUnavailable
from cupel_service.judge import judge
from cupel_service.languages import LanguageSetup, setup_languages
from cupel_service.program import Slot
from cupel_service.queue.contract import Assignment
from cupel_service.settings import Settings

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Judging:
    """Judges assignments in slots.

    Args:
        setups: The languages that the boxes have.
        missing: Why they lack the others.
        degraded: Isolation layers given up by name.
    """

    setups: Mapping[Language, LanguageSetup]
    missing: Mapping[Language, str]
    degraded: tuple[str, ...]

    def judge(self, assignment: Assignment, slot: Slot) -> Judgement:
        """Judges one assignment. May take long, and never raises for a program's fault."""
        completion = assignment.submission.completion
        if completion is not None and is_too_large(completion):
            # A policy's own doing: it must not fail the batch that it is part of.
            return self._no_program(
                assignment, slot, f"the completion has more than {SOURCE_BYTES_MAX} bytes"
            )
        try:
            judgement = self._judge(assignment, assignment.submission, slot)
        except LanguageUnavailable as error:
            # What a completion's own fence asks for; a client's choice was checked when it came.
            return self._no_program(
                assignment, slot, str(self._unavailable(Language(error.language)))
            )
        _log.debug("submission %s: %s", assignment.submission_id, judgement.verdict)
        return judgement

    def judging_error(self, assignment: Assignment) -> Judgement:
        """The judgement of what could not be judged, by Cupel's own fault."""
        suite = assignment.suite
        return Judgement(
            id=assignment.submission_id,
            problem=assignment.problem_id,
            language=assignment.submission.language,
            verdict=Verdict.JE,
            failure_class=FAILURE_CLASS[Verdict.JE],
            complete=False,
            coverage=min(assignment.submission.coverage or suite.tiers, suite.tiers),
            tiers=suite.tiers,
            tests_per_tier=suite.tests_per_tier,
            cpu_s=0.0,
            wall_s=0.0,
            memory_bytes=0,
            message="judging error: the service's log says where, under this submission's id",
            degraded=self.degraded,
        )

    def _no_program(self, assignment: Assignment, slot: Slot, why: str) -> Judgement:
        """A compile error, as the judge makes it of an answer without a program."""
        empty = assignment.submission.model_copy(update={"completion": "", "source": None})
        judgement = self._judge(assignment, empty, slot)
        return judgement.model_copy(update={"message": f"no program found: {why}"})

    def _judge(self, assignment: Assignment, submission: Submission, slot: Slot) -> Judgement:
        return judge(
            submission,
            assignment.suite,
            slot,
            self.setups,
            submission_id=assignment.submission_id,
            problem_id=assignment.problem_id,
            degraded=self.degraded,
        )

    def _unavailable(self, language: Language) -> LanguageUnavailable:
        available = ", ".join(sorted(self.setups)) or "none"
        reason = self.missing.get(language, "no toolchain")
        return LanguageUnavailable(language, f"{reason}. Languages here: {available}")


def start_judging(settings: Settings, pool: Pool) -> Judging:
    """Starts the boxes, and measures what an empty program uses in them.

    Args:
        settings: The factors of languages.
        pool: The boxes, not yet started; the caller closes them, whatever happens here.

    Raises:
        CannotServe: Boxes cannot be had here; says why and what to do.
    """
    try:
        pool.start()
        factors = (settings.time_factors, settings.memory_factors)
        baselines = measure_baselines(
            pool.slots[0].box, setup_languages(pool.toolchains, *factors, {})
        )
    except CannotStart as error:
        raise CannotServe(error.reason, error.remedy) from error
    except SandboxError as error:
        raise CannotServe(
            f"a box failed while the service started: {error}", "`cupel doctor` tests the boxes"
        ) from error
    return Judging(
        setup_languages(pool.toolchains, *factors, baselines),
        {Language(each.name): each.reason for each in pool.toolchains if not each.available},
        pool.facts.degraded,
    )


def is_too_large(program: str) -> bool:
    """Whether a program's text is larger than any that is judged."""
    # A character takes 1 to 4 bytes: most texts need not be encoded to know.
    if len(program) * 4 <= SOURCE_BYTES_MAX:
        return False
    return len(program.encode()) > SOURCE_BYTES_MAX
