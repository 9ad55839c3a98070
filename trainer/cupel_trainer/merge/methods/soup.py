"""The uniform soup: the plain average of any number of checkpoints.

arXiv 2203.05482, "Model soups: averaging weights of multiple fine-tuned models improves accuracy
without increasing inference time". Its greedy soup chooses members by their validation scores:
give the chosen ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from cupel_trainer.merge.kernel import Rule
from cupel_trainer.merge.layout import TensorEntry
from cupel_trainer.merge.methods.contract import Method


@dataclass(frozen=True, slots=True)
class Soup(Method):
    """The average of `count` checkpoints, each with the same weight."""

    count: int

    @property
    def formula(self) -> str:
        """The formula."""
        return "sum_i x_i / n"

    def parameters(self, output: int) -> dict[str, object]:
        """How many there are."""
        return {"n": self.count}

    def rule(self, output: int, tensor: TensorEntry, observed: object) -> Rule:
        """x_0 takes what the others leave, so that equal weights average to themselves."""
        return Rule(1.0, (1.0 / self.count,) * (self.count - 1))
