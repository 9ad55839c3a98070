"""TIES: trim each task vector, elect a sign per weight, average those that agree with it.

arXiv 2306.01708, "TIES-Merging: Resolving Interference When Merging Models". Trimming keeps the
`density` largest part of each tensor of each task vector, by magnitude.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from cupel_trainer.merge.kernel import Block, Rule
from cupel_trainer.merge.layout import TensorEntry
from cupel_trainer.merge.methods.contract import Blocks, Method

_DIGIT_BITS = 16
_MAGNITUDE = 2**63 - 1
_DISTINCT = 4096
"""Different magnitudes that a search holds, about."""


@dataclass(frozen=True, slots=True)
class Ties(Method):
    """A sweep of lambdas."""

    lambdas: Sequence[float]
    vectors: int
    """How many task vectors there are."""
    density: float

    @property
    def formula(self) -> str:
        """The formula."""
        return (
            "base + lambda * mean of the trimmed (x_i - base) whose sign is that of their sum; "
            "trimmed: per tensor, |x_i - base| at least its round(density * n)-th largest"
        )

    def parameters(self, output: int) -> dict[str, object]:
        """The output's lambda and the density."""
        return {"lambda": self.lambdas[output], "density": self.density}

    @property
    def reads_ahead(self) -> bool:
        """The threshold is that of the whole tensor."""
        return self.density < 1.0

    def observe(self, tensor: TensorEntry, blocks: Blocks) -> list[float]:
        """The least magnitude that is kept, for each task vector.

        Weights of just this magnitude are all kept, so that nothing depends on their order.
        """
        return kth_largest(blocks, max(1, int(self.density * tensor.elements + 0.5)))

    def rule(self, output: int, tensor: TensorEntry, observed: object) -> Rule:
        """Lambda for the average, which is the first of the deltas."""
        return Rule(1.0, (self.lambdas[output],) + (0.0,) * (self.vectors - 1))

    def deltas(self, tensor: TensorEntry, block: Block, observed: object) -> Block:
        """The average alone."""
        deltas = list(block.deltas)
        if isinstance(observed, list):
            deltas = [
                torch.where(delta.abs() >= threshold, delta, 0.0)
                for delta, threshold in zip(deltas, observed, strict=True)
            ]
        return Block(block.offset, block.anchor, (elect(deltas),))

    def copied(self, output: int, tensors: Iterable[TensorEntry]) -> int | None:
        """The base, if nothing is added to it."""
        return 0 if self.lambdas[output] == 0.0 else None


def elect(deltas: Sequence[torch.Tensor]) -> torch.Tensor:
    """The average of those deltas that have the sign of all deltas' sum.

    Deltas that are 0 have no vote and no part in the average; where the sum is 0, so is the result.

    Args:
        deltas: float64, each of shape (n,).

    Returns:
        float64, shape (n,).
    """
    signs = sum(deltas[1:], start=deltas[0]).sign()
    total = torch.zeros_like(signs)
    count = torch.zeros_like(signs)
    for delta in deltas:
        agrees = (delta * signs > 0).double()
        total += delta * agrees
        count += agrees
    return total / count.clamp_min(1.0)


def kth_largest(blocks: Blocks, rank: int) -> list[float]:
    """The rank-th largest magnitude of each delta of a tensor, exactly.

    In bounded memory: float64 magnitudes are ordered as the integers of the same bits are, so the
    value is found digit by digit with histograms, or from the different magnitudes themselves as
    soon as they are few. That takes two readings of bfloat16 tensors, mostly three of float32.

    Args:
        blocks: Reads the tensor.
        rank: Which, from 1.

    Returns:
        One per delta; none of an empty tensor.
    """
    searches: list[_Search] = []
    searching = True
    while searching:
        for block in blocks():
            searches = searches or [_Search(rank) for _ in block.deltas]
            for search, delta in zip(searches, block.deltas, strict=True):
                search.count(delta)
        for search in searches:
            search.narrow()
        searching = not all(search.found for search in searches)
    return [search.value for search in searches]


@dataclass(slots=True)
class _Search:
    """For one delta: `prefix` is what is known of the bits, all above the lowest `unknown`."""

    rank: int
    unknown: int = 64
    prefix: int = 0
    found: bool = False
    histogram: np.ndarray = field(
        default_factory=lambda: np.zeros(1 << _DIGIT_BITS, dtype=np.int64)
    )
    distinct: dict[int, int] | None = None
    """How often each magnitude with the prefix comes; None: there are too many."""

    @property
    def value(self) -> float:
        """The magnitude that was found."""
        return float(np.array(self.prefix, dtype=np.int64).view(np.float64))

    def count(self, delta: torch.Tensor) -> None:
        """Takes part in a reading, with one block."""
        if self.found:
            return
        bits = delta.numpy().view(np.int64) & _MAGNITUDE
        if self.unknown < 64:
            bits = bits[bits >> self.unknown == self.prefix]
        digits = bits >> (self.unknown - _DIGIT_BITS) & ((1 << _DIGIT_BITS) - 1)
        self.histogram += np.bincount(digits, minlength=1 << _DIGIT_BITS)
        if self.distinct is not None:
            values, numbers = np.unique(bits, return_counts=True)
            if len(self.distinct) + len(values) > 2 * _DISTINCT:
                self.distinct = None
                return
            for value, number in zip(values.tolist(), numbers.tolist(), strict=True):
                self.distinct[value] = self.distinct.get(value, 0) + number

    def narrow(self) -> None:
        """Ends a reading: finds the value, or the next bits of it."""
        if self.found:
            return
        if self.distinct is not None:
            left = self.rank
            for value in sorted(self.distinct, reverse=True):
                left -= self.distinct[value]
                if left <= 0:
                    self.prefix, self.found = value, True
                    return
        above = np.cumsum(self.histogram[::-1])
        place = int(np.searchsorted(above, self.rank))
        self.rank -= int(above[place - 1]) if place else 0
        self.prefix = self.prefix << _DIGIT_BITS | (len(above) - 1 - place)
        self.unknown -= _DIGIT_BITS
        self.found = not self.unknown
        self.histogram[:] = 0
        self.distinct = {}
