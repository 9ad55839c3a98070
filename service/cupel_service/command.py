"""What `cupel serve` and `cupel worker` have in common: options, settings, and how they refuse."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError

from cupel_service.settings import Settings, explain

_CANNOT_START = 2

SlotsOption = Annotated[
    int | None, typer.Option(help="Boxes that run at one time; default: physical cores.")
]
BoxOption = Annotated[
    str | None, typer.Option(help="Kind of box: native (the default), or docker.")
]
QueueOption = Annotated[
    str | None, typer.Option(help="Queue of a cluster, such as redis://127.0.0.1:6379/0.")
]
StoreOption = Annotated[
    str | None, typer.Option(help="Problem store of a cluster: file://, s3://; default: data-dir.")
]
DataDirOption = Annotated[
    Path | None, typer.Option(help="Folder of the problem store; one service at a time.")
]
AllowDegradedOption = Annotated[
    list[str] | None,
    typer.Option(help="Isolation layers that may be missing, such as cgroup (commas, repeats)."),
]


def read_settings(given: Mapping[str, object], cannot: str) -> Settings:
    """The settings from a command's options, the environment, and defaults; and starts the log.

    Args:
        given: By the settings' names; None, or an empty list, was not given.
        cannot: How a refusal begins, such as `cannot serve`.

    Raises:
        typer.Exit: A setting is wrong; standard error says which and why.
    """
    try:
        settings = Settings.model_validate(
            {
                name: ",".join(value) if isinstance(value, list) else value
                for name, value in given.items()
                if value is not None and value != []
            }
        )
    except ValidationError as error:
        refuse(cannot, explain(error))
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(levelname)s %(name)s: %(message)s"
    )
    return settings


def refuse(cannot: str, message: str) -> NoReturn:
    """Ends the command with one line that says why it does not start.

    Raises:
        typer.Exit: Always.
    """
    typer.echo(f"cupel: {cannot}: {message}", err=True)
    raise typer.Exit(_CANNOT_START)
