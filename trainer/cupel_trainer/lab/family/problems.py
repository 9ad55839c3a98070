"""From skeletons to problems: an example, tests in tiers of rising size, limits, a problem set."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cupel.schema import Language, Limits, Problem, Testcase
from cupel_trainer.evaluate.problem_set import ProblemRow
from cupel_trainer.lab.family.easy import EASY
from cupel_trainer.lab.family.hard import HARD
from cupel_trainer.lab.family.skeleton import (
    Kind,
    Numbers,
    Part,
    Program,
    Skeleton,
    run_in_process,
)

FAMILY = (*EASY, *HARD)

EXAMPLE = (40, 100)
"""Sizes of n, from and below, of the first tier: its test is public, the example."""
SMALL = (400, 10_000)
"""Of the second tier, the last that slow programs always pass."""
LARGE = (4 * 10**9, 10**10)
"""Of the last tier. A slow program would take minutes, and the limit is 50 ms: no
verdict hangs on how fast the machine is."""
MODEST = (20_000, 40_000)
"""Of the last tier of some hard problems, as in real suites: a slow program takes some 2 ms."""
LIMITS = Limits(cpu_s=0.05, memory_bytes=64 << 20, output_bytes=1 << 16, processes=4)

_ATTEMPTS = 200


@dataclass(frozen=True)
class FamilyProblem:
    """A problem of the family.

    Args:
        skeleton: What it is made of.
        numbers: Which problem of the skeleton.
        modest: Whether its largest input is so small that a slow program passes it.
    """

    skeleton: Skeleton
    numbers: Numbers
    modest: bool

    @property
    def id(self) -> str:
        """Such as `residue-7-5`."""
        return "-".join([self.skeleton.name, *map(str, self.numbers)])

    @cached_property
    def programs(self) -> tuple[Program, ...]:
        """Every program that the family knows for it."""
        return self.skeleton.write(self.numbers)

    def of_kind(self, kind: Kind) -> tuple[Program, ...]:
        """The programs of one kind; there may be none that are LATE."""
        return tuple(each for each in self.programs if each.kind is kind)

    def answer(self, n: int) -> str:
        """What is to be printed for n, by a fast program."""
        return run_in_process(self.of_kind(Kind.FAST)[0].source, n)

    def row(self, random: np.random.Generator) -> ProblemRow:
        """The problem with its tests, as a line of a problem set.

        Args:
            random: Chooses the sizes of n, such that every WRONG program fails the second tier,
                and every LATE one the last and no other. WRONG ones fail the example, too, where
                there is one so small and so telling.
        """
        sizes = (
            self.example(random),
            self._size(random, SMALL, Kind.WRONG),
            self._size(random, MODEST if self.modest else LARGE, Kind.LATE),
        )
        statement = self.statement(sizes[0])
        tests = tuple(
            Testcase(
                name="example" if tier == 1 else f"tier-{tier}",
                tier=tier,
                input=f"{n}\n",
                output=self.answer(n),
                public=tier == 1,
            )
            for tier, n in enumerate(sizes, start=1)
        )
        return ProblemRow(
            id=self.id,
            title=self.id,
            statement=statement,
            language=Language.PYTHON,
            difficulty=self.skeleton.part.value,
            tags=(self.skeleton.name, "modest" if self.modest else "large"),
            problem=Problem(title=self.id, statement=statement, limits=LIMITS, tests=tests),
        )

    def statement(self, n: int) -> str:
        """What is asked, with an example. How large n can be is not said.

        Whether a slow program is good enough cannot be read from the statement then, as with real
        suites, whose largest tests often stay far below the bounds that a statement gives.
        """
        return (
            f"{self.skeleton.state(self.numbers)}\n"
            f"Example: for n = {n} print {self.answer(n).strip()}."
        )

    def example(self, random: np.random.Generator) -> int:
        """The n of an example."""
        return self._find(random, EXAMPLE, Kind.WRONG) or EXAMPLE[0]

    def _size(self, random: np.random.Generator, bounds: tuple[int, int], failing: Kind) -> int:
        n = self._find(random, bounds, failing)
        if n is None:
            raise AssertionError(f"{self.id}: no n in {bounds} tells its {failing} programs")
        return n

    def _find(
        self, random: np.random.Generator, bounds: tuple[int, int], failing: Kind
    ) -> int | None:
        """An n for which every program of a kind is wrong."""
        for _ in range(_ATTEMPTS):
            n = int(random.integers(*bounds))
            right = self.answer(n)
            if all(run_in_process(each.source, n) != right for each in self.of_kind(failing)):
                return n
        return None


def draw_problem(
    random: np.random.Generator, part: Part, modest_share: float, excluded: Collection[str] = ()
) -> FamilyProblem:
    """One problem of a part at random, each of its skeletons as likely.

    Args:
        random: Decides.
        part: Easy or hard.
        modest_share: Of hard problems, how many have a modest largest input.
        excluded: Ids that are not to be drawn.
    """
    skeletons = [each for each in FAMILY if each.part is part]
    while True:
        skeleton = skeletons[int(random.integers(len(skeletons)))]
        modest = part is Part.HARD and bool(random.random() < modest_share)
        problem = FamilyProblem(skeleton, skeleton.draw(random), modest)
        if problem.id not in excluded:
            return problem


def draw_set(
    random: np.random.Generator,
    counts: dict[Part, int],
    modest_share: float,
    excluded: Iterable[str] = (),
) -> tuple[FamilyProblem, ...]:
    """Different problems: of each part so many, skeletons in turn, modest ones spread evenly.

    Args:
        random: Decides.
        counts: Problems per part.
        modest_share: As in `draw_problem`, but as a count of the whole set: no luck in it.
        excluded: Ids that are not to be drawn, such as those of another set.
    """
    taken = set(excluded)
    drawn = []
    for part, count in counts.items():
        skeletons = [each for each in FAMILY if each.part is part]
        for number in range(count):
            skeleton = skeletons[number % len(skeletons)]
            modest = part is Part.HARD and _falls_due(number, modest_share)
            problem = _new(skeleton, modest, random, taken.__contains__)
            taken.add(problem.id)
            drawn.append(problem)
    return tuple(drawn)


def _falls_due(number: int, share: float) -> bool:
    """Whether the running count of a share grows with this number, as 0.25 does at every fourth."""
    return int((number + 1) * share + 1e-9) > int(number * share + 1e-9)


def _new(
    skeleton: Skeleton,
    modest: bool,
    random: np.random.Generator,
    is_taken: Callable[[str], bool],
) -> FamilyProblem:
    for _ in range(_ATTEMPTS):
        problem = FamilyProblem(skeleton, skeleton.draw(random), modest)
        if not is_taken(problem.id):
            return problem
    raise ValueError(f"the skeleton {skeleton.name!r} has no more problems: ask for fewer")
