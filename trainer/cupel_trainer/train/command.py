"""`cupel train`: RL by a recipe."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cupel_trainer.command_errors import errors_reported

if TYPE_CHECKING:
    from cupel_trainer.train.recipe import Recipe

DEFAULT_OUT = "runs"


def train(
    recipe: Annotated[
        Path | None, typer.Argument(help="A recipe in TOML; see --explain.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help=f"The run's folder; default {DEFAULT_OUT}/ and the recipe's name."),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a field: --set coverage.level=1; repeatable."),
    ] = None,
    same_start_as: Annotated[
        Path | None,
        typer.Option(
            help="Another run's folder: refuse to train, unless both begin with the same weights "
            "and see the same problems in the same order."
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check recipe, problems, service and tokenizer, and show the plan."
        ),
    ] = False,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan",
            help="Show what the run needs: memory per GPU, tokens, judging, hosts, files. Needs no "
            "GPU, no service, no weights. Exit code 1 if it does not fit.",
        ),
    ] = False,
    replay: Annotated[
        list[Path] | None,
        typer.Option(
            help="With --plan: a file of verdicts (`cupel evaluate`) whose lengths and CPU times "
            "the policy's answers are taken to have; repeatable."
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="List every field with its default and its reason.")
    ] = False,
    url: Annotated[
        str | None,
        typer.Option(
            envvar="CUPEL_URL", help="The service, in place of service.url; else one is run here."
        ),
    ] = None,
) -> None:
    """Trains a policy by RL on programming problems; run again, it goes on where it was.

    Exit code 0 when all steps are done, 2 on any trouble; checkpoints are kept.
    """
    if explain:
        _show_fields()
        return
    if recipe is None:
        raise typer.BadParameter("give a RECIPE, or --explain", param_hint="RECIPE")
    # Not before: `--help` must not wait for what these import.
    from cupel_trainer.train.launch import launch, launch_command, needs_launch
    from cupel_trainer.train.recipe_file import read_recipe

    with errors_reported():
        wanted = read_recipe(recipe, changes or ())
        folder = out or Path(DEFAULT_OUT) / recipe.stem
        if plan:
            _show_needs(wanted, replay or ())
            return
        if dry_run:
            _show_plan(wanted, url)
            return
        if needs_launch(wanted):
            command = launch_command(wanted, folder, sys.argv[1:])
            if wanted.parallelism.machines == 1:
                launch(command)
            typer.echo(
                f"cupel: this run wants {wanted.parallelism.machines} machines; on each, with its "
                "own --machine_rank and a common --main_process_ip, start:\n" + shlex.join(command),
                err=True,
            )
            raise typer.Exit(2)
        _train(wanted, folder, same_start_as, url)


def _train(recipe: Recipe, out: Path, same_start_as: Path | None, url: str | None) -> None:
    from cupel_trainer.train import run
    from cupel_trainer.train.watch import watching

    is_main = int(os.environ.get("RANK", "0")) == 0
    with watching() as show:
        result = run.train(
            recipe,
            out,
            show=show if is_main else lambda _: None,
            same_start_as=same_start_as,
            url=url,
        )
    if is_main:
        typer.echo(f"{result.steps} steps; masters for `cupel merge` in {result.masters}")


def _show_needs(recipe: Recipe, replay: Sequence[Path]) -> None:
    from rich.console import Console

    from cupel_trainer.plan.plan_report import show_plan
    from cupel_trainer.plan.recipe_shape import plan_recipe

    plan = plan_recipe(recipe, replay)
    show_plan(plan, Console(highlight=False))
    if plan.refusals:
        raise typer.Exit(1)


def _show_plan(recipe: Recipe, url: str | None) -> None:
    from cupel_trainer.train.dry_run import plan_lines

    for line in plan_lines(recipe, url):
        typer.echo(line)


def _show_fields() -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from cupel_trainer.train.recipe_file import explain

    table = Table("field", "default", "why", show_lines=False)
    for each in explain():
        table.add_row(each.name, escape(each.default), escape(each.reason))
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(table)
        return
    for each in explain():
        typer.echo(f"{each.name} = {each.default}  # {each.reason}")
