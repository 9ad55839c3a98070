"""The lab's problems: every program does what its kind says, on every problem."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupel.schema import Problem
from cupel_trainer.lab.family.problems import (
    FAMILY,
    LARGE,
    MODEST,
    SMALL,
    FamilyProblem,
    draw_problem,
    draw_set,
)
from cupel_trainer.lab.family.skeleton import Kind, Part, Skeleton, run_in_process

seeds = st.integers(0, 2**32 - 1)


def drawn(skeleton: Skeleton, seed: int) -> FamilyProblem:
    return FamilyProblem(skeleton, skeleton.draw(np.random.default_rng(seed)), modest=False)


def sizes(problem: FamilyProblem, seed: int) -> list[int]:
    row = problem.row(np.random.default_rng(seed))
    assert isinstance(row.problem, Problem)
    return [int(str(test.input)) for test in row.problem.tests]


@pytest.mark.parametrize("skeleton", FAMILY, ids=lambda each: each.name)
@given(seed=seeds, n=st.integers(0, 400))
def test_slow_and_fast_programs_agree(skeleton: Skeleton, seed: int, n: int) -> None:
    problem = drawn(skeleton, seed)
    right = {*problem.of_kind(Kind.SLOW), *problem.of_kind(Kind.FAST)}
    assert len({run_in_process(each.source, n) for each in right}) == 1


@pytest.mark.parametrize("skeleton", FAMILY, ids=lambda each: each.name)
@given(seed=seeds)
def test_programs_fail_where_their_kind_says(skeleton: Skeleton, seed: int) -> None:
    problem = drawn(skeleton, seed)
    example, small, large = sizes(problem, seed)
    for program in problem.of_kind(Kind.WRONG):
        assert run_in_process(program.source, small) != problem.answer(small)
    for program in problem.of_kind(Kind.LATE):
        for n in (example, small):
            assert run_in_process(program.source, n) == problem.answer(n)
        assert run_in_process(program.source, large) != problem.answer(large)


@pytest.mark.parametrize("skeleton", FAMILY, ids=lambda each: each.name)
@given(seed=seeds)
def test_every_problem_has_programs_of_the_three_main_kinds(skeleton: Skeleton, seed: int) -> None:
    problem = drawn(skeleton, seed)
    for kind in (Kind.SLOW, Kind.FAST, Kind.WRONG):
        assert problem.of_kind(kind)
    sources = [each.source for each in problem.programs]
    assert len(set(sources)) == len(sources)


@pytest.mark.parametrize(
    ("name", "numbers", "n", "printed"),
    [
        ("residue", (7, 5), 20, "36"),  # 5 + 12 + 19
        ("multiples", (3, 10), 10, "180"),  # 10 * (3 + 6 + 9)
        ("series", (2, 3), 4, "32"),  # 5 + 7 + 9 + 11
        ("shift", (2, 5, 11), 3, "6"),  # 2, 7, 1, 6
        ("linear", (2, 1, 5, 0), 10, "9"),  # 2 + 7
        ("union", (4, 6), 12, "4"),  # 4, 6, 8, 12
        ("wheel", (1, 2, 0, 4, 5, 3, 0), 5, "2"),  # 0, 1, 2, 0, 1, 2
    ],
)
def test_answers_are_those_computed_by_hand(
    name: str, numbers: tuple[int, ...], n: int, printed: str
) -> None:
    (skeleton,) = (each for each in FAMILY if each.name == name)
    problem = FamilyProblem(skeleton, numbers, modest=False)
    for kind in (Kind.SLOW, Kind.FAST):
        for program in problem.of_kind(kind):
            assert run_in_process(program.source, n) == f"{printed}\n"


def test_the_same_seed_draws_the_same_problems_with_the_same_tests() -> None:
    def rows(seed: int) -> list[str]:
        random = np.random.default_rng(seed)
        problems = draw_set(random, {Part.EASY: 8, Part.HARD: 9}, 0.25)
        return [each.row(random).model_dump_json() for each in problems]

    assert rows(1) == rows(1)
    assert rows(1) != rows(2)


def test_a_set_holds_no_problem_twice_and_none_that_is_excluded() -> None:
    random = np.random.default_rng(0)
    counts = {Part.EASY: 40, Part.HARD: 45}
    first = {each.id for each in draw_set(random, counts, 0.2)}
    second = {each.id for each in draw_set(random, counts, 0.2, first)}
    assert len(first) == len(second) == 85
    assert not first & second
    assert all(
        draw_problem(random, Part.HARD, 0.2, first | second).id not in first | second
        for _ in range(200)
    )


def test_the_modest_share_is_a_count_and_spread_over_all_skeletons() -> None:
    problems = draw_set(np.random.default_rng(0), {Part.EASY: 10, Part.HARD: 30}, 0.2)
    modest = [each for each in problems if each.modest]
    assert len(modest) == 6
    assert {each.skeleton.name for each in modest} == {"linear", "union", "wheel"}


def test_a_problem_that_cannot_be_new_is_refused() -> None:
    with pytest.raises(ValueError, match="union.* has no more problems"):
        draw_set(np.random.default_rng(0), {Part.EASY: 1, Part.HARD: 600}, 0.2)


@given(seed=seeds, modest=st.booleans())
def test_tiers_rise_and_only_the_example_is_public(seed: int, modest: bool) -> None:
    random = np.random.default_rng(seed)
    problem = draw_problem(random, Part.HARD, 1.0 if modest else 0.0)
    row = problem.row(random)
    assert isinstance(row.problem, Problem)
    tests = row.problem.tests
    assert [test.tier for test in tests] == [1, 2, 3]
    assert [test.public for test in tests] == [True, False, False]
    example, small, large = (int(str(test.input)) for test in tests)
    assert example < SMALL[0] <= small < SMALL[1] <= large
    low, high = MODEST if modest else LARGE
    assert low <= large < high
    assert f"n = {example} print {tests[0].output!s}".strip() in row.statement
    assert str(large) not in row.statement
