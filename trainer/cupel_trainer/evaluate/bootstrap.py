"""Intervals for means over problems: the percentile bootstrap.

Problems are drawn anew with replacement, samples are not: the problems are the population that a
study speaks about, and the luck of a problem's samples is part of how its value varies. Source:
B. Efron, R. Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13. Draws depend on the
seed and the number of problems only, so all values of one study are resampled alike, and a
difference of two checkpoints is paired by problem.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cupel_trainer.evaluate.pass_at_k import FloatArray

RESAMPLES = 10_000
LEVEL = 0.95
_CHUNK = 1_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over problems, and the interval around it."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside: for differences."""
        return self.low > 0 or self.high < 0


def mean_intervals(
    values: FloatArray, *, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL
) -> tuple[Interval, ...]:
    """Means over problems with their bootstrap intervals.

    Args:
        values: One row per problem, one column per figure, (P, F).
        resamples: How often the problems are drawn anew.
        seed: Of the draws.
        level: Of the intervals, such as 0.95.

    Returns:
        One interval per column.

    Raises:
        ValueError: There is no problem, or `level` or `resamples` is out of range.
    """
    if len(values) == 0:
        raise ValueError("an interval needs at least one problem")
    if not 0 < level < 1 or resamples < 1:
        raise ValueError("level must lie within (0, 1), resamples be at least 1")
    means = resampled_means(values, resamples=resamples, seed=seed)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return tuple(
        Interval(float(value), float(lower), float(upper))
        for value, lower, upper in zip(values.mean(axis=0), low, high, strict=True)
    )


def resampled_means(values: FloatArray, *, resamples: int, seed: int) -> FloatArray:
    """The means of each resample, (resamples, F).

    Args:
        values: One row per problem, (P, F).
        resamples: How often the problems are drawn anew.
        seed: Of the draws.
    """
    problems = len(values)
    random = np.random.default_rng(seed)
    means = np.empty((resamples, values.shape[1]))
    for start in range(0, resamples, _CHUNK):  # a chunk at a time: memory stays small
        size = min(_CHUNK, resamples - start)
        drawn = random.integers(problems, size=(size, problems))
        drawn += np.arange(size)[:, None] * problems  # a place per resample and problem
        times = np.bincount(drawn.ravel(), minlength=size * problems).reshape(size, problems)
        means[start : start + size] = times @ values / problems
    return means


def mean_interval(
    values: FloatArray, *, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL
) -> Interval:
    """The mean of one value per problem, (P,), with its interval; see `mean_intervals`."""
    return mean_intervals(values[:, None], resamples=resamples, seed=seed, level=level)[0]
