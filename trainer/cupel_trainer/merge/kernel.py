"""The arithmetic of a merge: float64 in between, rounded once to the nearest, ties to even.

float64 costs a little more than float32 here and makes every element the correctly rounded one:
with float32 the last bit of a bfloat16 is wrong wherever the exact value lies near the middle of
two neighbours, and coefficients such as 0.3 are wrong in their 25th bit.

torch rounds float64 to bfloat16 by way of float32, that is twice. The second rounding goes wrong
only where the first one lands exactly in the middle of two bfloat16 values; those are found and
mended, which costs less than rounding by hand. Comparing is done by numpy, several times faster.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

BLOCK = 262144
"""Elements computed at a time: few enough for the caches, enough for threads not to wait for
Python's lock most of the time."""

TORCH_DTYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
}
Doubles = NDArray[np.float64]
Singles = NDArray[np.float32]

_SAMPLE = 1024
_MANY = 1 / 64
LARGEST = {name: float(torch.finfo(dtype).max) for name, dtype in TORCH_DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Rule:
    """theta = scale * x_0 + sum of coefficients[i-1] * (x_i - x_0), the coefficients in float64."""

    scale: float
    coefficients: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive elements of one tensor, in float64.

    `offset` counts elements from the tensor's first and is a multiple of `BLOCK`; `anchor` is x_0
    and `deltas` are x_i - x_0, each of shape (n,).
    """

    offset: int
    anchor: torch.Tensor
    deltas: tuple[torch.Tensor, ...]


def decode(raw: memoryview, dtype: str) -> torch.Tensor:
    """Elements as they lie in a file, without a copy where they are aligned; shape (n,)."""
    if not raw.nbytes:
        return torch.empty(0, dtype=TORCH_DTYPES[dtype])
    item_bytes = TORCH_DTYPES[dtype].itemsize
    array = np.frombuffer(raw, dtype=np.uint8)
    if array.ctypes.data % item_bytes:
        array = array.copy()
    return torch.from_numpy(array).view(TORCH_DTYPES[dtype])


def blend(rule: Rule, block: Block, out: torch.Tensor) -> None:
    """Computes theta in float64: each product and each sum rounded by itself, from left to right.

    torch's fused `add(alpha=...)` is not used: where the processor multiplies and adds in one step
    its last bit is another one, so that hosts would differ.

    Args:
        rule: The coefficients.
        block: The inputs.
        out: Where theta goes; float64, shape (n,).
    """
    if rule.scale == 1.0 and rule.coefficients:
        torch.mul(block.deltas[0], rule.coefficients[0], out=out)
        out.add_(block.anchor)
        rest = range(1, len(block.deltas))
    else:
        torch.mul(block.anchor, rule.scale, out=out)
        rest = range(len(block.deltas))
    for index in rest:
        out.add_(block.deltas[index] * rule.coefficients[index])


def round_to(exact: torch.Tensor, dtype: str, out: torch.Tensor) -> None:
    """Rounds float64 to the nearest value of a dtype, ties to even.

    Args:
        exact: float64, shape (n,).
        dtype: `BF16`, `F16`, `F32` or `F64`.
        out: Where the result goes; of that dtype, shape (n,).
    """
    if dtype in ("F64", "F32"):
        out.copy_(exact)
    elif dtype == "F16":
        with np.errstate(over="ignore"):  # looked for by whoever asked, with the tensor's name
            half = exact.numpy().astype(np.float16)  # once, as numpy does; torch rounds twice
        out.copy_(torch.from_numpy(half))
    else:
        single = exact.float()
        _mend_middles(exact.numpy(), single.numpy())
        out.copy_(single)


def rounding_error_squared(exact: torch.Tensor, rounded: torch.Tensor) -> float:
    """The sum of (rounded - exact)^2."""
    error = rounded.double().sub_(exact) if rounded.dtype != exact.dtype else rounded - exact
    return float(torch.dot(error, error))


def _mend_middles(exact: Doubles, single: Singles) -> None:
    """Moves float32 values in the middle of two bfloat16 ones to the side of the exact values."""
    bits = single.view(np.int32)
    few = (bits[:_SAMPLE] & 0xFFFF) == 0x8000
    # Such alphas as 0.5 land there all the time, but then float32 mostly holds them exactly.
    if np.count_nonzero(few) > _MANY * few.size and not np.count_nonzero(exact - single):
        return
    middles = (bits & 0xFFFF) == 0x8000
    places = np.flatnonzero(middles)
    here, there = np.abs(single[places]).astype(np.float64), np.abs(exact[places])
    bits[places] += (there > here).astype(np.int32) - (there < here).astype(np.int32)


def largest_magnitude(values: torch.Tensor) -> float:
    """The largest absolute value; nan or inf if there is one among the values; 0 of nothing."""
    if not values.numel():
        return 0.0
    low, high = torch.aminmax(values)
    return float(torch.maximum(low.abs(), high.abs()))
