"""`cupel ensemble`: from stored verdicts to a plan for a budget of samples."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from cupel_trainer.command_errors import errors_reported
from cupel_trainer.evaluate.frontier_command import (
    ForceOption,
    LevelOption,
    ResamplesOption,
    SeedOption,
    SinceOption,
    UntilOption,
    VerdictsArgument,
    day_of,
    read_study,
)

if TYPE_CHECKING:
    from cupel_trainer.evaluate.plan import Plan
    from cupel_trainer.evaluate.verdict_table import VerdictTable


SHOWN_MAX = 12
"""Most checkpoints whose complementarity fits into a terminal; `cupel frontier` draws any."""


class Members(StrEnum):
    """How many checkpoints an ensemble may have."""

    TWO = "2"
    THREE = "3"
    ANY = "any"

    @property
    def limit(self) -> int | None:
        """The number; None for any."""
        return None if self is Members.ANY else int(self.value)


def ensemble(
    verdicts: VerdictsArgument,
    budget: Annotated[int, typer.Option(min=1, help="Samples per problem, over all members.")],
    out: Annotated[Path, typer.Option(help="The plan, for `cupel sample --ensemble`.")],
    members: Annotated[
        Members,
        typer.Option(help="Most checkpoints: 2 and 3 try every split, `any` chooses greedily."),
    ] = Members.THREE,
    difficulty: Annotated[
        str | None, typer.Option(help="Only problems of this difficulty; `unrated` for none.")
    ] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    halvings: Annotated[
        int, typer.Option(min=1, max=1000, help="How often the problems are halved.")
    ] = 10,
    resamples: ResamplesOption = 10_000,
    level: LevelOption = 0.95,
    seed: SeedOption = 0,
    force: ForceOption = False,
) -> None:
    """Split a budget of samples over checkpoints so that they solve most together.

    Chosen on one half of the problems and scored on the other, against the best single checkpoint
    with the same budget, and then chosen on all of them for the plan.
    """
    with errors_reported(), Progress(console=Console(stderr=True), transient=True) as progress:
        from cupel_trainer.whole_files import refuse_existing_file, write_whole

        refuse_existing_file(out, force=force)
        table = read_study(verdicts, since, until, progress)
        from cupel_trainer.evaluate.ensemble import plan_ensemble
        from cupel_trainer.evaluate.frontier import Bootstrap
        from cupel_trainer.evaluate.plan import plan_json
        from cupel_trainer.evaluate.splits import select_difficulty, window_words

        selection = [window_words(day_of(since), day_of(until))]
        if difficulty is not None:
            table = select_difficulty(table, difficulty)
            selection.insert(0, difficulty)
        choosing = progress.add_task("choosing on halves", total=2 * halvings)
        plan = plan_ensemble(
            table,
            budget,
            members.limit,
            halvings=halvings,
            bootstrap=Bootstrap(resamples, seed, level),
            selection=" ".join(selection).strip(),
            on_half=lambda: progress.advance(choosing),
        )
        write_whole(out, plan_json(plan).encode())
    _show(plan, table, out)


def _show(plan: Plan, table: VerdictTable, out: Path) -> None:
    from cupel_trainer.evaluate.findings import percent, points

    for warning in plan.warnings:
        typer.echo(f"note: {warning}", err=True)
    console = Console(highlight=False)
    members = Table("checkpoint", "alpha", "samples", title=f"{plan.budget} samples per problem")
    for member in plan.members:
        alpha = member.checkpoint.alpha
        members.add_row(
            escape(member.checkpoint.name),
            "" if alpha is None else f"{alpha:g}",
            str(member.samples),
        )
    console.print(members)
    held_out = plan.held_out
    values = Table(
        "", "held-out problems", "problems it was chosen on", title=f"pass@{plan.budget}"
    )
    values.add_row("ensemble", percent(held_out.ensemble), f"{100 * plan.chosen_pass:.1f}%")
    values.add_row("best single", percent(held_out.single), f"{100 * plan.single_pass:.1f}%")
    values.add_row("difference", points(held_out.difference), "flattered by the choice")
    values.add_row("no split exceeds", "", f"{100 * plan.upper_bound:.1f}%")
    console.print(values)
    console.print(
        f"On all problems the best single is {escape(plan.single.name)}. The halves' splits have "
        f"{100 * held_out.agreement:.0f}% of the budget in common with this one.",
        soft_wrap=True,
    )
    if len(table.names) <= SHOWN_MAX:
        console.print(
            f"Of {len(table.problems)} problems, a row solves so many that a column does not:"
        )
        console.print(_complementarity(table))
    console.print(f"wrote {escape(str(out))}", soft_wrap=True)


def _complementarity(table: VerdictTable) -> Table:
    from cupel_trainer.evaluate.complementarity import complementarity

    counts = complementarity(table).counts
    shown = Table()
    shown.add_column("")
    for number in range(1, len(counts) + 1):
        shown.add_column(str(number), justify="right")
    for row, name in enumerate(table.names):
        cells = [
            "·" if row == column else str(counts[row, column]) for column in range(len(counts))
        ]
        shown.add_row(f"{row + 1} {escape(name)}", *cells)
    return shown
