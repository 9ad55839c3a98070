"""`cupel merge`: averages checkpoints between and beyond their ends."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
import typer
from typer.core import TyperGroup

from cupel_trainer.command_errors import errors_reported
from cupel_trainer.engine.swap_command import swap_server

if TYPE_CHECKING:
    from cupel_trainer.merge.recipe import Recipe
    from cupel_trainer.merge.sweep import Merged

SUFFIXES = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


class CheckpointsFirst(TyperGroup):
    """`cupel merge LOW HIGH ...` is `cupel merge checkpoints LOW HIGH ...`."""

    def parse_args(  # type: ignore[override]  # typer's copy of click is private
        self, ctx: click.Context, args: list[str]
    ) -> list[str]:
        """Puts the default command's name in front where no other one stands there."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["checkpoints", *args]
        return super().parse_args(ctx, args)  # type: ignore[arg-type]  # the same


merge_app = typer.Typer(
    cls=CheckpointsFirst,
    no_args_is_help=True,
    help="Averages checkpoints between and beyond their ends, in one pass. "
    "`cupel merge LOW HIGH --alphas=-0.5,0,0.5,1,1.5 --out DIR` is short for "
    "`cupel merge checkpoints ...`.",
)


@merge_app.command("checkpoints")
def merge_checkpoints(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="LOW HIGH",
            help="Checkpoint folders or URLs, or LoRA adapters'; more than two with coefficients. "
            "For methods that count from a base model, the base is the first.",
        ),
    ] = None,
    alphas: Annotated[
        str | None,
        typer.Option(
            help="0 is LOW, 1 is HIGH: --alphas=-0.5,0,0.25,0.5,0.75,1,1.25,1.5. "
            "What they are to other methods is said by `cupel merge methods`."
        ),
    ] = None,
    coefficients: Annotated[
        list[str] | None,
        typer.Option(help="One number per checkpoint: 0.5,0.3,0.2; again for each output."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder in which each output gets one of its own.")
    ] = None,
    method: Annotated[str, typer.Option(help="See `cupel merge methods`.")] = "linear",
    layer: Annotated[
        list[str] | None,
        typer.Option(
            help="Another alpha for matching tensors: 'model.layers.0.*=0.3' or '*=x0.5'."
        ),
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="A number that the method takes: density=0.2; again.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="bfloat16, float16 or float32; by default as the inputs.")
    ] = None,
    memory: Annotated[
        str, typer.Option(help="What the process may use: 800M, 1.4G. Larger is hardly faster.")
    ] = "1.4G",
    recipe: Annotated[
        Path | None, typer.Option(help="Read all of this from a TOML file instead.")
    ] = None,
    check_only: Annotated[
        bool, typer.Option("--check", help="Check that the inputs fit together; write nothing.")
    ] = False,
) -> None:
    """Merges checkpoints: each output is whole or absent; a killed merge goes on when repeated."""
    with errors_reported():
        from cupel_trainer.merge.recipe import make_recipe, read_recipe
        from cupel_trainer.merge.sweep import prepare, run

        if recipe is not None:
            if inputs or alphas or coefficients or layer or option or out or dtype:
                raise typer.BadParameter("give either --recipe or the merge itself")
            what = read_recipe(recipe)
        else:
            if out is None and not check_only:
                raise typer.BadParameter("say where to: --out DIR")
            fields: dict[str, object] = {
                "inputs": tuple(inputs or ()),
                "out": (out or Path()).expanduser(),
                "method": method,
                "alphas": _numbers(alphas, "--alphas"),
                "coefficients": [_numbers(row, "--coefficients") for row in coefficients or ()],
                "layers": [_layer(each) for each in layer or ()],
                "options": dict(_option(each) for each in option or ()),
                "dtype": dtype,
                "memory_bytes": _bytes(memory),
            }
            what = make_recipe(fields)
        prepared = prepare(what)
        if check_only:
            for warning in prepared.warnings:
                typer.echo(f"warning: {warning}", err=True)
            typer.echo(f"{len(what.inputs)} checkpoints fit together")
            return
        with _progress_bar() as progress:
            merged = run(prepared, progress)
    _show(merged, what)


@merge_app.command("verify")
def verify_merge(
    folder: Annotated[str, typer.Argument(help="A merged checkpoint.")],
    hashes_only: Annotated[
        bool, typer.Option("--hashes-only", help="Do not compute the merge once more.")
    ] = False,
    memory: Annotated[str, typer.Option(help="What the process may use.")] = "1.4G",
) -> None:
    """Checks a merged checkpoint against its manifest, and computes it once more from its inputs.

    Exit code 0 if all is as it was written, 1 if not, 2 if it cannot be told.
    """
    with errors_reported():
        from cupel_trainer.merge.verification import verify

        with _progress_bar() as progress:
            found = verify(
                folder,
                recompute=not hashes_only,
                memory_bytes=_bytes(memory),
                progress=progress,
            )
    for fault in found.faults:
        typer.echo(f"{folder}: {fault}")
    if found.faults:
        raise typer.Exit(1)
    how = "hashes only"
    if found.recomputed:
        how = "and computed once more from its inputs"
    elif found.not_recomputed:
        how = f"hashes only: {found.not_recomputed}"
    typer.echo(f"{folder}: {found.tensors} tensors as they were written, {how}")


merge_app.command("swap")(swap_server)


@merge_app.command("methods")
def list_methods() -> None:
    """Lists the methods: what they compute and take, and the papers they follow.

    The first input is x_0, which changes are counted from: the base model where there is one.
    """
    from cupel_trainer.merge.catalog import METHODS

    for name, entry in METHODS.items():
        typer.echo(f"{name:16} {entry.summary}")
        lines = [entry.source, f"inputs: {entry.inputs}"]
        if not entry.adapters:
            lines[-1] += "; no adapters"
        lines += [f"--alphas: {entry.alphas}"] if entry.alphas else []
        lines += [f"--coefficients: {entry.coefficients}"] if entry.coefficients else []
        for option, spec in entry.options.items():
            default = "required" if spec.default is None else f"default {spec.default:g}"
            lines.append(f"--option {option}: {spec.meaning}; {spec.range}; {default}")
        for line in lines:
            typer.echo(f"{'':16} {line}")
    typer.echo("The first input is x_0 (LOW, ZERO_SHOT, INITIAL, BASE): changes count from it.")


def _show(merged: Merged, recipe: Recipe) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("output", "step", "rounding / step", "did not move")
    for row in merged.report.outputs:
        shares = (row.rounding_over_step, row.unmoved_share)
        shown = ["" if share is None else f"{share:.2%}" for share in shares]
        table.add_row(row.name, f"{row.step:.5g}", *shown)
    Console(highlight=False).print(table)
    for warning in merged.report.warnings:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(f"{len(merged.folders)} checkpoints in {recipe.out}; more in report.md there")


@contextmanager
def _progress_bar() -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = ("merging", BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("merging", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _numbers(text: str | None, option: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in (text or "").replace(",", " ").split())
    except ValueError as error:
        raise typer.BadParameter(f"{option} {text!r}: not numbers separated by commas") from error


def _layer(text: str) -> dict[str, object]:
    pattern, separator, value = text.rpartition("=")
    key = "scale" if value.startswith("x") else "alpha"
    numbers = _numbers(value.removeprefix("x"), "--layer")
    if not separator or len(numbers) != 1:
        raise typer.BadParameter(
            f"--layer {text!r}: say it like 'model.layers.0.*=0.3' or '*=x0.5'"
        )
    return {"pattern": pattern, key: numbers[0]}


def _option(text: str) -> tuple[str, float]:
    name, separator, value = text.partition("=")
    numbers = _numbers(value, "--option")
    if not separator or len(numbers) != 1:
        raise typer.BadParameter(f"--option {text!r}: say it like density=0.2")
    return name, numbers[0]


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([KMGT]?)i?B?", text.strip(), re.IGNORECASE)
    if found is None:
        raise typer.BadParameter(f"--memory {text!r}: say it like 800M or 1.4G")
    return int(float(found[1]) * SUFFIXES[found[2].upper()])
