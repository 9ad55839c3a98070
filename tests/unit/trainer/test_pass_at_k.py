from __future__ import annotations

from itertools import combinations, product
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupel_trainer.evaluate.pass_at_k import ensemble_pass, miss_table, pass_at_k


def counts(*values: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.array(values, dtype=np.int64)


def test_pass_at_1_is_the_share_of_accepted_samples() -> None:
    assert pass_at_k(counts(4, 4, 5), counts(0, 1, 5), 1).tolist() == [0.0, 0.25, 1.0]


def test_pass_at_k_is_what_one_computes_by_hand() -> None:
    # n = 5, c = 2, k = 3: of 10 triples only the one of the three rejected samples misses.
    assert pass_at_k(counts(5), counts(2), 3) == pytest.approx([0.9])
    # n = 6, c = 1, k = 2: 5 of 15 pairs hold the accepted sample.
    assert pass_at_k(counts(6), counts(1), 2) == pytest.approx([1 / 3])


def test_all_draws_find_a_single_accepted_sample() -> None:
    assert pass_at_k(counts(1000), counts(1), 1000).tolist() == [1.0]
    assert pass_at_k(counts(1000), counts(0), 1000).tolist() == [0.0]


@given(st.integers(1, 7), st.data())
def test_pass_at_k_is_the_share_of_sets_that_hold_an_accepted_sample(
    n: int, data: st.DataObject
) -> None:
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(0, n))
    sets = list(combinations(range(n), k))
    share = sum(any(sample < c for sample in chosen) for chosen in sets) / len(sets)
    assert pass_at_k(counts(n), counts(c), k) == pytest.approx([share], abs=1e-12)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 4), st.integers(0, 4)), max_size=3))
def test_an_ensemble_solves_what_any_choice_of_its_members_draws_solves(
    members: list[tuple[int, int, int]],
) -> None:
    members = [(n, min(c, n), min(k, n)) for n, c, k in members] or [(1, 0, 1)]
    draws = [list(combinations(range(n), k)) for n, _, k in members]
    choices = list(product(*draws))
    hits = sum(
        any(
            sample < c
            for chosen, (_, c, _) in zip(choice, members, strict=True)
            for sample in chosen
        )
        for choice in choices
    )
    n, c, k = (list(column) for column in zip(*members, strict=True))
    solved = ensemble_pass(np.array(n)[:, None], np.array(c)[:, None], k)
    assert solved == pytest.approx([hits / len(choices)], abs=1e-12)


@given(st.integers(1, 1000), st.data())
def test_large_counts_lose_no_digits(n: int, data: st.DataObject) -> None:
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(0, n))
    exact = comb(n - c, k) / comb(n, k)  # Python's integers: exact, rounded once
    missed = miss_table(counts(n), counts(c), k)[0, k]
    assert missed == pytest.approx(exact, rel=1e-11, abs=1e-300)


def test_beyond_n_the_value_at_n_is_kept() -> None:
    table = miss_table(counts(2, 2), counts(0, 1), 4)
    assert table.tolist() == [[1, 1, 1, 1, 1], [1, 0.5, 0, 0, 0]]


def test_more_draws_than_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="pass@3 needs 3 samples of every problem, one has 2"):
        pass_at_k(counts(5, 2), counts(1, 1), 3)


def test_more_accepted_than_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="accepted"):
        miss_table(counts(2), counts(3), 1)
    with pytest.raises(ValueError, match="negative"):
        miss_table(counts(2), counts(1), -1)


def test_each_member_needs_its_draws() -> None:
    with pytest.raises(ValueError, match="1 draws for 2 members"):
        ensemble_pass(np.ones((2, 1), dtype=np.int64), np.ones((2, 1), dtype=np.int64), [1])
