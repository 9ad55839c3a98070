"""The correctness-efficiency frontier of a study: rates, pass@k and complementarity, in numbers.

Every figure is a mean over problems, so that each problem weighs the same however many of its
samples were lost to judging errors. Solve, optimization-failure, correctness-failure and
unclassified rate sum to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from cupel_trainer.evaluate.bootstrap import Interval, mean_intervals
from cupel_trainer.evaluate.counting import Count, EndlessAs
from cupel_trainer.evaluate.pass_at_k import FloatArray, miss_table
from cupel_trainer.evaluate.records import CheckpointRef
from cupel_trainer.evaluate.splits import Split
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
        leads: Lead in solve rate of the highest checkpoint over each other one.
        short: Pairs of checkpoint and problem with fewer samples than the largest k.
    """

    name: str
    table: VerdictTable
    checkpoints: tuple[CheckpointFigures, ...]
    other_rates: tuple[Mapping[Rate, Interval], ...]
    steps: tuple[Step, ...]
    span: Step | None
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
        return mean_intervals(
            values.T, resamples=self.resamples, seed=self.seed, level=self.level
        )


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
    columns = [bootstrap.intervals(values) for values in rates.values()]
    return tuple(dict(zip(rates, row, strict=True)) for row in zip(*columns, strict=True))


def alpha_path(table: VerdictTable) -> list[int]:
    """Rows of the checkpoints that have an alpha, by rising alpha; of equals the first."""
    rows: dict[float, int] = {}
    for row, checkpoint in enumerate(table.checkpoints):
        if checkpoint.alpha is not None:
            rows.setdefault(checkpoint.alpha, row)
    return list(rows.values())


def _steps(
    table: VerdictTable, rates: dict[Rate, FloatArray], bootstrap: Bootstrap
) -> tuple[Step, ...]:
    path = alpha_path(table)
    if len(path) < 2:
        return ()
    changes = {rate: np.diff(values[path], axis=0) for rate, values in rates.items()}
    checkpoints = [table.checkpoints[row] for row in path]
    return tuple(
        Step(before, after, change)
        for before, after, change in zip(
            checkpoints, checkpoints[1:], _rate_intervals(changes, bootstrap), strict=False
        )
    )


def _span(
    table: VerdictTable, rates: dict[Rate, FloatArray], bootstrap: Bootstrap
) -> Step | None:
    path = alpha_path(table)
    if len(path) < 2:
        return None
    by_alpha = {table.checkpoints[row].alpha: row for row in path}
    before, after = by_alpha.get(0.0, path[0]), by_alpha.get(1.0, path[-1])
    if before == after:  # alphas that all lie on one side of an end
        before, after = path[0], path[-1]
    change = {rate: (values[after] - values[before])[None] for rate, values in rates.items()}
    return Step(
        table.checkpoints[before],
        table.checkpoints[after],
        _rate_intervals(change, bootstrap)[0],
    )
