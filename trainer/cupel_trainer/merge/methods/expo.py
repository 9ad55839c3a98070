"""ExPO: beyond an aligned model, away from the one that its alignment began with.

arXiv 2404.16792, "Model Extrapolation Expedites Alignment": theta_2 = theta_1 + alpha *
(theta_1 - theta_0) with alpha > 0, where theta_0 is the supervised checkpoint and theta_1 the
aligned one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cupel_trainer.merge.kernel import Rule
from cupel_trainer.merge.layout import TensorEntry
from cupel_trainer.merge.methods.contract import Method


@dataclass(frozen=True, slots=True)
class Expo(Method):
    """A sweep of extrapolation strengths; alpha 0 is the aligned model itself."""

    alphas: Sequence[float]

    @property
    def formula(self) -> str:
        """The formula."""
        return "aligned + alpha * (aligned - initial)"

    def parameters(self, output: int) -> dict[str, object]:
        """The output's alpha."""
        return {"alpha": self.alphas[output]}

    def rule(self, output: int, tensor: TensorEntry, observed: object) -> Rule:
        """Counted from the initial model, which is x_0."""
        return Rule(1.0, (1.0 + self.alphas[output],))
