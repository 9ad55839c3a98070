from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupel_trainer.evaluate.bootstrap import (
    Interval,
    mean_interval,
    mean_intervals,
    resampled_means,
)


def binomial_quantiles(trials: int, chance: float, shares: tuple[float, float]) -> list[int]:
    """The smallest counts whose cumulative chance reaches the shares."""
    chances = [
        math.comb(trials, count) * chance**count * (1 - chance) ** (trials - count)
        for count in range(trials + 1)
    ]
    return [int(np.searchsorted(np.cumsum(chances), share)) for share in shares]


@pytest.mark.parametrize(("ones", "problems"), [(3, 10), (20, 40), (95, 100)])
def test_zeros_and_ones_have_the_quantiles_of_the_binomial(ones: int, problems: int) -> None:
    # A resample of `ones` ones among P values has Binomial(P, ones / P) ones.
    values = np.array([1.0] * ones + [0.0] * (problems - ones))
    interval = mean_interval(values, resamples=40_000, seed=3)
    low, high = binomial_quantiles(problems, ones / problems, (0.025, 0.975))
    assert interval.value == pytest.approx(ones / problems)
    assert interval.low * problems == pytest.approx(low, abs=1)
    assert interval.high * problems == pytest.approx(high, abs=1)


def test_resamples_spread_as_the_standard_error_says() -> None:
    values = np.random.default_rng(0).normal(2.0, 3.0, size=(60, 1))
    means = resampled_means(values, resamples=40_000, seed=0)
    # The bootstrap's variance of a mean is known exactly: the mean square deviation over P.
    assert means.std() == pytest.approx(values.std() / math.sqrt(60), rel=0.02)
    assert means.mean() == pytest.approx(values.mean(), abs=0.02)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    values = np.arange(20.0)
    assert mean_interval(values, seed=1) == mean_interval(values, seed=1)
    assert mean_interval(values, seed=1) != mean_interval(values, seed=2)


def test_columns_are_resampled_alike_so_differences_are_paired() -> None:
    values = np.random.default_rng(1).random(50)
    shifted = values + 0.125
    both = mean_intervals(np.stack([values, shifted], axis=1))
    difference = mean_interval(shifted - values)
    assert difference.low == pytest.approx(0.125)
    assert difference.high == pytest.approx(0.125)
    assert both[1].low - both[0].low == pytest.approx(0.125)
    assert both[0].high - both[0].low > 0.05


def test_every_resample_is_drawn_and_the_first_do_not_depend_on_how_many_follow() -> None:
    values = np.random.default_rng(2).random((7, 2))
    means = resampled_means(values, resamples=2500, seed=0)
    assert means[:1000].tolist() == resampled_means(values, resamples=1000, seed=0).tolist()
    assert len(np.unique(means[2000:, 0])) > 100
    assert values.min() <= means.min() <= means.max() <= values.max()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.integers(0, 5))
def test_an_interval_holds_its_mean_and_stays_within_the_values(
    values: list[float], seed: int
) -> None:
    interval = mean_interval(np.array(values), resamples=500, seed=seed)
    assert min(values) - 1e-12 <= interval.low <= interval.high <= max(values) + 1e-12
    assert interval.low - 0.2 <= interval.value <= interval.high + 0.2


def test_an_interval_says_whether_it_excludes_zero() -> None:
    assert Interval(0.2, 0.1, 0.3).excludes_zero
    assert Interval(-0.2, -0.3, -0.1).excludes_zero
    assert not Interval(0.1, 0.0, 0.2).excludes_zero


def test_what_makes_no_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one problem"):
        mean_intervals(np.empty((0, 1)))
    with pytest.raises(ValueError, match="level"):
        mean_intervals(np.ones((2, 1)), level=1.0)
    with pytest.raises(ValueError, match="resamples"):
        mean_intervals(np.ones((2, 1)), resamples=0)
