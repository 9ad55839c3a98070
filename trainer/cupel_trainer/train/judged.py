"""What is known of one completion after judging, as training needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cupel.schema import FAILURE_CLASS, FailureClass, Judgement, Verdict

FULL = "full"
"""The extra reward for all tiers, where the recipe asks for it."""
TESTS = "tests"
"""The extra reward whose purpose is that every covered test is judged."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One completion.

    Args:
        reward: What is trained on; None masks it, since a judging error left it open.
        judgement: Behind it; None where nothing was judged.
        level: The tiers that counted: 1..level.
        extra: Further rewards, by name.
        reason: Why there is no judgement.
    """

    reward: float | None
    judgement: Judgement | None
    level: int
    extra: Mapping[str, float | None] = field(default_factory=dict)
    reason: str = ""

    @property
    def failure(self) -> FailureClass:
        """Why it failed at the coverage, as far as tests were judged; `none` if it did not.

        Correctness wins over optimization, as everywhere in Cupel; tiers above the coverage do not
        count, though they may have been judged.
        """
        if self.reward is None or self.judgement is None:
            return FailureClass.INFRASTRUCTURE
        if self.judgement.verdict is Verdict.CE:
            return FailureClass.CORRECTNESS
        classes = {
            FAILURE_CLASS[test.verdict]
            for test in self.judgement.tests
            if test.tier <= self.level and test.verdict not in (Verdict.AC, Verdict.JE)
        }
        if FailureClass.CORRECTNESS in classes:
            return FailureClass.CORRECTNESS
        return FailureClass.OPTIMIZATION if classes else FailureClass.NONE

    @property
    def solved(self) -> bool | None:
        """Whether it passed every test of the coverage; None where a judging error hides it."""
        if self.failure is FailureClass.INFRASTRUCTURE:
            return None
        return self.failure is FailureClass.NONE

    @property
    def solved_fully(self) -> bool | None:
        """Whether it passed every test of all tiers; None where that was not judged."""
        full = self.extra.get(FULL)
        return None if full is None else full == 1.0


def masked(reason: str, level: int = 0) -> Judged:
    """Of an episode that our own fault ended: no reward."""
    return Judged(None, None, level, reason=reason)
