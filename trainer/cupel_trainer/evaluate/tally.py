"""Running counts of judged samples, and the table that ends an evaluation."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cupel.schema import FailureClass

UNRATED = "unrated"
"""What problems are called whose set says no difficulty."""


@dataclass(slots=True)
class Tally:
    """How many samples came out how.

    Args:
        wanted: Samples that are to be judged in all.
        counts: Judged samples by their problem's difficulty and their outcome; what judging errors
            leave open counts as infrastructure.
        problems: Problems by difficulty.
    """

    wanted: int = 0
    counts: Counter[tuple[str, FailureClass]] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)

    def count(self, outcome: FailureClass, difficulty: str | None = None) -> int:
        """Samples of this outcome, in all or of one difficulty."""
        return sum(
            number
            for (of, what), number in self.counts.items()
            if what is outcome and difficulty in (None, of)
        )

    @property
    def judged(self) -> int:
        """Samples that have a verdict, judging errors included."""
        return self.counts.total()

    @property
    def open(self) -> int:
        """Samples whose verdict judging errors leave open."""
        return self.count(FailureClass.INFRASTRUCTURE)

    def line(self) -> str:
        """The running counts, for a progress bar."""
        return (
            f"AC {self.count(FailureClass.NONE)}  opt {self.count(FailureClass.OPTIMIZATION)}  "
            f"corr {self.count(FailureClass.CORRECTNESS)}  JE {self.open}"
        )


def show_table(tally: Tally, console: Console) -> None:
    """Prints the counts by difficulty; shares are of the samples that no judging error hit."""
    table = Table("problems", "", "samples", "AC", "optimization", "correctness", "JE")
    for column in table.columns[1:]:
        column.justify = "right"
    difficulties = sorted(tally.problems)
    rows = (
        [(escape(name or UNRATED), name) for name in difficulties] if difficulties != [""] else []
    )
    for shown, difficulty in [*rows, ("all", None)]:
        scored = sum(
            tally.count(outcome, difficulty)
            for outcome in FailureClass
            if outcome is not FailureClass.INFRASTRUCTURE
        )
        outcomes = (FailureClass.NONE, FailureClass.OPTIMIZATION, FailureClass.CORRECTNESS)
        number = tally.problems.total() if difficulty is None else tally.problems[difficulty]
        table.add_row(
            shown,
            str(number),
            str(scored),
            *(_share(tally.count(outcome, difficulty), scored) for outcome in outcomes),
            str(tally.count(FailureClass.INFRASTRUCTURE, difficulty)),
        )
    console.print(table)


def _share(number: int, of: int) -> str:
    return f"{number} ({number / of:.1%})" if of else "0"
