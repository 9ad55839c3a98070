"""Which checkpoint solves what another does not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cupel_trainer.evaluate.pass_at_k import CountArray, FloatArray, miss_table
from cupel_trainer.evaluate.verdict_table import VerdictTable


@dataclass(frozen=True, slots=True)
class Complementarity:
    """Problems that one checkpoint solves and another does not.

    Luck alone makes two runs of one checkpoint differ, so the plain counts cannot show
    complementarity by themselves. `expected` can: its diagonal is what luck does.

    Args:
        counts: (M, M): problems of which the row has an accepted sample, the column none.
        draws: k: half of the samples.
        expected: (M, M): the expected number of problems that the row solves with k samples and
            the column does not with k. On the diagonal, that k samples of one checkpoint solve and
            k further ones do not.
    """

    counts: CountArray
    draws: int
    expected: FloatArray


def complementarity(table: VerdictTable) -> Complementarity:
    """Compares all checkpoints of a study in pairs.

    Args:
        table: The verdicts.

    Returns:
        The comparison; `draws` is 0, and `expected` zero, if there is a single sample.
    """
    solved = (table.accepted > 0).astype(np.int64)
    draws = int(table.draws_max.min()) // 2
    misses = np.stack(
        [
            miss_table(samples, accepted, 2 * draws)[:, [draws, 2 * draws]]
            for samples, accepted in zip(table.samples, table.accepted, strict=True)
        ]
    )  # (M, P, 2)
    half, whole = misses[..., 0], misses[..., 1]
    expected = (1 - half) @ half.T
    # Both halves are drawn from the same n: both miss with the probability of a miss in 2k draws.
    np.fill_diagonal(expected, (half - whole).sum(axis=1))
    return Complementarity(counts=solved @ (1 - solved).T, draws=draws, expected=expected)


def solved_order(table: VerdictTable) -> CountArray:
    """An order of the problems in which complementarity can be seen.

    First the problems that all checkpoints solve, last those that none does; between them the
    problems that only checkpoints at the low end solve, then on to those of the high end. Within
    each, the ones that are solved more often come first.

    Args:
        table: The verdicts.

    Returns:
        Indices of problems, (P,).
    """
    rates = table.accepted / table.samples
    solvers = (rates > 0).sum(axis=0)
    group = np.where(solvers == len(rates), 0, np.where(solvers == 0, 2, 1))
    total = rates.sum(axis=0)
    place = (np.arange(len(rates)) @ rates) / np.where(total > 0, total, 1.0)
    return np.lexsort((-total, np.where(group == 1, place, 0.0), group))
