"""`cupel evaluate`: verdicts for a file of samples."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cupel.errors import CupelError
from cupel_trainer.command_errors import errors_reported
from cupel_trainer.errors import ProblemSetError
from cupel_trainer.evaluate.problem_set import (
    Registered,
    is_at_service,
    read_problem_set,
    select,
)
from cupel_trainer.evaluate.record_file import read_header
from cupel_trainer.evaluate.records import SamplesHeader
from cupel_trainer.evaluate.selection_options import (
    Difficulty,
    Limit,
    Release,
    Since,
    Until,
    selection_of,
)

if TYPE_CHECKING:
    from cupel_trainer.evaluate.evaluation import Evaluation
    from cupel_trainer.evaluate.tally import Tally

_CLEAN_TIMEOUT_S = 10.0


def evaluate(
    samples: Annotated[Path, typer.Argument(help="A file of samples, of `cupel sample`.")],
    out: Annotated[Path, typer.Option(help="The file of verdicts.")],
    url: Annotated[
        str | None,
        typer.Option(envvar="CUPEL_URL", help="The service; without one, a temporary one is run."),
    ] = None,
    problems: Annotated[
        str,
        typer.Option(help="The problem set, as of `cupel sample`; default: where that read it."),
    ] = "",
    since: Since = None,
    until: Until = None,
    difficulty: Difficulty = None,
    release: Release = "",
    limit: Limit = None,
    patience_s: Annotated[
        float, typer.Option("--patience", min=0, help="Wait so long for a service that is away.")
    ] = 60.0,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=1, help="Longest silence of a service at work.")
    ] = 3600.0,
) -> None:
    """Judges samples on every test; run again, it judges what is missing or was a judging error.

    Exit code 0 if all are judged, 1 if judging errors are left, 2 on any trouble; what was judged
    is kept.
    """
    # Not before: `--help` and errors of usage must not wait for what these import.
    from rich.console import Console

    from cupel_trainer.evaluate.evaluation import Evaluation
    from cupel_trainer.evaluate.tally import show_table

    with errors_reported():
        source = problems or read_header(samples, SamplesHeader).problems
        if not source:
            raise ProblemSetError(f"{samples} does not say its problem set: give --problems")
        selection = selection_of(since, until, difficulty, release, limit)
        entries = () if is_at_service(source) and not url else read_problem_set(source, url)
        if not url and all(isinstance(entry.tests, Registered) for entry in entries):
            raise ProblemSetError(
                "the tests of this problem set are at a service: say at which, with --url or "
                "CUPEL_URL"
            )
        entries = select(entries, selection)
        with _progress() as show:
            evaluation = Evaluation(samples, entries, out, show)
            try:
                _run(evaluation, url, patience_s, timeout_s)
            except CupelError:
                tally = evaluation.tally
                typer.echo(
                    f"{tally.judged} of {tally.wanted} samples are judged and kept in {out}: run "
                    "the same command again to go on",
                    err=True,
                )
                raise
    show_table(evaluation.tally, Console(highlight=False))
    if evaluation.tally.open:
        typer.echo(
            f"{evaluation.tally.open} judging errors are left: run the same command again",
            err=True,
        )
        raise typer.Exit(1)


def _run(evaluation: Evaluation, url: str | None, patience_s: float, timeout_s: float) -> None:
    from cupel import AsyncClient, embedded_service

    async def judge(where: str, api_key: str | None) -> None:
        async with (
            AsyncClient(where, api_key, timeout_s=timeout_s, patience_s=patience_s) as client,
            AsyncClient(where, api_key, timeout_s=_CLEAN_TIMEOUT_S, patience_s=0) as cleaner,
        ):
            await evaluation.run(client, cleaner)

    if url:
        asyncio.run(judge(url, None))
        return
    with embedded_service() as own_url:
        asyncio.run(judge(own_url, ""))


@contextmanager
def _progress() -> Iterator[Callable[[Tally], None]]:
    """A bar on standard error, with running counts."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (
        TextColumn("judging"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[counts]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        shown = progress.add_task("", total=None, counts="")

        def show(tally: Tally) -> None:
            progress.update(shown, completed=tally.judged, total=tally.wanted, counts=tally.line())

        yield show
