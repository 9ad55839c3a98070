"""The correctness-efficiency frontier of a study: rates, pass@k and complementarity, in numbers.

Every figure is a mean over problems, so that each problem weighs the same however many of its
samples were lost to judging errors. Solve, optimization-failure, correctness-failure and
unclassified rate sum to 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

import numpy as np

from cupel_trainer.evaluate.bootstrap import Interval, mean_intervals
from cupel_trainer.evaluate.counting import Count, EndlessAs
from cupel_trainer.evaluate.pass_at_k import FloatArray, miss_table
from cupel_trainer.evaluate.records import CheckpointRef
from cupel_trainer.evaluate.splits import Split, by_difficulty
from cupel_trainer.evaluate.verdict_table import VerdictTable


class Rate(StrEnum):
    """What a sample came to."""

    SOLVE = "solve"
    OPTIMIZATION = "optimization"
    CORRECTNESS = "correctness"
    UNCLASSIFIED = "unclassified"


class Place(StrEnum):
    """Where a checkpoint stands on the line through the two ends."""

    END = "trained end"
    INTERPOLATION = "interpolation"
    EXTRAPOLATION = "extrapolation"
    OTHER = "other"


def place_of(checkpoint: CheckpointRef) -> Place:
    """Where a checkpoint stands, by its alpha: 0 and 1 are the ends."""
    if checkpoint.alpha is None:
        return Place.OTHER
    if checkpoint.alpha in (0.0, 1.0):
        return Place.END
    return Place.INTERPOLATION if 0 < checkpoint.alpha < 1 else Place.EXTRAPOLATION


@dataclass(frozen=True, slots=True)
class CheckpointFigures:
    """What one checkpoint did on the problems of a split.

    Args:
        checkpoint: Which.
        rates: Mean over problems of each rate.
        passes: pass@k by k.
        scored: Scored samples; judging errors left out.
        judging_errors: Samples that were not judged, by Cupel's own fault.
        unclassified: Failed samples whose judgement is not complete.
        endless: Optimization failures that never end, or wait without work.
        unprobed: Time-outs in the smallest tier of which nobody knows whether they end.
        tokens: Mean completion tokens of a scored sample.
    """

    checkpoint: CheckpointRef
    rates: Mapping[Rate, Interval]
    passes: Mapping[int, Interval]
    scored: int
    judging_errors: int
    unclassified: int
    endless: int
    unprobed: int
    tokens: float


@dataclass(frozen=True, slots=True)
class Step:
    """The change of each rate from one checkpoint to another, paired by problem."""

    before: CheckpointRef
    after: CheckpointRef
    changes: Mapping[Rate, Interval]


@dataclass(frozen=True, slots=True)
class SplitFigures:
    """All figures of one split.

    Args:
        name: `all`, or a difficulty.
        table: The verdicts behind the figures.
        checkpoints: In the table's order.
        other_rates: Rates per checkpoint with endless loops counted the other way.
        steps: From each alpha to the next.
        span: From alpha 0 to alpha 1 (else the lowest to the highest alpha); None without two.
        beyond: From each end to the farthest extrapolation on its side, where there is one.
        leads: Lead in solve rate of the highest checkpoint over each other one.
        short: Pairs of checkpoint and problem with fewer samples than the largest k.
    """

    name: str
    table: VerdictTable
    checkpoints: tuple[CheckpointFigures, ...]
    other_rates: tuple[Mapping[Rate, Interval], ...]
    steps: tuple[Step, ...]
    span: Step | None
    beyond: tuple[Step, ...]
    leads: tuple[Interval, ...]
    short: int

    @property
    def problems(self) -> int:
        """The number of problems."""
        return len(self.table.problems)

    @property
    def best(self) -> int:
        """Index of the checkpoint with the highest solve rate; the first of equals."""
        solves = [figures.rates[Rate.SOLVE].value for figures in self.checkpoints]
        return solves.index(max(solves))


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """How intervals are made; see `bootstrap`."""

    resamples: int
    seed: int
    level: float

    def intervals(self, values: FloatArray) -> tuple[Interval, ...]:
        """Means over problems of F figures, (F, P), with their intervals."""
        return mean_intervals(values.T, resamples=self.resamples, seed=self.seed, level=self.level)


@dataclass(frozen=True, slots=True)
class StudyFigures:
    """All figures of a study.

    Args:
        table: The verdicts behind them.
        splits: All problems first, then each difficulty.
        draws: The k of pass@k, rising.
        endless: Which failure an endless loop counts as.
        bootstrap: How intervals are made.
        window: Of publication dates, in words; empty for all.
    """

    table: VerdictTable
    splits: tuple[SplitFigures, ...]
    draws: tuple[int, ...]
    endless: EndlessAs
    bootstrap: Bootstrap
    window: str

    @property
    def other_endless(self) -> EndlessAs:
        """The other way to count endless loops."""
        (other,) = set(EndlessAs) - {self.endless}
        return other


def problem_rates(table: VerdictTable, endless: EndlessAs) -> dict[Rate, FloatArray]:
    """The rates of each checkpoint on each problem, (M, P) each; they sum to 1.

    Args:
        table: The verdicts.
        endless: Which failure an endless loop counts as.
    """
    counts = table.counts
    loops = counts[..., Count.ENDLESS]
    slow = counts[..., Count.OPTIMIZATION] + counts[..., Count.UNPROBED]
    wrong = counts[..., Count.CORRECTNESS]
    if endless is EndlessAs.OPTIMIZATION:
        slow = slow + loops
    else:
        wrong = wrong + loops
    parts = {
        Rate.SOLVE: table.accepted,
        Rate.OPTIMIZATION: slow,
        Rate.CORRECTNESS: wrong,
        Rate.UNCLASSIFIED: counts[..., Count.UNCLASSIFIED],
    }
    return {rate: part / table.samples for rate, part in parts.items()}


def draw_counts(table: VerdictTable) -> tuple[int, ...]:
    """The k of a study's pass@k: 1, 2, 4, ... and the largest that all checkpoints allow."""
    largest = int(table.draws_max.min())
    powers = [1 << power for power in range(largest.bit_length()) if 1 << power < largest]
    return (*powers, largest)


def split_figures(
    split: Split, draws: Sequence[int], endless: EndlessAs, bootstrap: Bootstrap
) -> SplitFigures:
    """Computes all figures of a split.

    Args:
        split: The problems.
        draws: The k of pass@k, rising.
        endless: Which failure an endless loop counts as.
        bootstrap: How intervals are made.
    """
    table = split.table
    rates = problem_rates(table, endless)
    (other,) = set(EndlessAs) - {endless}
    solves = rates[Rate.SOLVE]
    best = int(np.argmax(solves.mean(axis=1)))
    return SplitFigures(
        name=split.name,
        table=table,
        checkpoints=_checkpoints(table, rates, draws, bootstrap),
        other_rates=_rate_intervals(problem_rates(table, other), bootstrap),
        steps=_steps(table, rates, bootstrap),
        span=_span(table, rates, bootstrap),
        beyond=_beyond(table, rates, bootstrap),
        leads=bootstrap.intervals(solves[best] - solves),
        short=int((table.samples < draws[-1]).sum()),
    )


def _checkpoints(
    table: VerdictTable, rates: dict[Rate, FloatArray], draws: Sequence[int], bootstrap: Bootstrap
) -> tuple[CheckpointFigures, ...]:
    passes = np.stack(
        [
            1.0 - miss_table(samples, accepted, draws[-1])[:, list(draws)].T
            for samples, accepted in zip(table.samples, table.accepted, strict=True)
        ]
    )  # (M, K, P)
    pass_intervals = bootstrap.intervals(passes.reshape(-1, passes.shape[-1]))
    rate_intervals = _rate_intervals(rates, bootstrap)
    totals = table.counts.sum(axis=1)
    return tuple(
        CheckpointFigures(
            checkpoint=checkpoint,
            rates=rate_intervals[row],
            passes=dict(
                zip(draws, pass_intervals[row * len(draws) : (row + 1) * len(draws)], strict=True)
            ),
            scored=int(table.samples[row].sum()),
            judging_errors=int(totals[row, Count.JUDGING_ERROR]),
            unclassified=int(totals[row, Count.UNCLASSIFIED]),
            endless=int(totals[row, Count.ENDLESS]),
            unprobed=int(totals[row, Count.UNPROBED]),
            tokens=float(table.tokens[row].sum() / table.samples[row].sum()),
        )
        for row, checkpoint in enumerate(table.checkpoints)
    )


def _rate_intervals(
    rates: dict[Rate, FloatArray], bootstrap: Bootstrap
) -> tuple[dict[Rate, Interval], ...]:
    """Per row of the rates' arrays, each rate's interval."""
    intervals = bootstrap.intervals(np.concatenate(list(rates.values())))
    rows = len(intervals) // len(rates)
    return tuple(dict(zip(rates, intervals[row::rows], strict=True)) for row in range(rows))


def alpha_path(table: VerdictTable) -> list[int]:
    """Rows of the checkpoints that have an alpha, by rising alpha; of equals the first."""
    rows: dict[float, int] = {}
    for row, checkpoint in enumerate(table.checkpoints):
        if checkpoint.alpha is not None:
            rows.setdefault(checkpoint.alpha, row)
    return list(rows.values())


def _change(
    table: VerdictTable,
    rates: dict[Rate, FloatArray],
    pairs: Sequence[tuple[int, int]],
    bootstrap: Bootstrap,
) -> tuple[Step, ...]:
    if not pairs:
        return ()
    before, after = (list(rows) for rows in zip(*pairs, strict=True))
    changes = {rate: values[after] - values[before] for rate, values in rates.items()}
    return tuple(
        Step(table.checkpoints[start], table.checkpoints[end], change)
        for (start, end), change in zip(pairs, _rate_intervals(changes, bootstrap), strict=True)
    )


def _steps(
    table: VerdictTable, rates: dict[Rate, FloatArray], bootstrap: Bootstrap
) -> tuple[Step, ...]:
    return _change(table, rates, list(pairwise(alpha_path(table))), bootstrap)


def _span(table: VerdictTable, rates: dict[Rate, FloatArray], bootstrap: Bootstrap) -> Step | None:
    path = alpha_path(table)
    if len(path) < 2:
        return None
    by_alpha = {table.checkpoints[row].alpha: row for row in path}
    pair = (by_alpha.get(0.0, path[0]), by_alpha.get(1.0, path[-1]))
    if pair[0] == pair[1]:  # alphas that all lie on one side of an end
        pair = (path[0], path[-1])
    return _change(table, rates, [pair], bootstrap)[0]


def _beyond(
    table: VerdictTable, rates: dict[Rate, FloatArray], bootstrap: Bootstrap
) -> tuple[Step, ...]:
    path = alpha_path(table)
    by_alpha = {table.checkpoints[row].alpha or 0.0: row for row in path}
    pairs = []
    if 0.0 in by_alpha and min(by_alpha) < 0:
        pairs.append((by_alpha[0.0], path[0]))
    if 1.0 in by_alpha and max(by_alpha) > 1:
        pairs.append((by_alpha[1.0], path[-1]))
    return _change(table, rates, pairs, bootstrap)


def study_figures(
    table: VerdictTable,
    endless: EndlessAs,
    bootstrap: Bootstrap,
    *,
    window: str = "",
    on_split: Callable[[Split], None] = lambda _: None,
) -> StudyFigures:
    """Computes the figures of a study, over all problems and by difficulty.

    Args:
        table: The verdicts.
        endless: Which failure an endless loop counts as.
        bootstrap: How intervals are made.
        window: Of publication dates, in words.
        on_split: Called before each split.
    """
    draws = draw_counts(table)
    figures = []
    for split in by_difficulty(table):
        on_split(split)
        figures.append(split_figures(split, draws, endless, bootstrap))
    return StudyFigures(table, tuple(figures), draws, endless, bootstrap, window)
