from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupel_service.queue.chunks import FEWEST, LARGEST, WORK_S, plan

COUNTS = st.integers(0, 5000)
SLOTS = st.integers(1, 200)
PACES = st.floats(1e-4, 100)
AHEAD = st.integers(0, 5000)


@given(COUNTS, SLOTS, PACES, AHEAD)
def test_every_submission_is_in_exactly_one_chunk_in_order(
    count: int, slots: int, pace_s: float, ahead: int
) -> None:
    assert [index for chunk in plan(count, slots, pace_s, ahead) for index in chunk] == list(
        range(count)
    )


@given(COUNTS, SLOTS, PACES, AHEAD)
def test_no_chunk_is_empty_or_larger_than_one_worker_may_hold_up(
    count: int, slots: int, pace_s: float, ahead: int
) -> None:
    assert all(1 <= len(chunk) <= LARGEST for chunk in plan(count, slots, pace_s, ahead))


@given(COUNTS, SLOTS, PACES, AHEAD)
def test_no_chunk_is_longer_than_the_one_before(
    count: int, slots: int, pace_s: float, ahead: int
) -> None:
    sizes = [len(chunk) for chunk in plan(count, slots, pace_s, ahead)]
    assert sizes == sorted(sizes, reverse=True)


@given(COUNTS, SLOTS, st.floats(0.04, 100))
def test_a_request_gives_every_slot_some_of_its_work(count: int, slots: int, pace_s: float) -> None:
    assert len(plan(count, slots, pace_s)) >= min(count, slots)


@given(COUNTS, SLOTS, PACES, AHEAD)
def test_urgent_work_waits_for_no_more_than_a_chunk(
    count: int, slots: int, pace_s: float, ahead: int
) -> None:
    for chunk in plan(count, slots, pace_s, ahead):
        assert len(chunk) <= FEWEST or len(chunk) * pace_s <= WORK_S + pace_s


@pytest.mark.parametrize(
    ("count", "slots", "pace_s", "ahead", "sizes"),
    [
        (1, 16, 0.1, 0, [1]),
        (4, 1, 0.1, 0, [1, 1, 1, 1]),
        (80, 2, 0.02, 0, [13, 11, 9, 7, 6, 5, 4, 4, 3, 3, *[2] * 7, 1]),
        (100, 1, 0.001, 0, [32, 32, 32, 4]),
        (30, 1, 5.0, 0, [4, 4, 4, 4, 4, 3, 2, *[1] * 5]),
        (64, 16, 0.02, 192, [*[5] * 4, *[4] * 11]),
    ],
)
def test_chunks_become_smaller_towards_the_end(
    count: int, slots: int, pace_s: float, ahead: int, sizes: list[int]
) -> None:
    assert [len(chunk) for chunk in plan(count, slots, pace_s, ahead)] == sizes
