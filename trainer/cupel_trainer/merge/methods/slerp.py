"""SLERP: along the great circle between two tensors instead of the line.

Ken Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985: with the angle omega
between x_0 and x_1, theta = sin((1 - t) omega) / sin(omega) * x_0 + sin(t omega) / sin(omega) *
x_1. Each tensor is one vector, and its angle is taken over all of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from cupel_trainer.merge.kernel import Rule
from cupel_trainer.merge.layout import TensorEntry
from cupel_trainer.merge.methods.contract import Blocks, Method

EPSILON = 1e-6
"""Below this sine of the angle the line is taken. There the two differ by less than 1e-12 of the
tensor, a thousandth of what float32 resolves; and tensors that point away from each other, whose
circle is not determined, are treated alike."""


@dataclass(frozen=True, slots=True)
class Slerp(Method):
    """A sweep of t: 0 is the first input, 1 the second, others lie on the same circle."""

    alphas: Sequence[float]

    @property
    def formula(self) -> str:
        """The formula."""
        return (
            "(sin((1 - t) * omega) * x_0 + sin(t * omega) * x_1) / sin(omega), omega per tensor; "
            f"(1 - t) * x_0 + t * x_1 where sin(omega) < {EPSILON:g}"
        )

    def parameters(self, output: int) -> dict[str, object]:
        """The output's t."""
        return {"t": self.alphas[output]}

    @property
    def reads_ahead(self) -> bool:
        """The angle is that of the whole tensor."""
        return True

    def observe(self, tensor: TensorEntry, blocks: Blocks) -> float:
        """The angle between the two; 0 where the line is taken."""
        return angle(blocks)

    def rule(self, output: int, tensor: TensorEntry, observed: object) -> Rule:
        """From the tensor's angle."""
        t = self.alphas[output]
        omega = observed if isinstance(observed, float) else 0.0
        if not omega:
            return Rule(1.0, (t,))
        first, second = (math.sin(part * omega) / math.sin(omega) for part in (1.0 - t, t))
        return Rule(first + second, (second,))

    def copied(self, output: int, tensors: Iterable[TensorEntry]) -> int | None:
        """Both ends are themselves."""
        return {0.0: 0, 1.0: 1}.get(self.alphas[output])


def angle(blocks: Blocks) -> float:
    """The angle between x_0 and x_1.

    With d = x_1 - x_0: sin is |x_0||x_1| times sqrt(|x_0|^2 |d|^2 - (x_0 d)^2), which, unlike the
    arc cosine, keeps its digits at the tiny angles between checkpoints of one run.

    Returns:
        In radians, in (0, pi); 0 where its sine is below `EPSILON`, or a tensor is 0.
    """
    anchor_squared = product = delta_squared = 0.0
    for block in blocks():
        (delta,) = block.deltas
        anchor_squared += folded_sum(block.anchor * block.anchor)
        product += folded_sum(block.anchor * delta)
        delta_squared += folded_sum(delta * delta)
    across = math.sqrt(max(0.0, anchor_squared * delta_squared - product * product))
    along = anchor_squared + product
    if not across >= EPSILON * math.hypot(across, along) or not across:
        return 0.0
    return math.atan2(across, along)


def folded_sum(values: torch.Tensor) -> float:
    """Adds by halves: the same sum on every processor, whatever its vectors' width.

    Args:
        values: float64, shape (n,).
    """
    while values.numel() > 1:
        if values.numel() % 2:
            values = torch.nn.functional.pad(values, (0, 1))
        half = values.numel() // 2
        values = values[:half] + values[half:]
    return float(values.sum())
