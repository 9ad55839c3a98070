"""The tables of a study: exact numbers as CSV, rounded ones for people."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cupel_trainer.evaluate.bootstrap import Interval
from cupel_trainer.evaluate.complementarity import complementarity
from cupel_trainer.evaluate.counting import Count
from cupel_trainer.evaluate.findings import percent
from cupel_trainer.evaluate.frontier import Rate, SplitFigures, StudyFigures, place_of
from cupel_trainer.evaluate.records import CheckpointRef

Cell = str | int | float | None
"""None is an empty cell: what does not exist, such as the alpha of a checkpoint without one."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows below column names; every row has one cell per column."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @property
    def numeric(self) -> frozenset[int]:
        """Columns that hold numbers, or shares in percent."""
        return frozenset(
            column
            for column in range(len(self.columns))
            if all(_is_number(row[column]) for row in self.rows)
        )


def _is_number(cell: Cell) -> bool:
    return not isinstance(cell, str) or re.match(r"[0-9.]+%", cell) is not None


def csv_bytes(table: Table) -> bytes:
    """A table as CSV, UTF-8, with a line of column names."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(table.rows)
    return text.getvalue().encode()


def markdown(table: Table) -> str:
    """A table in GitHub's Markdown; numbers stand right."""
    rules = ["---:" if column in table.numeric else "---" for column in range(len(table.columns))]
    lines = [
        _markdown_row(table.columns),
        _markdown_row(rules, escape=False),
        *(_markdown_row(["" if cell is None else str(cell) for cell in row]) for row in table.rows),
    ]
    return "\n".join(lines) + "\n"


def _markdown_row(cells: Iterable[str], *, escape: bool = True) -> str:
    shown = [markdown_text(cell) if escape else cell for cell in cells]
    return f"| {' | '.join(shown)} |"


def markdown_text(text: str) -> str:
    """A text of somebody else's that Markdown must not read as its own."""
    one_line = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in r"\`*_{}[]<>#|~$" else letter for letter in one_line)


def study_tables(study: StudyFigures) -> dict[str, Table]:
    """All numbers of a study, unrounded, by file name without its ending."""
    return {
        "rates": _rates(study),
        "pass_at_k": _passes(study),
        "changes": _changes(study),
        "complementarity": _complementarity(study),
        "problems": _problems(study),
    }


def _key(split: SplitFigures, checkpoint: CheckpointRef) -> tuple[Cell, ...]:
    return split.name, checkpoint.name, checkpoint.alpha, place_of(checkpoint).value


def _interval_cells(intervals: Mapping[Rate, Interval]) -> tuple[Cell, ...]:
    return tuple(
        cell
        for rate in Rate
        for cell in (intervals[rate].value, intervals[rate].low, intervals[rate].high)
    )


def _rates(study: StudyFigures) -> Table:
    columns = (
        "split", "checkpoint", "alpha", "place", "endless_as", "problems", "scored_samples",
        "judging_errors", "unclassified_samples", "endless_samples", "unprobed_samples",
        "mean_completion_tokens",
        *(f"{rate.value}{part}" for rate in Rate for part in ("", "_low", "_high")),
    )  # fmt: skip
    rows: list[tuple[Cell, ...]] = []
    for split in study.splits:
        for figures, other in zip(split.checkpoints, split.other_rates, strict=True):
            for endless, rates in (
                (study.endless, figures.rates),
                (study.other_endless, other),
            ):
                rows.append(
                    (
                        *_key(split, figures.checkpoint),
                        endless.value,
                        split.problems,
                        figures.scored,
                        figures.judging_errors,
                        figures.unclassified,
                        figures.endless,
                        figures.unprobed,
                        figures.tokens,
                        *_interval_cells(rates),
                    )
                )
    return Table(columns, tuple(rows))


def _passes(study: StudyFigures) -> Table:
    rows = tuple(
        (*_key(split, figures.checkpoint), k, passed.value, passed.low, passed.high)
        for split in study.splits
        for figures in split.checkpoints
        for k, passed in figures.passes.items()
    )
    return Table(("split", "checkpoint", "alpha", "place", "k", "pass", "low", "high"), rows)


def _changes(study: StudyFigures) -> Table:
    rows = []
    for split in study.splits:
        kinds = (
            ("step", split.steps),
            ("span", (split.span,) if split.span else ()),
            ("beyond", split.beyond),
        )
        for kind, steps in kinds:
            for step in steps:
                rows += [
                    (
                        split.name,
                        kind,
                        step.before.name,
                        step.after.name,
                        step.before.alpha,
                        step.after.alpha,
                        rate.value,
                        change.value,
                        change.low,
                        change.high,
                    )
                    for rate, change in step.changes.items()
                ]
    columns = (
        "split", "kind", "before", "after", "alpha_before", "alpha_after", "rate", "change", "low",
        "high",
    )  # fmt: skip
    return Table(columns, tuple(rows))


def _complementarity(study: StudyFigures) -> Table:
    rows = []
    for split in study.splits:
        compared = complementarity(split.table)
        names = split.table.names
        rows += [
            (
                split.name,
                solver,
                other,
                int(compared.counts[row, column]),
                compared.draws,
                float(compared.expected[row, column]),
            )
            for row, solver in enumerate(names)
            for column, other in enumerate(names)
        ]
    columns = ("split", "solves", "does_not_solve", "problems", "draws_each", "expected_problems")
    return Table(columns, tuple(rows))


def _problems(study: StudyFigures) -> Table:
    table = study.table
    columns = (
        "problem", "difficulty", "date", "checkpoint", "alpha",
        *(f"{count.name.lower()}_samples" for count in Count),
    )  # fmt: skip
    rows = tuple(
        (
            problem,
            table.difficulties[column],
            table.dates[column],
            checkpoint.name,
            checkpoint.alpha,
            *(int(each) for each in table.counts[row, column]),
        )
        for column, problem in enumerate(table.problems)
        for row, checkpoint in enumerate(table.checkpoints)
    )
    return Table(columns, rows)


def shown_rates(split: SplitFigures, *, other: bool = False) -> Table:
    """A split's rates for people, in percent with their intervals.

    Args:
        split: The split.
        other: With endless loops counted the other way.
    """
    rates = split.other_rates if other else tuple(each.rates for each in split.checkpoints)
    shown = [Rate.SOLVE, Rate.OPTIMIZATION, Rate.CORRECTNESS]
    names = ["solve rate", "optimization failures", "correctness failures"]
    if any(each.unclassified for each in split.checkpoints):
        shown.append(Rate.UNCLASSIFIED)
        names.append("unclassified")
    rows = tuple(
        (
            figures.checkpoint.name,
            _alpha(figures.checkpoint),
            place_of(figures.checkpoint).value,
            *(percent(intervals[rate]) for rate in shown),
            figures.scored,
            figures.judging_errors,
            round(figures.tokens),
        )
        for figures, intervals in zip(split.checkpoints, rates, strict=True)
    )
    columns = ("checkpoint", "alpha", "place", *names, "samples", "JE", "tokens per sample")
    return Table(columns, rows)


def shown_passes(split: SplitFigures, draws: Sequence[int]) -> Table:
    """A split's pass@k for people, in percent."""
    rows = tuple(
        (
            figures.checkpoint.name,
            _alpha(figures.checkpoint),
            *(f"{100 * figures.passes[k].value:.1f}%" for k in draws[:-1]),
            percent(figures.passes[draws[-1]]),
        )
        for figures in split.checkpoints
    )
    return Table(("checkpoint", "alpha", *(f"pass@{k}" for k in draws)), rows)


def _alpha(checkpoint: CheckpointRef) -> float | None:
    if checkpoint.alpha is None or checkpoint.alpha != int(checkpoint.alpha):
        return checkpoint.alpha
    return int(checkpoint.alpha)
