"""Commands of other installed packages, found by their entry points in the group `cupel.commands`.

Each is a plain function, as typer takes it, or a typer app with commands of its own. Where the
libraries of its extra are not installed, the command says which extra to install.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib.metadata import EntryPoint, entry_points

import typer

GROUP = "cupel.commands"


def add_plugins(app: typer.Typer, arguments: Sequence[str], own: Collection[str]) -> None:
    """Adds the command that the arguments name, or all of them where it may be asked for help.

    Args:
        app: The app that gets the commands.
        arguments: The words after `cupel`.
        own: Commands that the app has already; no package may replace them.
    """
    wanted = arguments[0] if arguments else ""
    if wanted in own:
        return
    # Where two packages bring one name, the first on the path wins, as with imports.
    entries = [entry for entry in entry_points(group=GROUP) if entry.name not in own]
    found = {entry.name: entry for entry in reversed(entries)}
    for entry in [found[wanted]] if wanted in found else found.values():
        add_plugin(app, entry)


def add_plugin(app: typer.Typer, entry: EntryPoint) -> None:
    """Adds one command, or in its place a remedy where it cannot be loaded."""
    try:
        command = entry.load()
    except ModuleNotFoundError as error:
        _add_remedy(app, entry, error.name or "a library")
        return
    if isinstance(command, typer.Typer):
        app.add_typer(command, name=entry.name)
    else:
        app.command(entry.name)(command)


def _add_remedy(app: typer.Typer, entry: EntryPoint, missing: str) -> None:
    # A package cupel_NAME is what the extra NAME makes usable.
    extra = entry.module.partition(".")[0].removeprefix("cupel_")
    advice = f"pip install 'cupel[{extra}]'"

    def remedy() -> None:
        typer.echo(f"cupel {entry.name} needs {missing}, not installed here: {advice}", err=True)
        raise typer.Exit(2)

    any_arguments = {"ignore_unknown_options": True, "allow_extra_args": True}
    app.command(entry.name, help=f"Not installed: {advice}", context_settings=any_arguments)(remedy)
