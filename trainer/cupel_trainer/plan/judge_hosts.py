"""How many judge hosts a step needs so that it hardly waits for verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cupel_trainer.plan.simulation import Decoding, Overlap, StepTimes, simulate_step
from cupel_trainer.plan.workload import Workload

WAIT_SHARE_MAX = 0.05
"""The bar: at most this part of a step is spent waiting for verdicts."""
LATENCY_S = 0.05
"""From the trainer to the judge and back, per submission: HTTP, queue, checking; an assumption."""
SLOTS_MAX = 1 << 16


@dataclass(frozen=True, slots=True)
class StepShape:
    """A recipe's step as the simulation sees it.

    Args:
        completions: Answers per step.
        chunks: Into how many the rollouts are cut.
        decoding: Of every engine.
        engines: How many engines.
        update_s: The update and the hand-over of weights.
        latency_s: See `LATENCY_S`.
    """

    completions: int
    chunks: int
    decoding: Decoding
    engines: int
    update_s: float
    latency_s: float = LATENCY_S


@dataclass(frozen=True, slots=True)
class MeanStep:
    """Means over some simulated steps, in seconds, with what the worst of them waited."""

    slots: int
    generation_s: float
    judge_wait_s: float
    update_s: float
    busy_slots: float
    longest_wait_s: float

    @property
    def step_s(self) -> float:
        """The mean step."""
        return self.generation_s + self.judge_wait_s + self.update_s

    @property
    def judge_wait_share(self) -> float:
        """The part of all time that was spent waiting for verdicts."""
        return self.judge_wait_s / self.step_s


def mean_step(
    shape: StepShape,
    workload: Workload,
    slots: int,
    overlap: Overlap,
    *,
    steps: int = 20,
    seed: int = 0,
) -> MeanStep:
    """Simulates some steps; the same seed draws the same answers whatever the slots.

    Args:
        shape: The step.
        workload: What its answers are drawn from.
        slots: Boxes of all judge hosts.
        overlap: When answers go to the judge.
        steps: How many steps.
        seed: Of the first step; the next ones follow.
    """
    times = [_one_step(shape, workload, slots, overlap, seed + step) for step in range(steps)]
    return MeanStep(
        slots,
        generation_s=_mean([each.generation_s for each in times]),
        judge_wait_s=_mean([each.judge_wait_s for each in times]),
        update_s=_mean([each.update_s for each in times]),
        busy_slots=_mean([each.busy_slots for each in times]),
        longest_wait_s=max(each.judge_wait_s for each in times),
    )


def slots_needed(
    shape: StepShape,
    workload: Workload,
    overlap: Overlap,
    *,
    wait_share: float = WAIT_SHARE_MAX,
    steps: int = 20,
    seed: int = 0,
) -> MeanStep | None:
    """The fewest boxes with which a step waits less than a share of its time.

    More boxes never make a verdict later, so halving finds them.

    Args:
        shape: The step.
        workload: What its answers are drawn from.
        overlap: When answers go to the judge.
        wait_share: The share.
        steps: Simulated per number of boxes.
        seed: Of the first step.

    Returns:
        The step with that many boxes; None if no number is enough: then the slowest verdict after
        the end of generation alone takes longer.
    """

    def tried(slots: int) -> MeanStep:
        return mean_step(shape, workload, slots, overlap, steps=steps, seed=seed)

    few, many = 0, 1
    while (best := tried(many)).judge_wait_share >= wait_share:
        if many >= min(SLOTS_MAX, shape.completions):
            return None
        few, many = many, min(2 * many, shape.completions)
    while many - few > 1:
        middle = (few + many) // 2
        found = tried(middle)
        if found.judge_wait_share < wait_share:
            best, many = found, middle
        else:
            few = middle
    return best


def hosts_needed(slots: int, slots_per_host: int) -> int:
    """Hosts with so many boxes together; one at least."""
    return max(1, math.ceil(slots / slots_per_host))


def _one_step(
    shape: StepShape, workload: Workload, slots: int, overlap: Overlap, seed: int
) -> StepTimes:
    rollouts = workload.draw(shape.completions, np.random.default_rng(seed))
    return simulate_step(
        [each.tokens for each in rollouts],
        [each.judging_s for each in rollouts],
        decoding=shape.decoding,
        engines=shape.engines,
        slots=slots,
        chunks=shape.chunks,
        overlap=overlap,
        update_s=shape.update_s,
        latency_s=shape.latency_s,
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
