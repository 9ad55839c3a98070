"""The options that choose part of a problem set, alike for each command that takes one."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated

import typer

from cupel_trainer.evaluate.problem_set import Selection
from cupel_trainer.evaluate.releases import parse_release

_DAY = ["%Y-%m-%d"]

Since = Annotated[
    datetime | None, typer.Option(formats=_DAY, help="Only problems published then or later.")
]
Until = Annotated[
    datetime | None, typer.Option(formats=_DAY, help="Only problems published then or earlier.")
]
Difficulty = Annotated[
    list[str] | None, typer.Option(help="Only problems of this difficulty; repeatable.")
]
Release = Annotated[
    str, typer.Option(help="Only those of a LiveCodeBench release: release_v5, or slices: v4_v5.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many that are left.")]


def selection_of(
    since: datetime | None,
    until: datetime | None,
    difficulty: list[str] | None,
    release: str,
    limit: int | None,
) -> Selection:
    """The selection that the options stand for.

    Raises:
        ProblemSetError: There is no such release.
    """
    if release:
        parse_release(release)
    return Selection(_day(since), _day(until), tuple(difficulty or ()), release, limit)


def _day(value: datetime | None) -> date | None:
    return value.date() if value is not None else None
