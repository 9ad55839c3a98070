"""How a request's submissions are cut into chunks, each of which is one job of the queue.

A job costs about 20 commands of Redis and 2 ms of Python, so chunks should be large; a chunk is
judged by one slot, so at the end of all work large ones leave slots idle. Hence guided
self-scheduling (Polychronopoulos and Kuck, 1987): each chunk is a share of what is left. What waits
already counts as left too: where there is so much, more will come behind.
"""

from __future__ import annotations

import math

LARGEST = 32
"""Submissions in a chunk, at most: what one dead worker can hold up."""

WORK_S = 0.4
"""Work in a chunk, at most, so that urgent requests wait no longer than this for a slot."""

LEAST_WORK_S = 0.04
"""Work in a chunk, at least, if there is so much: queueing takes 2 ms of it."""

FEWEST = 4
"""Submissions in a chunk, however slow they are, while there is enough left for all slots."""

SHARES = 3.0
"""Of what is left, a chunk is this many times smaller than an equal share for each slot."""


def plan(count: int, slots: int, pace_s: float, ahead: int = 0) -> list[range]:
    """Cuts submissions 0..count-1 into chunks.

    Args:
        count: How many there are.
        slots: How many slots judge at one time, in the whole cluster.
        pace_s: About how long judging one takes.
        ahead: How many submissions of others wait or run.

    Returns:
        The chunks in order; none is empty.
    """
    most = min(LARGEST, max(FEWEST, round(WORK_S / pace_s)))
    least = min(most, math.ceil(LEAST_WORK_S / pace_s), max(1, math.ceil(count / slots)))
    chunks = []
    first = 0
    while first < count:
        left = count - first
        size = min(left, max(least, min(most, int((left + ahead) / (SHARES * slots)))))
        chunks.append(range(first, first + size))
        first += size
    return chunks
