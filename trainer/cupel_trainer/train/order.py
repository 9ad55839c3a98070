"""Which problems a run sees, step by step: fixed before it begins, by the recipe alone."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence

Order = tuple[tuple[str, ...], ...]
"""The ids of the problems of each step. (steps, prompts_per_step)"""


def problem_order(problems: Sequence[str], *, steps: int, per_step: int, seed: int) -> Order:
    """Passes over a set in ever new shuffles, cut into steps.

    A problem comes twice in a step only where the set is smaller than a step, or where one pass
    ends in it and the next begins.

    Args:
        problems: The ids of the set; their order here does not matter.
        steps: How many.
        per_step: Problems in each.
        seed: Of the shuffles.
    """
    ids = sorted(problems)
    sequence: list[str] = []
    for number in range(-(-steps * per_step // len(ids))):
        # Seeded by text: the same on every machine and version of Python 3.
        shuffler = random.Random(f"cupel order {seed} {number}")  # noqa: S311 (no secret)
        # `shuffle` may change between versions of Python; sorting by drawn numbers does not.
        sequence += sorted(ids, key=lambda _: shuffler.random())
    return tuple(tuple(sequence[step * per_step : (step + 1) * per_step]) for step in range(steps))


def order_digest(order: Order) -> str:
    """SHA-256 of the ids of every step, in their order."""
    document = json.dumps(order, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(document.encode()).hexdigest()
