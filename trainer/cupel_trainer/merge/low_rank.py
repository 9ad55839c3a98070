"""Deltas of one module as products of factors, and their norms without the products themselves.

<B A, B' A'> = sum over p, q of (B^T B')[p, q] * (A A'^T)[p, q]: matrices of the size of the ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cupel_trainer.merge.statistics import SKETCH, TensorSums, row_signs


@dataclass(frozen=True, slots=True)
class Factors:
    """The factors of one module, of those inputs that have it; float64."""

    positions: tuple[int, ...]
    """Which inputs."""
    scales: tuple[float, ...]
    a: tuple[torch.Tensor, ...]
    """Each of shape (r_i, in)."""
    b: tuple[torch.Tensor, ...]
    """Each of shape (out, r_i)."""

    def side_by_side(self, weights: Sequence[float]) -> tuple[torch.Tensor, torch.Tensor]:
        """The factors of the weighted sum of the deltas.

        Args:
            weights: One per input of the merge, also of those that lack the module.

        Returns:
            A of shape (R, in) and B of shape (out, R), where R is the sum of the ranks.
        """
        columns = [
            b * (weights[position] * scale)
            for position, scale, b in zip(self.positions, self.scales, self.b, strict=True)
        ]
        return torch.cat(self.a), torch.cat(columns, dim=1)


def norm_squared(a: torch.Tensor, b: torch.Tensor) -> float:
    """The sum of squares of B A.

    Args:
        a: float64, shape (r, in).
        b: float64, shape (out, r).
    """
    return max(0.0, float(((b.T @ b) * (a @ a.T)).sum()))


def measure_inputs(factors: Factors, inputs: int) -> TensorSums:
    """What is known of a module's deltas; `standing` says that no element was compared.

    Args:
        factors: The module.
        inputs: How many inputs the merge has.
    """
    a, b = factors.side_by_side((1.0,) * inputs)
    products = (b.T @ b) * (a @ a.T)
    member = torch.zeros(inputs, len(a), dtype=torch.float64)
    start = 0
    for position, each in zip(factors.positions, factors.a, strict=True):
        member[position, start : start + len(each)] = 1.0
        start += len(each)
    every = member @ products @ member.T  # (inputs, inputs): products of the deltas
    from_first = torch.cat([-torch.ones(inputs - 1, 1), torch.eye(inputs - 1)], dim=1).double()
    elements = b.shape[0] * a.shape[1]
    last = from_first[-1] @ member  # (R,): the last delta minus the first one's
    return TensorSums(
        elements,
        max(0.0, float(every[0, 0])),
        from_first @ every @ from_first.T,
        standing=elements,
        sketch=_sketch(a, b * last),
    )


def measure_step(factors: Factors, weights: Sequence[float]) -> float:
    """The sum of squares of a weighted sum of the deltas minus the first one.

    Args:
        factors: The module.
        weights: One per input of the merge.
    """
    return norm_squared(*factors.side_by_side((weights[0] - 1.0, *weights[1:])))


def measure_error(
    a: torch.Tensor, b: torch.Tensor, rounded_a: torch.Tensor, rounded_b: torch.Tensor
) -> float:
    """The sum of squares of what rounding the factors did to their product; all float64."""
    return norm_squared(torch.cat([a, rounded_a - a]), torch.cat([rounded_b - b, rounded_b], dim=1))


def _sketch(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """As `statistics` has it, with a sign per row of the product and one per stretch of columns."""
    summed = (row_signs(b.shape[0]) @ b) @ a
    padded = torch.nn.functional.pad(summed, (0, -len(summed) % SKETCH)).view(-1, SKETCH)
    return row_signs(len(padded)) @ padded
