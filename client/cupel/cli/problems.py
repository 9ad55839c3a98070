"""`cupel problems`: the problems that a service knows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cupel._client import Client
from cupel.cli.report import errors_reported, show_problems, tests_per_tier
from cupel.problem_folder import load_problem, problem_id

problems_app = typer.Typer(no_args_is_help=True, help="Registers, lists and removes problems.")

Url = Annotated[
    str | None,
    typer.Option(envvar="CUPEL_URL", help="The service; default http://127.0.0.1:8400."),
]


def _client(url: str | None) -> Client:
    return Client(url, patience_s=1.0)


@problems_app.command()
def add(
    folders: Annotated[
        list[Path], typer.Argument(help="Problem folders; their names are the ids.")
    ],
    url: Url = None,
) -> None:
    """Registers problems from folders, or replaces them. One faulty folder, and none is sent."""
    with errors_reported(), _client(url) as client:
        loaded = [(problem_id(folder), load_problem(folder)) for folder in folders]
        for name, problem in loaded:
            summary = client.problems.add(name, problem)
            typer.echo(f"{summary.id}: {tests_per_tier(summary)} tests, {summary.digest[:12]}")


@problems_app.command("list")
def list_problems(url: Url = None) -> None:
    """Lists the registered problems."""
    with errors_reported(), _client(url) as client:
        show_problems(client.problems.list())


@problems_app.command()
def show(
    problem: Annotated[str, typer.Argument(help="The problem's id.")],
    url: Url = None,
) -> None:
    """Shows what may be read of a problem: never its tests."""
    with errors_reported(), _client(url) as client:
        summary = client.problems.get(problem)
    show_problems([summary])
    typer.echo(f"digest {summary.digest}")
    if summary.statement:
        typer.echo(f"\n{summary.statement.rstrip()}")


@problems_app.command()
def remove(
    problem: Annotated[str, typer.Argument(help="The problem's id.")],
    url: Url = None,
) -> None:
    """Removes a problem."""
    with errors_reported(), _client(url) as client:
        client.problems.delete(problem)
    typer.echo(f"{problem}: removed")
