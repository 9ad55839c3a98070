"""Which tiers count, at which step."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, model_validator

Level = Annotated[StrictInt, Field(ge=1)]
Fraction = Annotated[StrictFloat, Field(gt=0, le=1)]
Amount = Level | Fraction
"""Tiers 1..n for an integer; for a float, that fraction of a problem's tiers, rounded up."""


class Coverage(BaseModel):
    """Coverage of a run: constant, or by step."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    level: Level | None = Field(
        None, description="Tiers 1..level count; all tiers of a problem that has fewer."
    )
    fraction: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="Of a problem's tiers, rounded up: 0.5 of 3 tiers are 2."
    )
    schedule: tuple[tuple[Annotated[StrictInt, Field(ge=0)], Amount], ...] = Field(
        (),
        description="Pairs of a step and what holds from it on: an integer is a level, a float a "
        "fraction.",
    )

    @model_validator(mode="after")
    def _one_of_three(self) -> Self:
        if sum((self.level is not None, self.fraction is not None, bool(self.schedule))) != 1:
            raise ValueError("give exactly one of `level`, `fraction` and `schedule`")
        steps = [step for step, _ in self.schedule]
        if steps and (steps[0] != 0 or any(late <= early for early, late in pairwise(steps))):
            raise ValueError("the steps of a schedule must begin with 0 and rise")
        return self

    def at(self, step: int) -> Amount:
        """What holds in a step, counted from 0."""
        if self.level is not None:
            return self.level
        if self.fraction is not None:
            return self.fraction
        return next(amount for start, amount in reversed(self.schedule) if start <= step)

    def level_of(self, step: int, tiers: int) -> int:
        """The level for a problem with so many tiers, in a step counted from 0."""
        return level_of(self.at(step), tiers)


def level_of(amount: Amount, tiers: int) -> int:
    """The level that an amount means for a problem with so many tiers."""
    if isinstance(amount, int):
        return min(amount, tiers)
    # 0.2 * 5 is a little more than 1 in binary: what is within rounding of a whole is that whole.
    return max(1, min(tiers, math.ceil(amount * tiers - 1e-9)))
