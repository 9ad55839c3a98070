"""What is measured while a tensor is merged, at little cost: sums of squares, and a sketch.

The cosine between the steps of two layers would need both in memory. A sketch of 1024 numbers per
tensor stands for them: rows of 1024 elements are added up with random signs. The expectation of the
product of two sketches is the product of the tensors, its relative error about 1/sqrt(1024)
(Charikar, Chen, Farach-Colton 2002, with signs per row instead of per element).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from cupel_trainer.merge.kernel import BLOCK, Block, Rule

SKETCH = 1024
LOOKED_AT = 8
"""What rounding does is measured in one block of so many: shares and norms, good to a percent."""
SEED = 20_260_528


@dataclass(slots=True)
class OutputSums:
    """Of one tensor in one output."""

    step_squared: float = 0.0
    """Sum of (theta - x_0)^2, before rounding."""
    error_squared: float = 0.0
    """Sum of (rounded theta - theta)^2."""
    unmoved: int = 0
    """Elements that equal x_0 after rounding, those that are equal in all inputs among them."""


@dataclass(slots=True)
class TensorSums:
    """Of one tensor: of the inputs, and of each output by its number."""

    elements: int
    anchor_squared: float = 0.0
    gram: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64))
    """Products of the inputs' deltas; shape (k, k)."""
    as_read: bool = True
    """Whether the deltas entered as they were read, so that `gram` tells the outputs' steps."""
    looked_at: int = 0
    """Elements of the blocks in which rounding was measured."""
    standing: int = 0
    """Elements that are equal in all inputs."""
    outputs: dict[int, OutputSums] = field(default_factory=dict)
    sketch: torch.Tensor = field(default_factory=lambda: torch.zeros(SKETCH))
    """Of the last input's delta; shape (SKETCH,)."""


def row_signs(rows: int) -> torch.Tensor:
    """Random signs, the same in every process; float64, shape (rows,)."""
    generator = torch.Generator().manual_seed(SEED)
    return torch.randint(0, 2, (rows,), generator=generator).double() * 2 - 1


def observe_inputs(sums: TensorSums, block: Block, signs: torch.Tensor) -> None:
    """Adds a block of the inputs.

    Args:
        sums: What is added to.
        block: The inputs.
        signs: At least as many as the tensor has rows of `SKETCH` elements.
    """
    sums.anchor_squared += float(torch.dot(block.anchor, block.anchor))
    gram = gram_of(block.deltas)
    sums.gram = gram if not sums.gram.numel() else sums.gram + gram
    if is_looked_at(block):
        moving = block.deltas[0].numpy() != 0
        for delta in block.deltas[1:]:
            moving |= delta.numpy() != 0
        sums.standing += moving.size - int(np.count_nonzero(moving))
        sums.looked_at += moving.size
    delta = block.deltas[-1]
    if delta.numel() % SKETCH:
        delta = torch.nn.functional.pad(delta, (0, -delta.numel() % SKETCH))
    rows = delta.view(-1, SKETCH)
    first = block.offset // SKETCH
    sums.sketch += (signs[first : first + len(rows)] @ rows).float()


def gram_of(deltas: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Products of deltas; shape (k, k)."""
    if len(deltas) == 1:
        return torch.dot(deltas[0], deltas[0]).reshape(1, 1)
    stacked = torch.stack(deltas)
    return stacked @ stacked.T


def is_looked_at(block: Block) -> bool:
    """Whether what rounding does to a block is measured; to the first one it always is."""
    return block.offset // BLOCK % LOOKED_AT == 0


def finish(sums: TensorSums, rules: Mapping[int, Rule]) -> None:
    """Makes sums of a whole tensor of those of the blocks that were looked at.

    Args:
        sums: Of all its blocks.
        rules: The coefficients by output.
    """
    if not sums.looked_at:
        return
    share = sums.elements / sums.looked_at
    sums.standing = round(share * sums.standing)
    for index, of_output in sums.outputs.items():
        of_output.error_squared *= share
        of_output.unmoved = round(share * of_output.unmoved)
        rule = rules[index]
        if sums.as_read and rule.scale == 1.0:
            # Sum of (theta - x_0)^2: the products of the deltas tell it.
            weights = torch.tensor(rule.coefficients, dtype=torch.float64)
            of_output.step_squared = max(0.0, float(weights @ sums.gram @ weights))


def unmoved(rounded: torch.Tensor, before: torch.Tensor) -> int:
    """How many elements are what x_0 is in the output's dtype.

    Args:
        rounded: theta in the output's dtype, shape (n,).
        before: x_0 in its own dtype, shape (n,).
    """
    same = before if before.dtype == rounded.dtype else before.to(rounded.dtype)
    if rounded.element_size() == 2:  # bits are compared several times faster; -0 is another value
        return int(np.count_nonzero(_bits(rounded) == _bits(same)))
    return int(np.count_nonzero(rounded.numpy() == same.numpy()))


def _bits(values: torch.Tensor) -> NDArray[np.int16]:
    return values.view(torch.int16).numpy()


def rows_of(elements: int) -> int:
    """Rows of a sketch that a tensor needs, whole blocks counted."""
    return (elements + BLOCK - 1) // BLOCK * (BLOCK // SKETCH)
