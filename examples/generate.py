"""Writes the tests of every example problem: `python examples/generate.py`; `--check` compares.

Inputs are a handful of numbers each, from which the judged program makes its own sequence or graph:
so the files stay tiny however large the work is. Tiers 1 and 2 are small enough for slow programs,
tier 3 stops slow Python programs, tier 4 slow C and C++ programs as well. The answers are those of
each problem's `solutions/right.py`; the solutions in C and C++ work differently and confirm them.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent
GENERATOR_SEED = 20_240_229
SEED_END = 2**31

Make = Callable[[random.Random, int], str]
"""Makes one input of about the given size."""


@dataclass(frozen=True, slots=True)
class Suite:
    """The tests of one problem.

    Args:
        problem: The name of its folder.
        sizes: One tuple of input sizes per tier, the smallest tier first.
        make: Makes the input for a size.
    """

    problem: str
    sizes: tuple[tuple[int, ...], ...]
    make: Make


@dataclass(frozen=True, slots=True)
class Case:
    """One test to be: where it goes below the problem's folder, without suffix, and its input."""

    stem: str
    text: str


def _two_sum(draw: random.Random, n: int) -> str:
    values = max(4, min(5 * n, 1_000_000))
    return f"{n} {draw.randint(values // 2, values)} {values} {draw.randrange(SEED_END)}\n"


def _subsequence(draw: random.Random, n: int) -> str:
    values = max(10, min(8 * n, 1_000_000))
    return f"{n} {values} {draw.randrange(SEED_END)}\n"


def _windows(draw: random.Random, n: int) -> str:
    return f"{n} {(n + 1) // 2} {max(3, n // 3)} {draw.randrange(SEED_END)}\n"


def _graph(draw: random.Random, n: int) -> str:
    return f"{n} {5 * n} {draw.randint(50, 1000)} {draw.randrange(SEED_END)}\n"


def _primes(draw: random.Random, n: int) -> str:
    return f"{n - draw.randrange(n // 50 + 1)}\n"


def _fibonacci(draw: random.Random, n: int) -> str:
    return f"{n - draw.randrange(n // 50 + 1)} {draw.randint(10**9 - 10**6, 10**9 + 7)}\n"


def _deviation(draw: random.Random, n: int) -> str:
    # From tier 3 on the offset dwarfs the spread: the naive formula cancels.
    base = 0 if n <= 1000 else draw.randint(900_000_000, 1_000_000_000)
    return f"{n} {base} {draw.randint(800, 1000)} {draw.randrange(SEED_END)}\n"


SUITES = (
    Suite("two-sum", ((5, 9, 12), (200, 500, 800), (18_000, 20_000), (110_000, 120_000)), _two_sum),
    Suite(
        "longest-increasing-subsequence",
        ((1, 6, 12), (200, 500, 800), (5_000, 6_000), (110_000, 120_000)),
        _subsequence,
    ),
    Suite(
        "distinct-in-windows",
        ((5, 9, 12), (200, 500, 800), (45_000, 50_000), (110_000, 120_000)),
        _windows,
    ),
    Suite("shortest-path", ((4, 6, 9), (30, 60, 90), (300, 350), (2_900, 3_000)), _graph),
    Suite(
        "prime-sum",
        ((1, 10, 40), (500, 1_000, 2_000), (500_000, 600_000), (4_500_000, 5_000_000)),
        _primes,
    ),
    Suite(
        "fibonacci", ((1, 20, 40), (500, 5_000, 20_000), (10**12, 10**15), (10**18,)), _fibonacci
    ),
    Suite(
        "mean-and-deviation",
        ((2, 5, 9), (200, 500, 800), (5_000, 6_000), (110_000, 120_000)),
        _deviation,
    ),
)


def cases(suite: Suite) -> Iterator[Case]:
    """Makes the inputs of a suite, the same ones every time.

    Args:
        suite: The problem and its sizes.

    Yields:
        Each test, tier by tier.
    """
    draw = random.Random(f"{GENERATOR_SEED} {suite.problem}")
    for tier, sizes in enumerate(suite.sizes, start=1):
        for size in sizes:
            yield Case(f"tests/{tier}/n{size}", suite.make(draw, size))


def answer(problem: str, text: str) -> str:
    """Computes the expected output of an input with the problem's own Python solution.

    Args:
        problem: The name of its folder.
        text: The input.

    Returns:
        What the solution prints.

    Raises:
        subprocess.CalledProcessError: The solution failed.
    """
    solution = EXAMPLES / problem / "solutions" / "right.py"
    return subprocess.run(
        [sys.executable, str(solution)], input=text, capture_output=True, text=True, check=True
    ).stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, report differences")
    check = parser.parse_args().check
    differences = 0
    for suite in SUITES:
        wanted = {
            EXAMPLES / suite.problem / f"{case.stem}.{suffix}": text
            for case in cases(suite)
            for suffix, text in (("in", case.text), ("ans", answer(suite.problem, case.text)))
        }
        present = set((EXAMPLES / suite.problem / "tests").glob("*/*"))
        changed = {p for p, text in wanted.items() if p not in present or p.read_text() != text}
        for path in sorted(changed | (present - set(wanted))):
            differences += 1
            print(f"differs: {path.relative_to(EXAMPLES)}")
            if not check and path in wanted:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(wanted[path])
            elif not check:
                path.unlink()
    print(f"{differences} files {'differ' if check else 'written or removed'}")
    return 1 if check and differences else 0


if __name__ == "__main__":
    raise SystemExit(main())
