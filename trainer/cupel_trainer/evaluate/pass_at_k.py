"""pass@k of a checkpoint and of an ensemble, without bias, from n samples of which c are accepted.

Source: M. Chen et al., "Evaluating Large Language Models Trained on Code", arXiv 2107.03374: of all
sets of k samples, the share that holds an accepted one is 1 - C(n - c, k) / C(n, k). An ensemble
draws k_m from each member by itself, so its misses multiply:
1 - prod_m C(n_m - c_m, k_m) / C(n_m, k_m).

The quotient is a product of k factors (n - c - i) / (n - i), each within [0, 1]: no factorial, no
overflow, and an error of some k roundings.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
CountArray = NDArray[np.int64]


def miss_table(samples: CountArray, accepted: CountArray, draws_max: int) -> FloatArray:
    """The probability that k samples, drawn without replacement, are all rejected.

    Args:
        samples: n: the samples per problem, (P,).
        accepted: c: the accepted ones among them, (P,).
        draws_max: The largest k.

    Returns:
        (P, draws_max + 1); column k is C(n - c, k) / C(n, k). Where k > n the column of k = n is
        repeated: n draws are all there is, so that 1 minus it is a lower bound of pass@k.

    Raises:
        ValueError: c is not within 0..n, or draws_max is negative.
    """
    if draws_max < 0:
        raise ValueError(f"draws_max is {draws_max}; it must not be negative")
    if np.any(accepted < 0) or np.any(accepted > samples):
        raise ValueError("accepted must lie within 0..samples")
    draw = np.arange(draws_max)
    left = samples[:, None] - draw
    rejected = np.maximum(left - accepted[:, None], 0)
    factors = np.ones(left.shape)
    np.divide(rejected, left, out=factors, where=left > 0)
    return np.concatenate([np.ones((len(samples), 1)), np.cumprod(factors, axis=1)], axis=1)


def pass_at_k(samples: CountArray, accepted: CountArray, k: int) -> FloatArray:
    """The unbiased estimate of pass@k per problem.

    Args:
        samples: n: the samples per problem, (P,).
        accepted: c: the accepted ones among them, (P,).
        k: The draws, 0..min(n).

    Returns:
        1 - C(n - c, k) / C(n, k), (P,).

    Raises:
        ValueError: k > n for some problem, or c is not within 0..n.
    """
    if np.any(samples < k):
        raise ValueError(f"pass@{k} needs {k} samples of every problem, one has {samples.min()}")
    return 1.0 - miss_table(samples, accepted, k)[:, k]


def ensemble_pass(samples: CountArray, accepted: CountArray, draws: Sequence[int]) -> FloatArray:
    """The unbiased estimate, per problem, that an ensemble solves it.

    Args:
        samples: n_m: the samples per member and problem, (M, P).
        accepted: c_m: the accepted ones among them, (M, P).
        draws: k_m: the draws per member.

    Returns:
        1 - prod_m C(n_m - c_m, k_m) / C(n_m, k_m), (P,).

    Raises:
        ValueError: A member has fewer samples than draws, or the shapes do not fit.
    """
    if len(draws) != len(samples):
        raise ValueError(f"{len(draws)} draws for {len(samples)} members: give one each")
    misses = [1.0 - pass_at_k(n, c, k) for n, c, k in zip(samples, accepted, draws, strict=True)]
    missed: FloatArray = np.prod(np.array(misses), axis=0)
    return 1.0 - missed
