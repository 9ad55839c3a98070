"""One training step as a discrete-event simulation: generation, judging beside it, the update.

Theory of operation. An engine decodes all its sequences together: one decoding step gives each one
token and takes `base_s + per_sequence_s * sequences`. So an engine has a clock that counts tokens:
a sequence of n tokens that enters at tick t leaves at tick t + n, and wall time runs slower or
faster as sequences leave and enter. The rollouts come in chunks, which the trainer asks for one
after the other or all at once; a chunk is spread over the engines and ends with its longest
sequence, and then its answers go to the judge. The judge is a queue before `slots` boxes, first
come first served. The update begins when generation is done and every verdict is in: what lies
between the two is the judge wait.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise


class Overlap(StrEnum):
    """When an answer is handed to the judge."""

    NONE = "none"
    """When the whole batch is generated: no judging beside generation."""
    CHUNKS = "chunks"
    """When its chunk is generated, one chunk after the other: each waits for its longest answer."""
    CONCURRENT = "concurrent"
    """When its chunk is generated, all chunks at once: an engine that serves requests can do so."""
    STREAM = "stream"
    """When the answer itself ends: what nothing can beat."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How fast one engine decodes.

    Args:
        base_s: Seconds of a decoding step whatever the number of sequences: reading the weights.
        per_sequence_s: Seconds more per sequence in it: reading its cache, computing its token.
        sequences_max: Sequences at one time; others wait.
        prefill_s: Seconds that the prompt of one sequence takes, during which nothing is decoded.
    """

    base_s: float
    per_sequence_s: float
    sequences_max: int
    prefill_s: float = 0.0


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Where the time of a step went, in seconds.

    Args:
        generation_s: From the first prompt to the last token.
        judge_wait_s: From the last token to the last verdict.
        update_s: The update and the hand-over of weights.
        busy_slots: Mean number of boxes at work between the first prompt and the last verdict.
    """

    generation_s: float
    judge_wait_s: float
    update_s: float
    busy_slots: float

    @property
    def step_s(self) -> float:
        """The whole step."""
        return self.generation_s + self.judge_wait_s + self.update_s

    @property
    def judge_wait_share(self) -> float:
        """The part of the step in which all else waits for verdicts."""
        return self.judge_wait_s / self.step_s if self.step_s else 0.0


def decode_ends(lengths: Sequence[int], decoding: Decoding) -> list[float]:
    """When each sequence ends that one engine decodes, all handed over at second 0.

    Args:
        lengths: Tokens of each; sequences enter in this order.
        decoding: The engine.

    Returns:
        Seconds, one per sequence.
    """
    ends = [0.0] * len(lengths)
    running: list[tuple[int, int]] = []  # last tick, number
    entered, tick, now_s = 0, 0, 0.0
    while entered < len(lengths) or running:
        while entered < len(lengths) and len(running) < decoding.sequences_max:
            heapq.heappush(running, (tick + lengths[entered], entered))
            now_s += decoding.prefill_s
            entered += 1
        last_tick, number = heapq.heappop(running)
        active = len(running) + 1
        now_s += (last_tick - tick) * (decoding.base_s + decoding.per_sequence_s * active)
        tick = last_tick
        ends[number] = now_s
    return ends


def generation_ends(lengths: Sequence[int], decoding: Decoding, engines: int) -> list[float]:
    """When each sequence ends that a group of engines decodes, dealt out one by one in turn.

    Args:
        lengths: Tokens of each.
        decoding: Of every engine.
        engines: How many there are.

    Returns:
        Seconds, one per sequence.
    """
    ends = [0.0] * len(lengths)
    for engine in range(engines):
        ends[engine::engines] = decode_ends(lengths[engine::engines], decoding)
    return ends


def verdict_ends(ready_s: Sequence[float], judging_s: Sequence[float], slots: int) -> list[float]:
    """When each verdict is in: a queue before some boxes, first come first served.

    Args:
        ready_s: When each submission reaches the judge.
        judging_s: How long it keeps a box.
        slots: Boxes.

    Returns:
        Seconds, one per submission.
    """
    free_s = [0.0] * slots
    ends = [0.0] * len(ready_s)
    for number in sorted(range(len(ready_s)), key=ready_s.__getitem__):
        begin_s = max(heapq.heappop(free_s), ready_s[number])
        ends[number] = begin_s + judging_s[number]
        heapq.heappush(free_s, ends[number])
    return ends


def simulate_step(
    lengths: Sequence[int],
    judging_s: Sequence[float],
    *,
    decoding: Decoding,
    engines: int,
    slots: int,
    chunks: int,
    overlap: Overlap,
    update_s: float,
    latency_s: float = 0.0,
) -> StepTimes:
    """Simulates one step.

    Args:
        lengths: Tokens of each completion.
        judging_s: How long each keeps a box.
        decoding: Of every engine.
        engines: How many engines.
        slots: Boxes of all judge hosts.
        chunks: Into how many the batch is cut, where answers wait for their chunk.
        overlap: When answers go to the judge.
        update_s: The update and the hand-over of weights.
        latency_s: From the trainer to the judge and back, per submission.

    Returns:
        Where the time went.
    """
    bounds = [len(lengths) * piece // chunks for piece in range(chunks + 1)]
    pieces = [slice(first, last) for first, last in pairwise(bounds) if first < last]
    ready: list[float] = []
    now_s = 0.0
    if overlap is Overlap.CHUNKS:
        for piece in pieces:
            now_s += max(generation_ends(lengths[piece], decoding, engines))
            ready += [now_s] * (piece.stop - piece.start)
    else:
        ends = generation_ends(lengths, decoding, engines)
        now_s = max(ends)
        if overlap is Overlap.NONE:
            ready = [now_s] * len(ends)
        elif overlap is Overlap.STREAM:
            ready = ends
        else:
            for piece in pieces:
                ready += [max(ends[piece])] * (piece.stop - piece.start)
    verdicts = verdict_ends([each + latency_s for each in ready], judging_s, slots)
    last_s = max(verdicts)
    return StepTimes(
        generation_s=now_s,
        judge_wait_s=max(0.0, last_s - now_s),
        update_s=update_s,
        busy_slots=sum(judging_s) / max(last_s, now_s),
    )
