from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupel_trainer.errors import StudyError
from cupel_trainer.evaluate.allocation import (
    Misses,
    best_single,
    best_split,
    exchanged,
    greedy_splits,
)
from cupel_trainer.evaluate.allocation_bound import upper_bound
from cupel_trainer.evaluate.cross_fit import cross_fit, halve
from cupel_trainer.evaluate.pass_at_k import ensemble_pass, miss_table


def misses(samples: list[list[int]], accepted: list[list[int]], budget: int) -> Misses:
    n, c = np.array(samples), np.array(accepted)
    return Misses(
        table=np.stack([miss_table(*row, budget).T for row in zip(n, c, strict=True)]),
        caps=np.minimum(np.floor(np.median(n, axis=1)).astype(np.int64), budget),
    )


def all_splits(caps: list[int], budget: int, members: int) -> list[tuple[int, ...]]:
    return [
        split
        for split in product(*(range(cap + 1) for cap in caps))
        if sum(split) == budget and sum(map(bool, split)) <= members
    ]


@st.composite
def studies(draw: st.DrawFn, most: int = 4) -> Misses:
    """2 to `most` checkpoints, 1 to 5 problems, up to 7 samples, a budget that one can give."""
    checkpoints = draw(st.integers(2, most))
    problems = draw(st.integers(1, 5))
    samples = draw(st.lists(st.integers(1, 7), min_size=checkpoints, max_size=checkpoints))
    accepted = [
        draw(st.lists(st.integers(0, n), min_size=problems, max_size=problems)) for n in samples
    ]
    budget = draw(st.integers(1, max(samples)))
    return misses([[n] * problems for n in samples], accepted, budget)


def best_value(study: Misses, members: int) -> float:
    splits = all_splits(study.caps.tolist(), study.budget, members)
    return max(study.value(np.array(split)) for split in splits)


def test_a_split_is_valued_as_the_formula_says() -> None:
    study = misses([[4, 4], [5, 5]], [[1, 0], [2, 3]], 4)
    # By hand: 1 - q1 q2. p: q1(1) = 3/4, q2(3) = 1/10; q: q1 = 1, q2(3) = 0.
    assert study.passes(np.array([1, 3])) == pytest.approx([1 - 0.075, 1.0])
    assert study.value(np.array([1, 3])) == pytest.approx(0.9625)
    direct = ensemble_pass(np.array([[4, 4], [5, 5]]), np.array([[1, 0], [2, 3]]), [1, 3])
    assert study.passes(np.array([1, 3])) == pytest.approx(direct)


def test_two_specialists_share_the_budget() -> None:
    study = misses([[8, 8], [8, 8]], [[4, 0], [0, 4]], 4)
    assert best_split(study, 2).tolist() == [2, 2]
    assert best_single(study) == 0


def test_what_one_does_best_alone_is_left_to_it() -> None:
    study = misses([[8, 8], [8, 8], [8, 8]], [[4, 4], [1, 1], [2, 2]], 4)
    for members in (2, 3, None):
        assert best_split(study, members).tolist() == [4, 0, 0]


@given(studies(), st.sampled_from([2, 3]))
def test_over_two_and_three_members_no_split_is_better(study: Misses, members: int) -> None:
    split = best_split(study, members)
    assert split.sum() == study.budget
    assert (split <= study.caps).all()
    assert np.count_nonzero(split) <= members
    assert study.value(split) == pytest.approx(best_value(study, members), abs=1e-12)


@given(studies())
def test_any_number_is_no_worse_than_three_nor_than_greedy(study: Misses) -> None:
    split = best_split(study, None)
    assert split.sum() == study.budget
    assert (split <= study.caps).all()
    assert study.value(split) >= study.value(best_split(study, 3)) - 1e-12
    assert study.value(split) >= study.value(greedy_splits(study)[-1]) - 1e-12


@given(studies())
def test_greedy_reaches_its_share_of_the_best(study: Misses) -> None:
    best = best_value(study, len(study.caps))
    assert study.value(greedy_splits(study)[-1]) >= (1 - 1 / math.e) * best - 1e-12


@given(studies())
def test_no_split_exceeds_the_bound(study: Misses) -> None:
    assert upper_bound(study) >= best_value(study, len(study.caps)) - 1e-9


def test_the_bound_is_close_where_samples_are_many() -> None:
    random = np.random.default_rng(0)
    samples = np.full((5, 40), 100)
    accepted = random.binomial(100, random.beta(0.3, 2.0, size=(5, 40)))
    study = misses(samples.tolist(), accepted.tolist(), 10)
    assert upper_bound(study) - study.value(best_split(study, None)) < 0.02


@given(studies(), st.data())
def test_each_further_sample_is_worth_less(study: Misses, data: st.DataObject) -> None:
    """The property from which greedy's share follows: f(x + e) - f(x) falls as x grows."""
    caps = study.caps.tolist()
    small = [data.draw(st.integers(0, cap)) for cap in caps]
    large = [data.draw(st.integers(low, cap)) for low, cap in zip(small, caps, strict=True)]
    row = data.draw(st.integers(0, len(caps) - 1))
    if large[row] == caps[row]:
        return
    step = np.eye(len(caps), dtype=np.int64)[row]
    gain_small = study.value(np.array(small) + step) - study.value(np.array(small))
    gain_large = study.value(np.array(large) + step) - study.value(np.array(large))
    assert gain_small >= gain_large - 1e-12
    assert gain_large >= -1e-12


@given(studies(), st.data())
def test_exchanges_never_lose(study: Misses, data: st.DataObject) -> None:
    start = np.array([data.draw(st.integers(0, cap)) for cap in study.caps.tolist()])
    end = exchanged(study, start)
    assert end.sum() == start.sum()
    assert (end <= study.caps).all()
    assert study.value(end) >= study.value(start) - 1e-12


def test_greedy_gives_no_more_than_there_is() -> None:
    study = misses([[2], [3]], [[1], [1]], 10)
    splits = greedy_splits(study)
    assert splits[-1].tolist() == [2, 3]
    assert len(splits) == 6


def test_a_single_checkpoint_needs_the_whole_budget() -> None:
    study = misses([[4], [9]], [[4], [0]], 5)
    assert best_single(study) == 1
    assert best_single(misses([[4], [4]], [[4], [0]], 5)) is None


@given(st.lists(st.sampled_from(["easy", "hard", ""]), min_size=2, max_size=30), st.integers(0, 9))
def test_halves_are_even_in_all_strata(strata: list[str], seed: int) -> None:
    one, two = halve(strata, np.random.default_rng(seed))
    assert sorted([*one, *two]) == list(range(len(strata)))
    assert len(one) - len(two) in (0, 1)
    for stratum in set(strata):
        inside = [sum(strata[index] == stratum for index in half) for half in (one, two)]
        assert abs(inside[0] - inside[1]) <= 1


def test_a_problem_is_scored_by_choices_that_did_not_see_it() -> None:
    # Two problems, each solved by one checkpoint only: either half chooses the wrong one for the
    # other, so what is held out is never solved, although the choice looks perfect.
    study = misses([[2, 2], [2, 2]], [[2, 0], [0, 2]], 1)
    fit = cross_fit(study, ["", ""], 2, halvings=3, seed=0)
    assert fit.ensemble.tolist() == [0, 0]
    assert fit.single.tolist() == [0, 0]
    assert sorted({tuple(split) for split in fit.splits.tolist()}) == [(0, 1), (1, 0)]
    assert len(fit.splits) == 6


def test_held_out_scores_are_averages_over_halvings() -> None:
    random = np.random.default_rng(1)
    samples = np.full((3, 12), 10)
    accepted = random.integers(0, 11, size=(3, 12))
    study = misses(samples.tolist(), accepted.tolist(), 4)
    fit = cross_fit(study, ["easy", "hard"] * 6, 2, halvings=1, seed=5)
    one, two = halve(["easy", "hard"] * 6, np.random.default_rng(5))
    assert fit.splits[0].tolist() == best_split(study.on(one), 2).tolist()
    assert fit.ensemble[two] == pytest.approx(study.passes(fit.splits[0])[two])
    assert fit.ensemble[one] == pytest.approx(study.passes(fit.splits[1])[one])
    assert cross_fit(study, [""] * 12, 2, halvings=2, seed=5).ensemble.tolist() == (
        cross_fit(study, [""] * 12, 2, halvings=2, seed=5).ensemble.tolist()
    )


def test_one_problem_cannot_be_halved() -> None:
    with pytest.raises(StudyError, match="cannot be halved"):
        cross_fit(misses([[2], [2]], [[1], [1]], 1), [""], 2, halvings=1, seed=0)
