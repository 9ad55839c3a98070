"""How every bench shows its figures: a table for people, or one JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number.

    Args:
        name: What it is, such as `cpp_native_ratio`.
        value: The number.
        unit: Its unit; `x` for a ratio.
        n: How many measurements stand behind it.
        details: What it was computed from, by name; each name ends with its unit.
    """

    name: str
    value: float
    unit: str
    n: int
    details: Mapping[str, float] = field(default_factory=dict)


def show(title: str, figures: Iterable[Figure], *, as_json: bool) -> None:
    """Prints figures to standard output.

    Args:
        title: What was measured, in a few words.
        figures: The figures.
        as_json: Print one JSON object per figure and line, and nothing else.
    """
    if as_json:
        for figure in figures:
            document = {
                "figure": figure.name,
                "value": round(figure.value, 4),
                "unit": figure.unit,
                "n": figure.n,
                **{name: round(value, 4) for name, value in figure.details.items()},
            }
            print(json.dumps(document))
        return
    table = Table("figure", "value", "unit", "n", "from", title=title)
    for figure in figures:
        details = ", ".join(f"{name} {value:.4g}" for name, value in figure.details.items())
        table.add_row(figure.name, f"{figure.value:.3f}", figure.unit, str(figure.n), details)
    Console().print(table)
