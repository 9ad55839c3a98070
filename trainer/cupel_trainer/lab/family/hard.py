"""The hard part: the fast formula needs a constant that the statement does not give.

Each has a few constants that look alike; which of them is right takes arithmetic that the tiny
model does not have. The slow programs need none of it.
"""

from __future__ import annotations

from math import gcd

import numpy as np

from cupel_trainer.lab.family.easy import write_residue
from cupel_trainer.lab.family.skeleton import Kind, Numbers, Part, Program, Skeleton, summing

MODULI = (3, 4, 5, 7)
DIVISORS = (2, 3, 4, 5)
CYCLES = (3, 4, 5)
"""No one of them divides another: a wrong cycle length is never right by being a multiple."""
SEATS = 6


def _draw_linear(random: np.random.Generator) -> Numbers:
    modulus = int(random.choice(MODULI))
    factor = modulus
    while gcd(factor, modulus) > 1:  # else several residues meet the condition, or none
        factor = int(random.integers(2, 20))
    return factor, int(random.integers(1, 20)), modulus, int(random.integers(0, modulus))


def _state_linear(numbers: Numbers) -> str:
    factor, constant, modulus, wanted = numbers
    condition = f"(k * {factor} + {constant}) % {modulus} == {wanted}"
    return f"Print the sum of k from 1 to n where {condition}."


def _write_linear(numbers: Numbers) -> tuple[Program, ...]:
    """The fast ones need the residue of k: (wanted - constant) / factor, modulo the modulus."""
    factor, constant, modulus, wanted = numbers
    right = (wanted - constant) * pow(factor, -1, modulus) % modulus or modulus
    guesses = (
        program
        for guess in range(1, modulus + 1)
        for program in write_residue(modulus, guess, Kind.FAST if guess == right else Kind.WRONG)
    )
    return (*summing(f"(k * {factor} + {constant}) % {modulus} == {wanted}"), *guesses)


def _draw_union(random: np.random.Generator) -> Numbers:
    common = int(random.choice(DIVISORS))
    first = second = 2
    while gcd(first, second) > 1:
        first, second = (int(each) for each in random.integers(2, 7, 2))
    return common * first, common * second


def _state_union(numbers: Numbers) -> str:
    first, second = numbers
    return f"Print how many k from 1 to n are multiples of {first} or of {second}."


def _write_union(numbers: Numbers) -> tuple[Program, ...]:
    """The fast ones need the greatest common divisor, for what both numbers divide."""
    first, second = numbers
    condition = f"k % {first} == 0 or k % {second} == 0"
    common = gcd(first, second)
    guesses = (
        Program(
            Kind.FAST if guess == common else Kind.WRONG,
            f"n = int(input())\nq = n * {guess} // {first} // {second}\n"
            f"print(n // {first} + n // {second} - q)\n",
        )
        for guess in DIVISORS
    )
    return (
        Program(
            Kind.SLOW,
            "n = int(input())\nt = 0\nfor k in range(1, n + 1):\n"
            f"    if {condition}:\n        t += 1\nprint(t)\n",
        ),
        Program(
            Kind.SLOW,
            f"n = int(input())\nprint(sum(1 for k in range(1, n + 1) if {condition}))\n",
        ),
        *guesses,
    )


def _draw_wheel(random: np.random.Generator) -> Numbers:
    """A permutation of the seats, and a start that lies on a cycle of one of the lengths."""
    cycle = int(random.choice(CYCLES))
    seats = [int(each) for each in random.permutation(SEATS)]
    following = [0] * SEATS
    for ring in (seats[:cycle], seats[cycle:]):
        for place, seat in enumerate(ring):
            following[seat] = ring[(place + 1) % len(ring)]
    return (*following, seats[0])


def _state_wheel(numbers: Numbers) -> str:
    *following, start = numbers
    table = ", ".join(map(str, following))
    return f"Let p = {table}. Start with x = {start}. Do x = p[x] n times. Print x."


def _write_wheel(numbers: Numbers) -> tuple[Program, ...]:
    """The fast ones need the length of the cycle that the start lies on."""
    *following, start = numbers
    table = ", ".join(map(str, following))
    seat, cycle = following[start], 1
    while seat != start:
        seat, cycle = following[seat], cycle + 1
    tail = "    x = p[x]\nprint(x)\n"

    def turning(count: str, kind: Kind) -> tuple[Program, ...]:
        loop = f"for k in range({count}):\n{tail}"
        return (
            Program(kind, f"n = int(input())\np = {table}\nx = {start}\n{loop}"),
            Program(kind, f"p = {table}\nx = {start}\nn = int(input())\n{loop}"),
        )

    guesses = (
        program
        for guess in CYCLES
        for program in turning(f"n % {guess}", Kind.FAST if guess == cycle else Kind.WRONG)
    )
    return (*turning("n", Kind.SLOW), *guesses)


HARD = (
    Skeleton("linear", Part.HARD, _draw_linear, _state_linear, _write_linear),
    Skeleton("union", Part.HARD, _draw_union, _state_union, _write_union),
    Skeleton("wheel", Part.HARD, _draw_wheel, _state_wheel, _write_wheel),
)
