from __future__ import annotations

import typer


def double(number: int = 1) -> None:
    """Doubles a number."""
    typer.echo(2 * number)
