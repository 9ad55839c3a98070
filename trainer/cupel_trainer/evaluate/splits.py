"""Parts of a study: windows of publication dates, and difficulties."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date

import numpy as np

from cupel_trainer.errors import StudyError
from cupel_trainer.evaluate.verdict_table import VerdictTable

_WORDS = ("trivial", "very easy", "easy", "medium", "hard", "very hard")
UNRATED = "unrated"
"""Name of the split of problems whose set says no difficulty."""


@dataclass(frozen=True, slots=True)
class Split:
    """Some problems of a study.

    Args:
        name: `all`, or a difficulty.
        table: Their verdicts.
    """

    name: str
    table: VerdictTable


def select_window(table: VerdictTable, since: date | None, until: date | None) -> VerdictTable:
    """The problems that were published within a window; those without a date are left out.

    Args:
        table: The study.
        since: First day; None for no bound.
        until: Last day, which belongs to the window; None for no bound.

    Raises:
        StudyError: No problem lies within, or a date is none.
    """
    if since is None and until is None:
        return table
    chosen = np.array([_within(text, since, until) for text in table.dates])
    if not chosen.any():
        raise StudyError(
            f"no problem was published {window_words(since, until)}"
            + ("" if any(table.dates) else "; the problem set gives no dates")
        )
    undated = sum(not text for text in table.dates)
    selected = table.select(chosen)
    if undated:
        warning = f"left out of the window, because they have no date: {undated} of the problems"
        selected = replace(selected, warnings=(*selected.warnings, warning))
    return selected


def _within(text: str, since: date | None, until: date | None) -> bool:
    if not text:
        return False
    try:
        published = date.fromisoformat(text)
    except ValueError as error:
        raise StudyError(f"a problem is of {text!r}, which is no date (YYYY-MM-DD)") from error
    return (since is None or since <= published) and (until is None or published <= until)


def window_words(since: date | None, until: date | None) -> str:
    """Such as `from 2024-08-01 to 2025-02-01`; empty without bounds."""
    parts = ([f"from {since}"] if since else []) + ([f"to {until}"] if until else [])
    return " ".join(parts)


def by_difficulty(table: VerdictTable) -> tuple[Split, ...]:
    """The whole study as `all`, then each difficulty if there are several, easy ones first."""
    names = sorted({difficulty or UNRATED for difficulty in table.difficulties}, key=_hardness)
    whole = Split("all", table)
    if len(names) < 2:
        return (whole,)
    return (whole, *(Split(name, select_difficulty(table, name)) for name in names))


def select_difficulty(table: VerdictTable, name: str) -> VerdictTable:
    """The problems of one difficulty.

    Args:
        table: The study.
        name: As the problem set spells it; `unrated` for problems without one.

    Raises:
        StudyError: There is none.
    """
    chosen = np.array([(difficulty or UNRATED) == name for difficulty in table.difficulties])
    if not chosen.any():
        there = ", ".join(sorted({each or UNRATED for each in table.difficulties}, key=_hardness))
        raise StudyError(f"no problem is of difficulty {name!r}; there are: {there}")
    return table.select(chosen)


def _hardness(name: str) -> tuple[int, float, str]:
    lower = name.lower()
    if lower in _WORDS:
        return 0, _WORDS.index(lower), name
    try:
        return 1, float(name), name  # a rating
    except ValueError:
        return (3 if name == UNRATED else 2), 0.0, name
