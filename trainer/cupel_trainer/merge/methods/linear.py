"""Between and beyond two ends: theta = low + alpha * (high - low).

arXiv 2605.28751, "Extrapolative Weight Averaging Reveals Correctness-Efficiency Frontiers in Code
RL": alpha in [0, 1] interpolates, any other extrapolates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from cupel_trainer.merge.kernel import Rule
from cupel_trainer.merge.layout import TensorEntry
from cupel_trainer.merge.methods.contract import Method


@dataclass(frozen=True, slots=True)
class LayerAlpha:
    """Another alpha for the tensors whose names match.

    `pattern` is a shell pattern on the whole name; the first that matches counts. `alpha` replaces
    the output's alpha, or `scale` multiplies it.
    """

    pattern: str
    alpha: float | None = None
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Linear(Method):
    """A sweep of alphas over two ends."""

    alphas: Sequence[float]
    layers: Sequence[LayerAlpha] = ()

    @property
    def formula(self) -> str:
        """The formula."""
        return "low + alpha * (high - low)"

    def parameters(self, output: int) -> dict[str, object]:
        """The output's alpha and what layers have instead."""
        layers = [[each.pattern, each.alpha, each.scale] for each in self.layers]
        return {"alpha": self.alphas[output], "layers": layers}

    def rule(self, output: int, tensor: TensorEntry, observed: object) -> Rule:
        """The output's alpha, or the tensor's own."""
        return Rule(1.0, (self.alpha(output, tensor.name),))

    def alpha(self, output: int, name: str) -> float:
        """The alpha of one tensor in one output."""
        for layer in self.layers:
            if fnmatchcase(name, layer.pattern):
                if layer.alpha is not None:
                    return layer.alpha
                return layer.scale * self.alphas[output]
        return self.alphas[output]


@dataclass(frozen=True, slots=True)
class Weighted(Method):
    """Any number of checkpoints with given coefficients: sum of c_i * x_i.

    The weighted form of the soup of arXiv 2203.05482; coefficients need not add up to 1.
    """

    coefficients: Sequence[Sequence[float]]
    """One row per output, one coefficient per checkpoint in each."""

    @property
    def formula(self) -> str:
        """The formula."""
        return "sum_i c_i * x_i"

    def parameters(self, output: int) -> dict[str, object]:
        """The output's coefficients."""
        return {"coefficients": list(self.coefficients[output])}

    def rule(self, output: int, tensor: TensorEntry, observed: object) -> Rule:
        """x_0 takes what the sum leaves, so that c = (1, 0, ...) is x_0 itself."""
        row = self.coefficients[output]
        total = sum(row)
        # Sums such as 0.3 + 0.7 may miss 1 by a unit in the last place, which was not meant.
        return Rule(1.0 if abs(total - 1.0) < 1e-12 else total, tuple(row[1:]))
