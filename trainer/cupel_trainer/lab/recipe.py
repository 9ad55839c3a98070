"""The lab's recipe: every size and share of the experiment, in one document."""

from __future__ import annotations

import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError, model_validator

from cupel_trainer.episodes.budget import Budget
from cupel_trainer.errors import RecipeError
from cupel_trainer.evaluate.record_file import first_fault
from cupel_trainer.evaluate.records import Record, Setting
from cupel_trainer.lab.family.skeleton import Part
from cupel_trainer.lab.lessons import Mix
from cupel_trainer.lab.policy import PolicySize
from cupel_trainer.lab.teaching import Teaching


class Size(StrEnum):
    """The recipes that come with Cupel."""

    QUICK = "quick"
    FULL = "full"


class Counts(Record):
    """Problems of each part."""

    easy: int = Field(ge=1)
    hard: int = Field(ge=1)

    @property
    def by_part(self) -> dict[Part, int]:
        """The same, by part."""
        return {Part.EASY: self.easy, Part.HARD: self.hard}


class ProblemSets(Record):
    """How many problems there are, of what kind."""

    train: Counts = Field(description="For RL.")
    held_out: Counts = Field(description="For evaluation: in no lesson and in no RL run.")
    modest_share: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Of the hard problems, those whose largest test a slow program passes.",
    )


class Lessons(Record):
    """What the supervised start shows, by setting."""

    tools: float = Field(0.12, ge=0, lt=1, description="Share of the lessons with a tool call.")
    agentic: float = Field(0.12, ge=0, lt=1, description="Share of the lessons in a box.")
    mix: Mix = Mix()


class Rl(Record):
    """The two RL runs: the same but for the coverage."""

    steps: int = Field(24, ge=1)
    prompts_per_step: int = Field(24, ge=1)
    group_size: int = Field(8, ge=2)
    learning_rate: float = Field(2e-4, gt=0)
    low: int = Field(2, ge=1, le=3, description="Coverage of the low run: tiers 1 to this one.")
    high: int = Field(3, ge=1, le=3, description="Coverage of the high run.")


class Measure(Record):
    """How one setting is evaluated."""

    alphas: tuple[float, ...] = Field(min_length=2)
    samples: int = Field(ge=1, description="Per problem and checkpoint.")
    each: Counts = Field(description="Problems: the first so many held-out ones of each part.")

    @model_validator(mode="after")
    def _has_both_ends(self) -> Self:
        if not {0.0, 1.0} <= set(self.alphas) or len(set(self.alphas)) != len(self.alphas):
            raise ValueError("alphas must hold 0 and 1, and each only once")
        return self


class LabRecipe(Record):
    """The whole experiment, but for the seed."""

    policy: PolicySize = PolicySize()
    problems: ProblemSets
    lessons: Lessons = Lessons()
    teaching: Teaching = Teaching()
    rl: Rl = Rl()
    reasoning: Measure
    tools: Measure
    agentic: Measure
    ensemble_budget: int = Field(ge=2, description="Samples per problem over all members.")
    max_tokens: int = Field(72, ge=16, description="Longest turn.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.ensemble_budget > self.reasoning.samples:
            raise ValueError("ensemble_budget is more than the samples of the setting reasoning")
        for setting in Setting:
            measure = self.measure(setting)
            held_out = self.problems.held_out
            if measure.each.easy > held_out.easy or measure.each.hard > held_out.hard:
                raise ValueError(f"{setting.value} asks for more problems than are held out")
            if not set(measure.alphas) <= set(self.reasoning.alphas):
                raise ValueError(f"{setting.value} has an alpha that reasoning has not")
        return self

    def measure(self, setting: Setting) -> Measure:
        """How a setting is evaluated."""
        return {
            Setting.REASONING: self.reasoning,
            Setting.TOOLS: self.tools,
            Setting.AGENTIC: self.agentic,
        }[setting]


BUDGETS = {
    Setting.REASONING: Budget(),
    Setting.TOOLS: Budget(turns=2, calls=1, tokens=512, wall_s=10, call_s=2),
    Setting.AGENTIC: Budget(turns=5, submissions=1, tokens=1024, wall_s=20, call_s=2),
}
"""What an episode of the lab may use."""


def read_recipe(source: Size | Path) -> LabRecipe:
    """Reads a recipe: one that comes with Cupel, or a file.

    Raises:
        RecipeError: It cannot be read, or is not valid.
    """
    path = Path(__file__).parent / f"{source.value}.toml" if isinstance(source, Size) else source
    try:
        return LabRecipe.model_validate(tomllib.loads(path.read_text("utf-8")))
    except OSError as error:
        raise RecipeError(f"the recipe {path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise RecipeError(f"the recipe {path}: {first_fault(error)}") from error
    except ValueError as error:
        raise RecipeError(f"the recipe {path} is not TOML in UTF-8: {error}") from error
