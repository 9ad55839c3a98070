"""What is logged of a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from cupel.schema import FailureClass
from cupel_trainer.train.judged import Judged


class StepRecord(BaseModel):
    """A line of log.jsonl."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int = Field(ge=1, description="Counted from 1: after so many batches.")
    coverage: int | float = Field(description="A level, or a fraction of the tiers.")
    completions: int = Field(ge=0)
    reward: float | None = Field(description="Mean of those that have one.")
    solve_rate: float | None = Field(description="At the trained coverage.")
    full_solve_rate: float | None = Field(None, description="At all tiers, where judged.")
    optimization_failures: float | None = Field(None, description="Share of the judged.")
    correctness_failures: float | None = Field(None, description="Share of the judged.")
    judging_errors: int = Field(0, description="Completions without a reward: masked.")
    extra: dict[str, float | None] = Field({}, description="Means of further rewards, by name.")
    fixing_prompts: int = 0
    tokens: int = Field(0, description="Drawn by the policy.")
    generation_s: float = 0.0
    judge_wait_s: float = Field(0.0, description="From the end of generation to the last verdict.")
    step_s: float = Field(0.0, description="Of the whole step.")
    judge_wait_share: float = Field(0.0, description="judge_wait_s of step_s.")
    tokens_per_s: float = Field(0.0, description="tokens of generation_s.")
    sync_logprob_error: float | None = Field(
        None, description="Largest difference to the vLLM server's log-probabilities; see recipe."
    )
    trainer: dict[str, float | None] = Field({}, description="What TRL says: loss, entropy, ...")


@dataclass(frozen=True, slots=True)
class Scores:
    """Counts over a batch, or a part of it, from which rates follow."""

    completions: int
    judged: int
    solved: int
    fully_judged: int
    fully_solved: int
    optimization: int
    correctness: int
    reward: float
    extra: dict[str, tuple[float, int]]
    """Sum and number of each further reward."""

    @classmethod
    def of(cls, batch: Sequence[Judged]) -> Scores:
        """Counts a batch."""
        scored = [each for each in batch if each.reward is not None]
        failures = [each.failure for each in scored]
        fully = [each.solved_fully for each in scored if each.solved_fully is not None]
        extra: dict[str, tuple[float, int]] = {}
        for each in scored:
            for name, value in each.extra.items():
                if value is not None:
                    total, count = extra.get(name, (0.0, 0))
                    extra[name] = (total + value, count + 1)
        return cls(
            completions=len(batch),
            judged=len(scored),
            solved=failures.count(FailureClass.NONE),
            fully_judged=len(fully),
            fully_solved=sum(fully),
            optimization=failures.count(FailureClass.OPTIMIZATION),
            correctness=failures.count(FailureClass.CORRECTNESS),
            reward=sum(each.reward for each in scored if each.reward is not None),
            extra=extra,
        )

    def __add__(self, other: Scores) -> Scores:
        """Of two parts of a batch."""
        extra = dict(self.extra)
        for name, (total, count) in other.extra.items():
            before, held = extra.get(name, (0.0, 0))
            extra[name] = (before + total, held + count)
        return Scores(
            self.completions + other.completions,
            self.judged + other.judged,
            self.solved + other.solved,
            self.fully_judged + other.fully_judged,
            self.fully_solved + other.fully_solved,
            self.optimization + other.optimization,
            self.correctness + other.correctness,
            self.reward + other.reward,
            extra,
        )

    def fields(self) -> dict[str, object]:
        """The fields of a `StepRecord` that follow from the counts."""
        return {
            "completions": self.completions,
            "reward": _share(self.reward, self.judged),
            "solve_rate": _share(self.solved, self.judged),
            "full_solve_rate": _share(self.fully_solved, self.fully_judged),
            "optimization_failures": _share(self.optimization, self.judged),
            "correctness_failures": _share(self.correctness, self.judged),
            "judging_errors": self.completions - self.judged,
            "extra": {name: total / count for name, (total, count) in self.extra.items()},
        }


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None
