"""DARE: drop most of each task vector at random, and scale what is left up.

arXiv 2311.03099, "Language Models are Super Mario: Absorbing Abilities from Homologous Models as
a Free Lunch": with drop rate p = 1 - density, every delta is dropped with probability p and the
others are divided by 1 - p, so that their expectation stays. They are then added up (`dare`), or
averaged where their signs agree as in TIES (`dare-ties`; without its trimming).

Whether a weight is dropped depends on seed, tensor, input and its place in the tensor alone: random
numbers come from Philox (Salmon, Moraes, Dror, Shaw 2011), a function of a key and a counter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cupel_trainer.merge.kernel import Block, Rule
from cupel_trainer.merge.layout import TensorEntry
from cupel_trainer.merge.methods.contract import Method
from cupel_trainer.merge.methods.ties import elect

_WORDS = 8
"""Random words of 32 bits per step of Philox's counter."""


@dataclass(frozen=True, slots=True)
class Dare(Method):
    """One row per output, in it one coefficient per task vector."""

    lambdas: Sequence[tuple[float, ...]]
    density: float
    seed: int
    agreeing: bool
    """Average those that agree in sign, instead of adding up all: one coefficient per row then."""
    vectors: int
    """How many task vectors there are."""
    same: Mapping[str, str]
    """Tensors that must drop the same weights as another one, since they are tied to it."""

    @property
    def formula(self) -> str:
        """The formula."""
        dropped = "d_i = (x_i - base) / density, or 0 with probability 1 - density"
        if self.agreeing:
            return f"base + lambda * mean of the d_i whose sign is that of their sum; {dropped}"
        return f"base + sum_i lambda_i * d_i; {dropped}"

    def parameters(self, output: int) -> dict[str, object]:
        """The output's coefficients, the density, the seed."""
        row = list(self.lambdas[output])
        return {
            "lambda": row[0] if self.agreeing else row,
            "density": self.density,
            "seed": self.seed,
        }

    def rule(self, output: int, tensor: TensorEntry, observed: object) -> Rule:
        """The same for every tensor."""
        row = self.lambdas[output]
        return Rule(1.0, row + (0.0,) * (self.vectors - len(row)))

    def deltas(self, tensor: TensorEntry, block: Block, observed: object) -> Block:
        """What is not dropped, scaled up."""
        name = self.same.get(tensor.name, tensor.name)
        deltas = []
        for index, delta in enumerate(block.deltas):
            kept = keep(self.seed, name, index + 1, block.offset, delta.numel(), self.density)
            deltas.append(torch.where(kept, delta / self.density, 0.0))
        if self.agreeing:
            deltas = [elect(deltas)]
        return Block(block.offset, block.anchor, tuple(deltas))

    def copied(self, output: int, tensors: Iterable[TensorEntry]) -> int | None:
        """The base, if nothing is added to it."""
        return 0 if not any(self.lambdas[output]) else None


def keep(
    seed: int, tensor: str, position: int, offset: int, count: int, density: float
) -> torch.Tensor:
    """Which weights are kept.

    Args:
        seed: The merge's seed.
        tensor: The tensor's name.
        position: The input, counted from 0.
        offset: The first weight's place in the tensor; a multiple of 8.
        count: How many weights.
        density: The probability of each, taken to 32 bits.

    Returns:
        bool, shape (count,).
    """
    if density >= 1.0:
        return torch.ones(count, dtype=torch.bool)
    text = json.dumps([seed, tensor, position], ensure_ascii=True)
    key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")
    generator = np.random.Philox(key=key, counter=offset // _WORDS)
    words = generator.random_raw((count + 1) // 2).astype("<u8").view("<u4")[:count]
    return torch.from_numpy(words < np.uint32(min(int(density * 2**32 + 0.5), 2**32 - 1)))
