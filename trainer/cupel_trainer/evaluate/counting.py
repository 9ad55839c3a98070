"""What a judged sample is counted as.

Accepted; an optimization or a correctness failure; or unclassified, where the judgement failed and
is not complete, so that a later test could have changed the class. A judging error says nothing
about the sample.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum

from cupel.schema import FailureClass, TleKind, Verdict
from cupel_trainer.evaluate.records import JudgedSample


class Count(IntEnum):
    """What a sample is counted as: an index into the counts of a problem."""

    ACCEPTED = 0
    CORRECTNESS = 1
    OPTIMIZATION = 2
    """An optimization failure, other than those below."""
    ENDLESS = 3
    """An optimization failure that is an endless loop most likely, or waited without work."""
    UNPROBED = 4
    """An optimization failure: TLE in the smallest tier, and nobody looked whether it ends."""
    UNCLASSIFIED = 5
    """Failed, and its judgement is not complete."""
    JUDGING_ERROR = 6


class EndlessAs(StrEnum):
    """Which failure an endless loop is: the verdict is TLE, the fault may be one of logic."""

    OPTIMIZATION = "optimization"
    CORRECTNESS = "correctness"


def count_as(judged: JudgedSample) -> Count:
    """What one judged sample is counted as.

    Raises:
        ValueError: It is accepted although its judgement is not complete: nothing proves that.
    """
    if judged.verdict is Verdict.JE or judged.failure_class is FailureClass.INFRASTRUCTURE:
        return Count.JUDGING_ERROR
    if judged.verdict is Verdict.AC:
        if not judged.complete:
            raise ValueError("AC, but not every test was judged: nothing proves that")
        return Count.ACCEPTED
    if not judged.complete:
        return Count.UNCLASSIFIED
    if judged.failure_class is FailureClass.CORRECTNESS:
        return Count.CORRECTNESS
    if judged.endless or judged.tle_kind is TleKind.IDLE:
        return Count.ENDLESS
    smallest = judged.first_failing_tier == 1
    if judged.verdict is Verdict.TLE and smallest and judged.endless is None:
        return Count.UNPROBED
    return Count.OPTIMIZATION
