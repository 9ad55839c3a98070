"""LiNeS: task vectors scaled linearly with depth, so that shallow layers stay as they were.

arXiv 2410.17146, "LiNeS: Post-training Layer Scaling Prevents Forgetting and Enhances Model
Merging": layer l of L is scaled by a + b * (l - 1) / (L - 1). Here `first` is a and `last` is
a + b. What stands outside the layers (embeddings, last norm, head) is scaled as the first one, as
the paper does it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cupel_trainer.errors import MergeRefused
from cupel_trainer.merge.kernel import Rule
from cupel_trainer.merge.layout import TensorEntry
from cupel_trainer.merge.methods.contract import Method
from cupel_trainer.merge.report import LAYER


@dataclass(frozen=True, slots=True)
class Lines(Method):
    """A sweep of lambdas over task vectors with scaled layers."""

    lambdas: Sequence[float]
    vectors: int
    """How many task vectors there are."""
    first: float
    last: float
    depths: Mapping[str, int]
    """The number of layers in each stack of them, by what its tensors' names begin with."""

    @property
    def formula(self) -> str:
        """The formula."""
        return (
            "base + lambda * (first + (last - first) * (l - 1) / (L - 1)) * sum_i (x_i - base), "
            "l of L layers; first outside them"
        )

    def parameters(self, output: int) -> dict[str, object]:
        """The output's lambda and the scales of both ends."""
        return {"lambda": self.lambdas[output], "first": self.first, "last": self.last}

    def rule(self, output: int, tensor: TensorEntry, observed: object) -> Rule:
        """The scale of the tensor's layer."""
        return Rule(1.0, (self.lambdas[output] * self.scale(tensor.name),) * self.vectors)

    def scale(self, name: str) -> float:
        """What a tensor's changes are multiplied with, before lambda; a sole layer is a last one.

        Args:
            name: The tensor's name.
        """
        found = LAYER.search(name)
        if found is None:
            return self.first
        before, behind = int(found[1]), self.depths[name[: found.start(1)]] - 1 - int(found[1])
        if not behind:
            return self.last
        return (self.first * behind + self.last * before) / (before + behind)


def count_layers(names: Iterable[str]) -> dict[str, int]:
    """The number of layers in each stack, by what the names of its tensors begin with.

    Args:
        names: The tensors' names.

    Raises:
        MergeRefused: There are no layers among them.
    """
    depths: dict[str, int] = {}
    for name in names:
        found = LAYER.search(name)
        if found is not None:
            stack = name[: found.start(1)]
            depths[stack] = max(depths.get(stack, 0), int(found[1]) + 1)
    if not depths:
        raise MergeRefused("lines scales layers, but no tensor's name has a number as layers.0.")
    return depths
