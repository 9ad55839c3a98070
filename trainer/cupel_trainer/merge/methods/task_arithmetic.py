"""Task arithmetic: a base model plus the changes that fine-tuning made to it.

arXiv 2212.04089, "Editing Models with Task Arithmetic": theta = theta_base + lambda * sum_i tau_i
with task vectors tau_i = theta_i - theta_base; a negative lambda forgets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cupel_trainer.merge.kernel import Rule
from cupel_trainer.merge.layout import TensorEntry
from cupel_trainer.merge.methods.contract import Method


@dataclass(frozen=True, slots=True)
class TaskArithmetic(Method):
    """One row per output, in it one coefficient per task vector."""

    lambdas: Sequence[tuple[float, ...]]

    @property
    def formula(self) -> str:
        """The formula."""
        return "base + sum_i lambda_i * (x_i - base)"

    def parameters(self, output: int) -> dict[str, object]:
        """The output's coefficients."""
        return {"lambda": list(self.lambdas[output])}

    def rule(self, output: int, tensor: TensorEntry, observed: object) -> Rule:
        """The same for every tensor."""
        return Rule(1.0, self.lambdas[output])
