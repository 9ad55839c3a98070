"""The easy part: the fast formula takes its numbers from the statement as they stand there."""

from __future__ import annotations

import numpy as np

from cupel_trainer.lab.family.skeleton import Kind, Numbers, Part, Program, Skeleton, summing


def _draw_residue(random: np.random.Generator) -> Numbers:
    modulus = int(random.integers(3, 20))
    return modulus, int(random.integers(1, modulus))


def _state_residue(numbers: Numbers) -> str:
    modulus, residue = numbers
    return f"Print the sum of k from 1 to n where k % {modulus} == {residue}."


def write_residue(modulus: int, residue: int, kind: Kind) -> tuple[Program, ...]:
    """The fast programs that add up residue, residue + modulus, ... up to n."""
    return (
        Program(
            kind,
            f"n = int(input())\nq = (n - {residue}) // {modulus} + 1\n"
            f"print(q * {residue} + q * (q - 1) // 2 * {modulus})\n",
        ),
        Program(
            kind,
            f"n = int(input())\nq = (n + {modulus} - {residue}) // {modulus}\n"
            f"print(q * {residue} + q * (q - 1) // 2 * {modulus})\n",
        ),
    )


def _write_residue(numbers: Numbers) -> tuple[Program, ...]:
    modulus, residue = numbers
    return (
        *summing(f"k % {modulus} == {residue}"),
        *write_residue(modulus, residue, Kind.FAST),
        Program(
            Kind.WRONG,  # one term too few
            f"n = int(input())\nq = (n - {residue}) // {modulus}\n"
            f"print(q * {residue} + q * (q - 1) // 2 * {modulus})\n",
        ),
        Program(
            Kind.LATE,
            f"n = int(input())\nq = (n - {residue}) // {modulus} + 1\n"
            f"print(q * {residue} + int(q * (q - 1) / 2) * {modulus})\n",
        ),
    )


def _draw_multiples(random: np.random.Generator) -> Numbers:
    return int(random.integers(2, 20)), int(random.integers(2, 20))


def _state_multiples(numbers: Numbers) -> str:
    divisor, factor = numbers
    return f"Print {factor} times the sum of the multiples of {divisor} from 1 to n."


def _write_multiples(numbers: Numbers) -> tuple[Program, ...]:
    divisor, factor = numbers
    head = f"n = int(input())\nq = n // {divisor}\n"
    return (
        Program(
            Kind.SLOW,
            "n = int(input())\nt = 0\nfor k in range(1, n + 1):\n"
            f"    if k % {divisor} == 0:\n        t += k * {factor}\nprint(t)\n",
        ),
        Program(
            Kind.SLOW,
            "n = int(input())\n"
            f"print(sum(k * {factor} for k in range(1, n + 1) if k % {divisor} == 0))\n",
        ),
        Program(Kind.FAST, f"{head}print(q * (q + 1) // 2 * {divisor} * {factor})\n"),
        Program(Kind.FAST, f"{head}q = q * (q + 1) // 2\nprint(q * {divisor} * {factor})\n"),
        Program(Kind.WRONG, f"{head}print(q * (q - 1) // 2 * {divisor} * {factor})\n"),
        Program(Kind.WRONG, f"{head}print(q * (q + 1) // 2 * {factor})\n"),
        Program(Kind.LATE, f"{head}print(int(q * (q + 1) / 2) * {divisor} * {factor})\n"),
    )


def _draw_series(random: np.random.Generator) -> Numbers:
    return int(random.integers(2, 20)), int(random.integers(2, 20))


def _state_series(numbers: Numbers) -> str:
    factor, constant = numbers
    return f"Print the sum of k * {factor} + {constant} for k from 1 to n."


def _write_series(numbers: Numbers) -> tuple[Program, ...]:
    factor, constant = numbers
    term = f"k * {factor} + {constant}"
    return (
        Program(
            Kind.SLOW,
            f"n = int(input())\nt = 0\nfor k in range(1, n + 1):\n    t += {term}\nprint(t)\n",
        ),
        Program(Kind.SLOW, f"n = int(input())\nprint(sum({term} for k in range(1, n + 1)))\n"),
        Program(
            Kind.FAST,
            f"n = int(input())\nprint(n * (n + 1) // 2 * {factor} + n * {constant})\n",
        ),
        Program(
            Kind.FAST,
            f"n = int(input())\nq = n * (n + 1) // 2\nprint(q * {factor} + n * {constant})\n",
        ),
        Program(
            Kind.WRONG,  # the constant once, and not n times
            f"n = int(input())\nprint(n * (n + 1) // 2 * {factor} + {constant})\n",
        ),
        Program(
            Kind.WRONG,
            f"n = int(input())\nprint(n * (n - 1) // 2 * {factor} + n * {constant})\n",
        ),
        Program(
            Kind.LATE,
            f"n = int(input())\nprint(int(n * (n + 1) / 2) * {factor} + n * {constant})\n",
        ),
    )


def _draw_shift(random: np.random.Generator) -> Numbers:
    modulus = int(random.integers(11, 20))
    return int(random.integers(2, 11)), int(random.integers(2, 11)), modulus


def _state_shift(numbers: Numbers) -> str:
    start, step, modulus = numbers
    return f"Start with x = {start}. Do x = (x + {step}) % {modulus} n times. Print x."


def _write_shift(numbers: Numbers) -> tuple[Program, ...]:
    start, step, modulus = numbers
    return (
        Program(
            Kind.SLOW,
            f"n = int(input())\nx = {start}\nfor k in range(n):\n"
            f"    x = (x + {step}) % {modulus}\nprint(x)\n",
        ),
        Program(
            Kind.SLOW,
            f"n = int(input())\nx = {start}\nfor k in range(n):\n"
            f"    x += {step}\n    x = x % {modulus}\nprint(x)\n",
        ),
        Program(Kind.FAST, f"n = int(input())\nprint((n * {step} + {start}) % {modulus})\n"),
        Program(
            Kind.FAST,
            f"n = int(input())\nx = {start}\nx += n * {step}\nprint(x % {modulus})\n",
        ),
        Program(Kind.WRONG, f"n = int(input())\nprint((n * {step}) % {modulus})\n"),
        Program(Kind.WRONG, f"n = int(input())\nprint((n + {step} + {start}) % {modulus})\n"),
    )


EASY = (
    Skeleton("residue", Part.EASY, _draw_residue, _state_residue, _write_residue),
    Skeleton("multiples", Part.EASY, _draw_multiples, _state_multiples, _write_multiples),
    Skeleton("series", Part.EASY, _draw_series, _state_series, _write_series),
    Skeleton("shift", Part.EASY, _draw_shift, _state_shift, _write_shift),
)
