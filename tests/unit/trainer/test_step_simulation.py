from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupel_trainer.plan.judge_hosts import (
    StepShape,
    hosts_needed,
    mean_step,
    slots_needed,
)
from cupel_trainer.plan.simulation import (
    Decoding,
    Overlap,
    decode_ends,
    generation_ends,
    simulate_step,
    verdict_ends,
)
from cupel_trainer.plan.workload import Rollout, Workload

# One second per decoding step and one more per sequence in it.
SLOW = Decoding(base_s=1.0, per_sequence_s=1.0, sequences_max=2)


def test_an_engine_speeds_up_when_sequences_leave() -> None:
    # Both run for 2 ticks at 3 s, then one for 3 ticks at 2 s.
    assert decode_ends([2, 5], SLOW) == [6.0, 12.0]


def test_a_sequence_enters_when_there_is_room() -> None:
    # 2 ticks at 3 s; the third enters for 1 tick at 3 s; the second has 2 ticks at 2 s left.
    assert decode_ends([2, 5, 1], SLOW) == [6.0, 13.0, 9.0]


def test_prompts_are_read_before_their_answers_are_decoded() -> None:
    decoding = Decoding(base_s=1.0, per_sequence_s=0.0, sequences_max=1, prefill_s=10.0)
    assert decode_ends([1, 1], decoding) == [11.0, 22.0]


def test_engines_share_sequences_in_turn() -> None:
    # The first engine has 2 and 5, the second 3 alone at 2 s a tick.
    assert generation_ends([2, 3, 5], SLOW, engines=2) == [6.0, 6.0, 12.0]


def test_verdicts_wait_for_a_free_box_in_order_of_arrival() -> None:
    assert verdict_ends([0.0, 0.0, 1.0], [4.0, 2.0, 1.0], slots=1) == [4.0, 6.0, 7.0]
    assert verdict_ends([0.0, 0.0, 1.0], [4.0, 2.0, 1.0], slots=2) == [4.0, 2.0, 3.0]
    assert verdict_ends([5.0, 0.0], [1.0, 1.0], slots=1) == [6.0, 1.0]


def test_a_queue_of_chance_waits_as_long_as_theory_says() -> None:
    # Poisson arrivals at 0.8 of one box's rate: exponential times wait 4 means, equal ones 2
    # (Pollaczek-Khinchine); with four boxes at 0.8, Erlang C gives 0.7455 means of one.
    random = np.random.default_rng(1)
    count = 200_000
    arrivals = np.cumsum(random.exponential(1 / 0.8, count))
    ready = arrivals.tolist()
    drawn = random.exponential(1.0, count).tolist()
    for times, expected in ((drawn, 4.0), ([1.0] * count, 2.0)):
        ends = verdict_ends(ready, times, slots=1)
        waits = [end - begin - time for end, begin, time in zip(ends, ready, times, strict=True)]
        assert math.fsum(waits) / count == pytest.approx(expected, rel=0.08)
    faster = (arrivals / 4).tolist()
    ends = verdict_ends(faster, drawn, slots=4)
    waits = [end - begin - time for end, begin, time in zip(ends, faster, drawn, strict=True)]
    assert math.fsum(waits) / count == pytest.approx(0.7455, rel=0.08)


def test_a_step_by_hand_with_each_way_to_overlap() -> None:
    # Two answers of 2 and 4 tokens, one token a second; each is judged for 3 s in one box.
    decoding = Decoding(base_s=1.0, per_sequence_s=0.0, sequences_max=8)

    def step(overlap: Overlap, chunks: int):
        return simulate_step(
            [2, 4],
            [3.0, 3.0],
            decoding=decoding,
            engines=1,
            slots=1,
            chunks=chunks,
            overlap=overlap,
            update_s=10.0,
        )

    after = step(Overlap.NONE, 1)  # generated at 4, judged at 7 and 10
    assert (after.generation_s, after.judge_wait_s, after.step_s) == (4.0, 6.0, 20.0)
    chunked = step(Overlap.CHUNKS, 2)  # generated at 2 and 6, judged at 5 and 9
    assert (chunked.generation_s, chunked.judge_wait_s, chunked.step_s) == (6.0, 3.0, 19.0)
    unchunked = step(Overlap.CHUNKS, 1)
    assert unchunked == after
    concurrent = step(Overlap.CONCURRENT, 2)  # one answer a chunk: as it ends
    assert concurrent == step(Overlap.STREAM, 1)
    assert step(Overlap.CONCURRENT, 1) == after
    streamed = step(Overlap.STREAM, 2)  # generated at 2 and 4, judged at 5 and 8
    assert (streamed.generation_s, streamed.judge_wait_s, streamed.step_s) == (4.0, 4.0, 18.0)
    assert streamed.busy_slots == pytest.approx(6 / 8)
    assert streamed.judge_wait_share == pytest.approx(4 / 18)


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=30),
    limit=st.integers(1, 8),
    chunks=st.integers(1, 5),
)
def test_more_boxes_never_make_a_step_longer(lengths: list[int], limit: int, chunks: int) -> None:
    decoding = Decoding(base_s=0.1, per_sequence_s=0.02, sequences_max=limit)
    times = [float(1 + length % 7) for length in lengths]
    waits = [
        simulate_step(
            lengths,
            times,
            decoding=decoding,
            engines=2,
            slots=slots,
            chunks=chunks,
            overlap=Overlap.CHUNKS,
            update_s=1.0,
        ).judge_wait_s
        for slots in (1, 2, 3, 8)
    ]
    assert waits == sorted(waits, reverse=True)


def test_the_fewest_boxes_that_meet_the_bar_are_found() -> None:
    # 64 answers of 10 tokens in one chunk end at 10 s; each is judged for 1 s: with s boxes the
    # wait is 64/s, and 5 % of (10 + 64/s + 90) is met from 64/s < 5.263 on, so with 13 boxes.
    shape = StepShape(
        completions=64,
        chunks=1,
        decoding=Decoding(base_s=1.0, per_sequence_s=0.0, sequences_max=64),
        engines=1,
        update_s=90.0,
        latency_s=0.0,
    )
    workload = Workload("by hand", [Rollout(tokens=10, judging_s=1.0, tests=3)])
    found = slots_needed(shape, workload, Overlap.CHUNKS, steps=2)
    assert found is not None
    assert found.slots == 13
    assert found.judge_wait_s == 5.0
    assert hosts_needed(found.slots, slots_per_host=4) == 4
    one_fewer = mean_step(shape, workload, 12, Overlap.CHUNKS, steps=2)
    assert one_fewer.judge_wait_share > 0.05


def test_a_verdict_that_is_too_slow_by_itself_is_not_helped_by_boxes() -> None:
    shape = StepShape(4, 1, Decoding(0.1, 0.0, 8), engines=1, update_s=1.0)
    workload = Workload("by hand", [Rollout(tokens=10, judging_s=60.0, tests=3)])
    assert slots_needed(shape, workload, Overlap.CHUNKS, steps=2) is None
