"""The best split of a budget of samples over checkpoints.

The value of a split k is f(k) = mean over problems of 1 - prod_m q_m(k_m), where q_m(k) =
C(n_m - c_m, k) / C(n_m, k) is the chance that k samples of checkpoint m all miss.

What can be proven of f. As q(k + 1) = q(k) (n - c - k) / (n - k), a further sample lowers q by
q(k) c / (n - k); the ratio of one such step to the one before is (n - c - k) / (n - k - 1), which
is at most 1 if c is at least 1, and without accepted samples q stays 1. So every q falls, and ever
more slowly. A product of such q, each of its own variable, has second differences that are not
negative, within one variable and across two. So f grows with each k_m, and each further sample is
worth less the more there are, whichever they are: f is monotone and submodular with diminishing
returns on the lattice of splits (after n samples q stays, which changes neither). Therefore the
greedy split, which gives each sample to the checkpoint that gains most, is worth at least 1 - 1/e
of the best (G. Nemhauser, L. Wolsey, M. Fisher 1978, with as many copies of each checkpoint as it
has samples). `allocation_bound` computes a bound of its own, which is mostly much closer.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from cupel_trainer.evaluate.pass_at_k import CountArray, FloatArray, miss_table
from cupel_trainer.evaluate.verdict_table import VerdictTable

EQUAL = 1e-12
"""Values that differ by less are equal: the split with fewer checkpoints is taken."""


@dataclass(frozen=True, slots=True)
class Misses:
    """What splits are valued by.

    Args:
        table: q: (M, K + 1, P): the chance that k samples of a checkpoint all miss.
        caps: The most samples that each checkpoint may give, at most K, (M,).
    """

    table: FloatArray
    caps: CountArray

    @property
    def budget(self) -> int:
        """K: the samples of a split."""
        return int(self.table.shape[1]) - 1

    def on(self, problems: CountArray) -> Misses:
        """The same on some of the problems, by their indices."""
        return Misses(np.ascontiguousarray(self.table[:, :, problems]), self.caps)

    def passes(self, split: CountArray) -> FloatArray:
        """The chance that a split, (M,), solves each problem, (P,)."""
        missed: FloatArray = np.prod(self.table[np.arange(len(split)), split], axis=0)
        return 1.0 - missed

    def value(self, split: CountArray) -> float:
        """The mean over problems of `passes`."""
        return float(self.passes(split).mean())


def misses_of(table: VerdictTable, budget: int) -> Misses:
    """What splits of a budget over the checkpoints of a study are valued by.

    A checkpoint may give as many samples as it has of at least half of the problems. Where it has
    fewer of a problem, these are all that count: the value is a lower bound.

    Args:
        table: The verdicts.
        budget: Samples per problem.
    """
    pairs = zip(table.samples, table.accepted, strict=True)
    return Misses(
        table=np.stack([miss_table(samples, accepted, budget).T for samples, accepted in pairs]),
        caps=np.minimum(table.draws_max, budget),
    )


def best_single(misses: Misses) -> int | None:
    """The checkpoint that is worth most with the whole budget; the first of equals.

    Returns:
        Its row; None if no checkpoint has enough samples.
    """
    values = 1.0 - misses.table[:, -1].mean(axis=1)
    values = np.where(misses.caps >= misses.budget, values, -1.0)
    row = int(np.argmax(values))
    return row if values[row] >= 0 else None


def best_split(misses: Misses, members: int | None) -> CountArray:
    """The best split.

    Args:
        misses: What it is valued by.
        members: 2 or 3: every split over at most so many checkpoints is tried. None: over any
            number, from the greedy split and from the best over three, by exchanges within pairs
            until none gains.

    Returns:
        Samples per checkpoint, (M,); all zero if so few checkpoints have too few samples.
    """
    if members is not None:
        return _best_exact(misses, members)
    starts = (_best_exact(misses, 3), greedy_splits(misses)[-1])
    return max((exchanged(misses, start) for start in starts), key=misses.value)


def _best_exact(misses: Misses, members: int) -> CountArray:
    """Tries all splits over 1, then 2, then 3 checkpoints; more only if they are better."""
    best, least = np.zeros(len(misses.caps), dtype=np.int64), np.inf
    single = best_single(misses)
    if single is not None:
        best[single] = misses.budget
        least = 1.0 - misses.value(best)
    for count in range(2, members + 1):
        split, missed = _best_of_size(misses, count)
        if missed < least - EQUAL:
            best, least = split, missed
    return best


def _best_of_size(misses: Misses, count: int) -> tuple[CountArray, float]:
    """The best split over `count` (2 or 3) checkpoints, and its mean miss."""
    size, budget = len(misses.caps), misses.budget
    table, caps = misses.table / misses.table.shape[2], misses.caps
    plain = misses.table
    best, least = np.zeros(size, dtype=np.int64), np.inf
    for one, two in combinations(range(size), 2):
        thirds = np.arange(two + 1, size) if count == 3 else np.array([], dtype=np.int64)
        if count == 3 and not len(thirds):
            continue
        for both in range(budget + 1) if count == 3 else [budget]:
            low, high = max(0, both - int(caps[two])), min(both, int(caps[one]))
            if low > high:
                continue
            # Row i: `low + i` samples of the one, the rest of `both` of the other.
            pairs = table[one, low : high + 1] * plain[two, both - high : both - low + 1][::-1]
            if count == 3:
                fit = thirds[caps[thirds] >= budget - both]
                missed = pairs @ plain[fit, budget - both].T
            else:
                fit = thirds
                missed = pairs.sum(axis=1, keepdims=True)
            if missed.size == 0 or missed.min() >= least - EQUAL:
                continue
            row, column = np.unravel_index(int(missed.argmin()), missed.shape)
            best, least = np.zeros(size, dtype=np.int64), float(missed[row, column])
            best[one], best[two] = low + row, both - low - row
            if count == 3:
                best[fit[column]] = budget - both
    return best, least


def greedy_splits(misses: Misses) -> list[CountArray]:
    """The greedy splits of 0, 1, 2, ... samples, up to the budget or what there is."""
    split = np.zeros(len(misses.caps), dtype=np.int64)
    rows = np.arange(len(split))
    missed = np.ones(misses.table.shape[2])
    splits = [split]
    for _ in range(min(misses.budget, int(misses.caps.sum()))):
        now = misses.table[rows, split]
        further = misses.table[rows, np.minimum(split + 1, misses.budget)]
        # Miss chances that are zero stay zero: nothing is gained, nothing divided by zero.
        ratio = np.divide(further, now, out=np.zeros_like(now), where=now > 0)
        means = np.where(split < misses.caps, ratio @ missed, np.inf)
        chosen = int(np.argmin(means))
        split = split.copy()
        split[chosen] += 1
        missed = missed * ratio[chosen]
        splits.append(split)
    return splits


def exchanged(misses: Misses, split: CountArray) -> CountArray:
    """Splits the samples of each pair of checkpoints anew, as is best, until nothing gains.

    Args:
        misses: What it is valued by.
        split: Where to begin, (M,).

    Returns:
        A split of as many samples that is worth at least as much.
    """
    split, gained = split.copy(), True
    rows = np.arange(len(split))
    while gained:
        gained = False
        for one, two in combinations(range(len(split)), 2):
            both = int(split[one] + split[two])
            others = np.prod(misses.table[rows, split][(rows != one) & (rows != two)], axis=0)
            low = max(0, both - int(misses.caps[two]))
            high = min(both, int(misses.caps[one]))
            pairs = (
                misses.table[one, low : high + 1]
                * misses.table[two, both - high : both - low + 1][::-1]
            )
            missed = pairs @ others / len(others)
            row = int(np.argmin(missed))
            if missed[row] < missed[split[one] - low] - EQUAL:
                split[one], split[two] = low + row, both - low - row
                gained = True
    return split
