"""A problem made ready for judging: tests in tier order, their bytes decoded once."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass

from cupel.schema import Checker, Limits, Problem, decode_data
from cupel_service.tiers import assign_tiers


@dataclass(frozen=True, slots=True)
class SuiteTest:
    """One test as the judge uses it.

    Args:
        name: Its name within the problem.
        tier: Its tier, from 1.
        size: Its declared size, else the bytes of its input.
        input: What the program reads from standard input.
        expected: The reference output, which never enters the candidate's box.
        public: It may be shown to whoever solves the problem.
    """

    name: str
    tier: int
    size: int
    input: bytes
    expected: bytes
    public: bool = False


@dataclass(frozen=True, slots=True)
class Suite:
    """A problem's tests with what is needed to judge them.

    Args:
        tests: In order of tier, then size, then as the problem lists them.
        limits: The problem's limits, before any factor of a language.
        checker: How outputs are compared.
        tests_per_tier: How many tests tier 1, 2, ... holds.
        digest: SHA-256 of the problem, in hexadecimal.
    """

    tests: tuple[SuiteTest, ...]
    limits: Limits
    checker: Checker
    tests_per_tier: tuple[int, ...]
    digest: str

    @property
    def tiers(self) -> int:
        """How many tiers there are."""
        return len(self.tests_per_tier)

    def covered(self, coverage: int) -> tuple[SuiteTest, ...]:
        """The tests of tiers 1..coverage, in order."""
        return self.tests[: sum(self.tests_per_tier[:coverage])]

    @property
    def data_bytes(self) -> int:
        """How much test data this suite keeps in memory, in bytes."""
        return sum(len(test.input) + len(test.expected) for test in self.tests)


def prepare(problem: Problem) -> Suite:
    """Makes a problem ready: decodes its data, cuts tiers where none are given, sorts the tests.

    Args:
        problem: As it was registered or sent inline; its schema has vouched for its consistency.

    Returns:
        The suite that the judge runs.
    """
    inputs = [decode_data(test.input) for test in problem.tests]
    sizes = [
        len(raw) if test.size is None else test.size
        for test, raw in zip(problem.tests, inputs, strict=True)
    ]
    given = [test.tier for test in problem.tests if test.tier is not None]
    tiers = given or assign_tiers(sizes, problem.tier_fractions)
    tests = [
        SuiteTest(test.name, tier, size, raw, decode_data(test.output), test.public)
        for test, tier, size, raw in zip(problem.tests, tiers, sizes, inputs, strict=True)
    ]
    tests.sort(key=lambda test: (test.tier, test.size))
    counts = Counter(tiers)
    return Suite(
        tests=tuple(tests),
        limits=problem.limits,
        checker=problem.checker,
        tests_per_tier=tuple(counts[tier] for tier in range(1, len(counts) + 1)),
        digest=digest(problem),
    )


def digest(problem: Problem) -> str:
    """The SHA-256 of a problem's canonical JSON, in hexadecimal: its identity across services."""
    document = problem.model_dump(mode="json")
    for test in document["tests"]:
        if not test["public"]:
            del test["public"]  # a problem without public tests keeps the digest it always had
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()
