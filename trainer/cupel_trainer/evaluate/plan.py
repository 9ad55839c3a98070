"""The plan of an ensemble: how many samples of which checkpoint, and what that is worth.

`cupel ensemble` writes it from stored verdicts, `cupel sample --ensemble` runs it.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from cupel_trainer.errors import RecordsError
from cupel_trainer.evaluate.records import CheckpointRef, Record, Sampling, Setting


class PlanMember(Record):
    """One checkpoint of an ensemble, and its share of the budget."""

    checkpoint: CheckpointRef
    samples: int = Field(ge=1, description="Samples per problem: k_m.")
    sampling: Sampling = Field(
        Sampling(), description="How the samples were drawn that the plan was chosen from."
    )


class Estimate(Record):
    """A mean over problems with its bootstrap interval over problems."""

    value: float
    low: float
    high: float


class HeldOut(Record):
    """What the plan's way of choosing is worth on problems that it did not see.

    The problems are halved `splits` times. Each half chooses, and the other half is scored. All
    values are means over problems of pass@k at the plan's budget.
    """

    ensemble: Estimate = Field(description="Splits chosen on the other half.")
    single: Estimate = Field(description="The best single checkpoint, chosen on the other half.")
    difference: Estimate = Field(description="Ensemble minus single, paired by problem.")
    level: float = Field(0.95, gt=0, lt=1, description="Of the intervals.")
    splits: int = Field(ge=1, description="How many times the problems were halved.")
    problems: int = Field(ge=2)
    agreement: float = Field(
        ge=0,
        le=1,
        description="Mean share of the budget that the halves' splits share with the plan.",
    )


class PlanInput(Record):
    """A file of verdicts that the plan was chosen from."""

    path: str
    checkpoint: str = Field(description="The checkpoint's name.")
    sha256: str = Field(description="Of the file's bytes.")


class Plan(Record):
    """An ensemble at a fixed budget of samples per problem."""

    kind: Literal["cupel.plan"] = "cupel.plan"
    version: Literal[1] = 1
    budget: int = Field(ge=1, description="Samples per problem over all members: K.")
    members: tuple[PlanMember, ...] = Field(min_length=1)
    setting: Setting = Setting.REASONING
    problem_set: str = Field("", description="SHA-256 of the problem set that it was chosen on.")
    selection: str = Field(
        "", description="Which of its problems, in words: a difficulty, dates; empty for all."
    )
    method: Literal["exact", "greedy"] = Field(
        description="Every split over at most `members_max` members, or greedy with exchanges."
    )
    members_max: int | None = Field(None, description="The search's limit; null for none.")
    chosen_pass: float = Field(
        ge=0, le=1, description="pass@K on the problems it was chosen on: biased upwards."
    )
    upper_bound: float = Field(
        ge=0, description="No split over any number of these checkpoints does better on them."
    )
    single: CheckpointRef = Field(description="The best single checkpoint on all problems.")
    single_pass: float = Field(ge=0, le=1, description="Its pass@K on the same problems.")
    held_out: HeldOut
    seed: int = Field(ge=0, description="Of the halves and the bootstrap.")
    inputs: tuple[PlanInput, ...] = ()
    warnings: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _members_share_the_budget(self) -> Self:
        total = sum(member.samples for member in self.members)
        if total != self.budget:
            raise ValueError(f"the members' samples sum to {total}, the budget is {self.budget}")
        names = Counter(member.checkpoint.name for member in self.members)
        name, count = names.most_common(1)[0]
        if count > 1:
            raise ValueError(f"checkpoint {name!r} is a member {count} times")
        return self


def read_plan(path: Path) -> Plan:
    """Reads a plan file.

    Args:
        path: Where `cupel ensemble` wrote it.

    Returns:
        The plan.

    Raises:
        RecordsError: It cannot be read, or is not a plan.
    """
    try:
        return Plan.model_validate_json(path.read_bytes())
    except OSError as error:
        raise RecordsError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise RecordsError(
            f"{path} is not a plan of this version; `cupel ensemble` writes one: {error}"
        ) from error


def plan_json(plan: Plan) -> str:
    """The text of a plan file: indented JSON that ends with a line feed."""
    return plan.model_dump_json(indent=2) + "\n"
