"""The `cupel` command.

Exit codes: 0 good (accepted), 1 the judged program failed, 2 usage, infrastructure, judging error.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version as installed_version

import typer

from cupel.cli.judge import judge
from cupel.cli.plugins import add_plugins
from cupel.cli.problems import problems_app

__all__ = ["build_app", "main"]


def version() -> None:
    """Shows Cupel's version."""
    typer.echo(installed_version("cupel"))


def build_app(arguments: Sequence[str]) -> typer.Typer:
    """The command line for these arguments.

    Args:
        arguments: Only the installed package whose command they name is loaded: `cupel judge` does
            not import a web framework.

    Returns:
        The app, with this package's commands and those of other installed packages.
    """
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        help="Judges programs against hidden tests in a sandbox.",
    )
    app.command()(judge)
    app.add_typer(problems_app, name="problems")
    app.command()(version)
    add_plugins(app, arguments, own={"judge", "problems", "version"})
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the `cupel` command and exits.

    Args:
        arguments: The words after `cupel`; by default those of this process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    build_app(words)(args=words, prog_name="cupel")
