"""How the trainer's commands show what went wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from cupel.errors import CupelError
from cupel_trainer.errors import TrainerError


@contextmanager
def errors_reported() -> Iterator[None]:
    """Shows a TrainerError, or one of the SDK's, as one message on standard error; exits with 2.

    Raises:
        typer.Exit: With 2, after an error.
    """
    try:
        yield
    except (TrainerError, CupelError) as error:
        typer.echo(f"cupel: {error}", err=True)
        raise typer.Exit(2) from error
