"""What a way of choosing ensembles is worth on problems that it did not see.

The best of many splits on the problems that chose it is flattered by luck. So the problems are
halved; each half chooses its split, and its single checkpoint, which are scored on the other half.
Several halvings smooth out which problems fell together. Every problem is scored once per halving,
and its scores are averaged, so that the bootstrap over problems sees one value per problem. It
takes the chosen splits as they are: the interval does not hold how choices vary with the problems.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cupel_trainer.errors import StudyError
from cupel_trainer.evaluate.allocation import Misses, best_single, best_split
from cupel_trainer.evaluate.pass_at_k import CountArray, FloatArray


@dataclass(frozen=True, slots=True)
class CrossFit:
    """Values per problem, each from choices that did not see the problem.

    Args:
        ensemble: pass@K of the splits that were chosen, (P,).
        single: pass@K of the single checkpoints that were chosen, (P,).
        splits: The split that each half chose, (2 * halvings, M).
    """

    ensemble: FloatArray
    single: FloatArray
    splits: CountArray


def halve(strata: Sequence[str], random: np.random.Generator) -> tuple[CountArray, CountArray]:
    """Halves problems by chance, each stratum as evenly as it can be.

    Args:
        strata: The stratum of each problem, such as its difficulty.
        random: Where chance comes from.

    Returns:
        Indices of the two halves, whose sizes differ by at most 1.
    """
    shuffled = random.permutation(len(strata))
    by_stratum = sorted(shuffled, key=lambda index: strata[index])
    # Dealt out in turns over the strata's ends, an odd problem goes to the half that is due.
    return np.array(sorted(by_stratum[::2])), np.array(sorted(by_stratum[1::2]))


def cross_fit(
    misses: Misses,
    strata: Sequence[str],
    members: int | None,
    *,
    halvings: int,
    seed: int,
    on_half: Callable[[], None] = lambda: None,
) -> CrossFit:
    """Chooses on each half and scores on the other, for several halvings.

    Args:
        misses: What splits are valued by.
        strata: The stratum of each problem.
        members: How many checkpoints a split may have; see `allocation.best_split`.
        halvings: How many times the problems are halved.
        seed: Of the halvings.
        on_half: Called after each half.

    Returns:
        Values per problem.

    Raises:
        StudyError: There are fewer than two problems, or no checkpoint has enough samples.
    """
    problems = misses.table.shape[2]
    if problems < 2:
        raise StudyError("one problem cannot be halved: choose an ensemble on more problems")
    ensemble, single = np.zeros(problems), np.zeros(problems)
    splits = []
    random = np.random.default_rng(seed)
    for _ in range(halvings):
        halves = halve(strata, random)
        for chooses, scores in (halves, halves[::-1]):
            seen, held_out = misses.on(chooses), misses.on(scores)
            row = best_single(seen)
            if row is None:
                raise StudyError(f"no checkpoint has {misses.budget} scored samples per problem")
            split = best_split(seen, members)
            ensemble[scores] += held_out.passes(split)
            single[scores] += 1.0 - held_out.table[row, -1]
            splits.append(split)
            on_half()
    return CrossFit(ensemble / halvings, single / halvings, np.array(splits))
