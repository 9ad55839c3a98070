"""What all problems of the family are made of."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

Numbers = tuple[int, ...]
"""What tells one problem of a skeleton from another."""


class Part(StrEnum):
    """Which part of the family a problem belongs to; its difficulty in the problem set."""

    EASY = "easy"
    HARD = "hard"


class Kind(StrEnum):
    """What becomes of a program."""

    SLOW = "slow"
    """Right, but its time grows with n: passes while n is small."""
    FAST = "fast"
    """Right, and its time does not grow with n."""
    WRONG = "wrong"
    """Fast, and wrong on small inputs already."""
    LATE = "late"
    """Fast, right on small inputs, and wrong on large ones, where a float loses digits."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program for a problem, in Python.

    Args:
        kind: What becomes of it.
        source: Its text; ends with a line end.
    """

    kind: Kind
    source: str


@dataclass(frozen=True, slots=True)
class Skeleton:
    """Problems that differ in their numbers only.

    Args:
        name: Unique within the family.
        part: Easy or hard.
        draw: Numbers of a problem, at random.
        state: The statement, without its example.
        write: All programs for a problem, at least one each of SLOW, FAST and WRONG.
    """

    name: str
    part: Part
    draw: Callable[[np.random.Generator], Numbers]
    state: Callable[[Numbers], str]
    write: Callable[[Numbers], tuple[Program, ...]]


def summing(condition: str) -> tuple[Program, ...]:
    """The slow programs that add up all k from 1 to n that meet a condition."""
    return (
        Program(
            Kind.SLOW,
            "n = int(input())\nt = 0\nfor k in range(1, n + 1):\n"
            f"    if {condition}:\n        t += k\nprint(t)\n",
        ),
        Program(
            Kind.SLOW,
            f"n = int(input())\nprint(sum(k for k in range(1, n + 1) if {condition}))\n",
        ),
    )


def run_in_process(source: str, n: int) -> str:
    """What a program of the family prints, without a box: for its own texts only.

    Args:
        source: The program.
        n: What it reads.
    """
    printed = io.StringIO()

    def write(value: object) -> None:
        printed.write(f"{value}\n")

    names: dict[str, object] = {"input": lambda: str(n), "print": write}
    exec(compile(source, "<family>", "exec"), names)  # noqa: S102 (a text of this package)
    return printed.getvalue()
