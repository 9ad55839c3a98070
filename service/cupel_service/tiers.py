"""Tiers: a problem's tests in ordered steps, small inputs first, so that coverage is nested."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise


def cut_tiers(tests: int, fractions: Sequence[float]) -> tuple[int, ...]:
    """Cuts tests that stand in order of size into tiers at cumulative fractions.

    Tier `j` ends at the smallest number of tests that reaches `fractions[j]` of all, moved where
    needed so that no tier is empty. With fewer tests than fractions there are fewer tiers: one
    test in each.

    Args:
        tests: How many tests there are, at least one.
        fractions: Strictly rising within (0, 1], the last one 1.0.

    Returns:
        The number of tests in tier 1, 2, ...; each at least 1, their sum is `tests`.
    """
    tiers = min(tests, len(fractions))
    ends = [0]
    for tier, fraction in enumerate(fractions[:tiers], start=1):
        # 0.1 * 30 is 3.0000000000000004: a rounding error must not move a test up.
        wanted = math.ceil(fraction * tests - 1e-9)
        latest = tests - (tiers - tier)
        ends.append(max(ends[-1] + 1, min(wanted, latest)))
    ends[-1] = tests
    return tuple(end - start for start, end in pairwise(ends))


def assign_tiers(sizes: Sequence[int], fractions: Sequence[float]) -> tuple[int, ...]:
    """Gives every test its tier by size; tests of one size keep their order.

    Args:
        sizes: Each test's input size, in the order of the problem.
        fractions: As for `cut_tiers`.

    Returns:
        Each test's tier, from 1, in the order of the problem.
    """
    tiers = [0] * len(sizes)
    by_size = iter(sorted(range(len(sizes)), key=sizes.__getitem__))
    for tier, count in enumerate(cut_tiers(len(sizes), fractions), start=1):
        for _ in range(count):
            tiers[next(by_size)] = tier
    return tuple(tiers)
