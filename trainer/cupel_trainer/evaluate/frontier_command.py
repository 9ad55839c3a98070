"""`cupel frontier`: from stored verdicts to tables, pictures and a page."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from cupel_trainer.command_errors import errors_reported
from cupel_trainer.evaluate.counting import EndlessAs

if TYPE_CHECKING:
    from cupel_trainer.evaluate.frontier import StudyFigures
    from cupel_trainer.evaluate.verdict_table import VerdictTable

VerdictsArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="VERDICTS...", help="Files of verdicts, one per checkpoint, of one study."
    ),
]
SinceOption = Annotated[
    datetime | None,
    typer.Option(formats=["%Y-%m-%d"], help="Only problems published on this day or later."),
]
UntilOption = Annotated[
    datetime | None,
    typer.Option(formats=["%Y-%m-%d"], help="Only problems published on this day or earlier."),
]
ResamplesOption = Annotated[
    int, typer.Option(min=100, max=1_000_000, help="Resamples of the bootstrap over problems.")
]
LevelOption = Annotated[float, typer.Option(min=0.5, max=0.999, help="Level of the intervals.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace what is there.")]


def frontier(
    verdicts: VerdictsArgument,
    out: Annotated[Path, typer.Option(help="Folder for the report; new or empty.")],
    endless: Annotated[
        EndlessAs,
        typer.Option(help="What endless loops and idle waits count as; both are reported."),
    ] = EndlessAs.OPTIMIZATION,
    since: SinceOption = None,
    until: UntilOption = None,
    resamples: ResamplesOption = 10_000,
    level: LevelOption = 0.95,
    seed: SeedOption = 0,
    force: ForceOption = False,
) -> None:
    """Show the correctness-efficiency frontier of judged checkpoints.

    Solve rate, optimization and correctness failures, pass@k, and who solves what: as a page that
    stands alone (frontier.html), Markdown, tables/*.csv, and pictures/*.png and *.svg.
    """
    with errors_reported(), Progress(console=Console(stderr=True), transient=True) as progress:
        from cupel_trainer.whole_files import refuse_filled_folder

        refuse_filled_folder(out, force=force)
        table = read_study(verdicts, since, until, progress)
        # Imported late: an error in the arguments should not wait for matplotlib.
        from cupel_trainer.evaluate.frontier import Bootstrap, study_figures
        from cupel_trainer.evaluate.frontier_report import picture_count, report_files
        from cupel_trainer.evaluate.splits import window_words
        from cupel_trainer.whole_files import write_whole

        computing = progress.add_task("computing figures", total=None)
        study = study_figures(
            table,
            endless,
            Bootstrap(resamples, seed, level),
            window=window_words(day_of(since), day_of(until)),
        )
        progress.update(computing, total=1, completed=1)
        drawing = progress.add_task("drawing pictures", total=picture_count(study))
        for name, content in report_files(
            study, on_picture=lambda: progress.advance(drawing)
        ).items():
            write_whole(out / name, content)
    _show(study, out)


def read_study(
    verdicts: list[Path], since: datetime | None, until: datetime | None, progress: Progress
) -> VerdictTable:
    """Reads files of one study, and keeps the problems of a window.

    Args:
        verdicts: The files.
        since: First day of the window.
        until: Last day of the window.
        progress: Shows how far it is.

    Returns:
        The table.

    Raises:
        RecordsError: A file is not one of verdicts.
        StudyError: The files do not belong together, or no problem lies within the window.
    """
    from cupel_trainer.evaluate.splits import select_window
    from cupel_trainer.evaluate.verdict_table import join_files, read_verdicts_file

    reading = progress.add_task("reading verdicts", total=len(verdicts))
    files = []
    for path in verdicts:
        files.append(read_verdicts_file(path))
        progress.advance(reading)
    return select_window(join_files(files), day_of(since), day_of(until))


def day_of(moment: datetime | None) -> date | None:
    """The day of a date that was given on the command line."""
    return moment.date() if moment is not None else None


def _show(study: StudyFigures, out: Path) -> None:
    from cupel_trainer.evaluate.findings import split_findings, study_notes
    from cupel_trainer.evaluate.frontier_report import PAGE

    for note in study_notes(study):
        typer.echo(f"note: {note}", err=True)
    for finding in split_findings(study.splits[0], study.bootstrap.level):
        typer.echo(finding)
    typer.echo(f"wrote {out / PAGE}")
