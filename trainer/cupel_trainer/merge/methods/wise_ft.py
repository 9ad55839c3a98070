"""WiSE-FT: between a zero-shot model and its fine-tuned one, never beyond.

arXiv 2109.01903, "Robust fine-tuning of zero-shot models".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cupel_trainer.merge.kernel import Rule
from cupel_trainer.merge.layout import TensorEntry
from cupel_trainer.merge.methods.contract import Method


@dataclass(frozen=True, slots=True)
class WiseFt(Method):
    """A sweep of mixing coefficients in [0, 1]."""

    alphas: Sequence[float]

    @property
    def formula(self) -> str:
        """The formula."""
        return "(1 - alpha) * zero_shot + alpha * fine_tuned"

    def parameters(self, output: int) -> dict[str, object]:
        """The output's alpha."""
        return {"alpha": self.alphas[output]}

    def rule(self, output: int, tensor: TensorEntry, observed: object) -> Rule:
        """The same for every tensor."""
        return Rule(1.0, (self.alphas[output],))
