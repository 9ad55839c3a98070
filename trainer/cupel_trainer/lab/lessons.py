"""What the policy is shown before RL: conversations in which programs are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field, field_validator

from cupel_trainer.evaluate.records import Record
from cupel_trainer.lab.family.problems import FamilyProblem
from cupel_trainer.lab.family.skeleton import Kind, Part, Program

FENCE = "```"


class Mix(Record):
    """How often each kind of program is shown, per part; what a part lacks goes to the others."""

    easy: dict[Kind, float] = Field(
        {Kind.SLOW: 0.5, Kind.FAST: 0.35, Kind.WRONG: 0.1, Kind.LATE: 0.05}
    )
    hard: dict[Kind, float] = Field(
        {Kind.SLOW: 0.6, Kind.FAST: 0.1, Kind.WRONG: 0.3},
        description="Fast attempts are right as often as a guess is: the policy cannot do better.",
    )

    @field_validator("easy", "hard")
    @classmethod
    def _are_shares(cls, value: dict[Kind, float]) -> dict[Kind, float]:
        if min(value.values()) < 0 or sum(value.values()) <= 0:
            raise ValueError("shares must not be negative and must have a positive sum")
        return value

    def of(self, part: Part) -> Mapping[Kind, float]:
        """The shares of a part."""
        return self.easy if part is Part.EASY else self.hard


@dataclass(frozen=True, slots=True)
class Lesson:
    """A conversation: texts of user and policy in turn, the user's first."""

    texts: tuple[str, ...]


def choose_program(problem: FamilyProblem, mix: Mix, random: np.random.Generator) -> Program:
    """A program of a problem, of a kind by the mix, each of that kind as likely."""
    shares = {
        kind: share for kind, share in mix.of(problem.skeleton.part).items() if problem.of_kind(kind)
    }
    weights = np.array(list(shares.values()))
    kind = list(shares)[int(random.choice(len(weights), p=weights / weights.sum()))]
    programs = problem.of_kind(kind)
    return programs[int(random.integers(len(programs)))]


def answer_text(source: str) -> str:
    """A program as a final answer."""
    return f"{FENCE}python\n{source}{FENCE}"


def reasoning_lesson(prompt: str, program: Program) -> Lesson:
    """The program, in a single turn."""
    return Lesson((prompt, answer_text(program.source)))


def vocabulary_texts(lessons: Sequence[Lesson]) -> list[str]:
    """All texts of some lessons."""
    return [text for lesson in lessons for text in lesson.texts]
