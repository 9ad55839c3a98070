"""Values that no split of a budget over checkpoints exceeds, however it was searched for."""

from __future__ import annotations

import numpy as np

from cupel_trainer.evaluate.allocation import Misses
from cupel_trainer.evaluate.pass_at_k import CountArray, FloatArray

FLOORS = (1e-9, 1e-3, 1e-2, 3e-2)
"""Each gives a bound: a low one is tight for few samples, a high one for many."""
STEPS = 300


def upper_bound(misses: Misses) -> float:
    """A value that no split over any number of the checkpoints exceeds.

    It lies close to the best split where the budget is well below the samples per problem. Near
    them it tends to the share of problems that any checkpoint ever solves.

    Args:
        misses: What splits are valued by.
    """
    everything = misses.value(misses.caps)
    return min(everything, *(_relaxed_bound(misses, floor) for floor in FLOORS))


def _relaxed_bound(misses: Misses, floor: float) -> float:
    """From a concave function of real-valued splits that lies above f, the value of a split.

    Let q'(k) = max(q(k), floor). Where a q is below the floor, the product of q' is at most the
    floor, so the product of q is at least the product of q' minus the floor (minus nothing for
    problems where no q can fall so low). And q'(k) >= exp(-s k) with s = max over k of
    -log q'(k) / k. So f(k) <= mean over problems of 1 - exp(-sum_m s_m k_m) + floor, which is
    concave in k. At any point its tangent plane bounds it, and the plane's highest value over all
    splits is found by filling up the steepest checkpoints first: the bound holds however near to
    the maximum the point is.
    """
    draws = np.arange(1, misses.budget + 1)
    slopes = np.zeros((len(misses.caps), misses.table.shape[2]))
    reached = np.zeros(misses.table.shape[2], dtype=bool)
    for row, cap in enumerate(misses.caps):
        if cap:
            chances = misses.table[row, 1 : cap + 1]
            reached |= (chances < floor).any(axis=0)
            steep = -np.log(np.maximum(chances, floor)) / draws[:cap, None]
            slopes[row] = steep.max(axis=0)
    slack = floor * float(reached.mean())
    point = misses.caps * min(1.0, misses.budget / max(int(misses.caps.sum()), 1))
    best = 1.0
    for step in range(STEPS):
        missed = np.exp(-(point @ slopes))
        gradient = slopes @ missed / len(missed)
        corner = _steepest(gradient, misses.caps, misses.budget)
        best = min(best, float(1 - missed.mean() + gradient @ (corner - point)) + slack)
        point = point + (corner - point) * 2 / (step + 3)  # M. Frank, P. Wolfe 1956
    return best


def _steepest(gradient: FloatArray, caps: CountArray, budget: int) -> FloatArray:
    """The split that is highest on a plane which rises in every direction, (M,)."""
    corner = np.zeros(len(caps))
    left = budget
    for row in np.argsort(-gradient, kind="stable"):
        corner[row] = min(left, int(caps[row]))
        left -= int(corner[row])
    return corner
