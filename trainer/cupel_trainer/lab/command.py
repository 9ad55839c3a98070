"""`cupel lab`: the whole experiment in miniature, on a laptop's CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cupel_trainer.command_errors import errors_reported

if TYPE_CHECKING:
    from cupel_trainer.lab.runs import Moment


def lab(
    quick: Annotated[
        bool, typer.Option("--quick", help="Small: about three minutes on two quiet cores.")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="For the figure: about nine minutes; the default.")
    ] = False,
    recipe: Annotated[
        Path | None, typer.Option(help="A recipe of your own, in TOML, in place of these two.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the first seed's every draw.")] = 0,
    seeds: Annotated[
        int, typer.Option(min=1, max=20, help="So many seeds one after another, for intervals.")
    ] = 1,
    out: Annotated[
        Path | None, typer.Option(help="Folder for everything; by default lab-quick or lab-full.")
    ] = None,
    service: Annotated[
        str | None,
        typer.Option(envvar="CUPEL_URL", help="A Cupel service; without one, one is run here."),
    ] = None,
) -> None:
    """Runs the paper in miniature: a tiny model, RL under low and high coverage, merges, a report.

    Run again, it goes on where it was; with more --seeds, it adds them to the report. Exit code 0
    if the report is there, 2 on any trouble; what was done is kept.
    """
    if quick + full + (recipe is not None) > 1:
        raise typer.BadParameter("give one of --quick, --full and --recipe")
    with errors_reported():
        # Not before: `--help` and errors of usage must not wait for what these import.
        from cupel_trainer.lab.recipe import Size, read_recipe
        from cupel_trainer.lab.runs import run_seeds

        size = Size.QUICK if quick else Size.FULL
        name = recipe.stem if recipe else size.value
        chosen = read_recipe(recipe or size)
        folder = out or Path(f"lab-{name}")
        with _progress() as show:
            page = run_seeds(
                chosen, name, range(seed, seed + seeds), folder, service=service, show=show
            )
    typer.echo(f"wrote {page}")


@contextmanager
def _progress() -> Iterator[Callable[[Moment], None]]:
    """Bars on standard error: the stage, and the whole with what remains."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskID,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[text]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        whole = progress.add_task("all", total=1.0, text="")
        shown: dict[tuple[int, str], TaskID] = {}

        def show(moment: Moment) -> None:
            key = (moment.seed, moment.stage)
            if key not in shown:
                title = f"seed {moment.seed}: {moment.title}"
                shown[key] = progress.add_task(title, total=1.0, text="")
            progress.update(shown[key], completed=moment.part, text=moment.text)
            left = "" if moment.left_s is None else f"about {moment.left_s / 60:.0f} min left"
            progress.update(whole, completed=moment.whole, text=left)

        yield show
