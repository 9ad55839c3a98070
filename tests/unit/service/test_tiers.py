from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupel.schema import Base64Data, FloatsChecker, Limits, Problem, Testcase
from cupel_service.suite import digest, prepare
from cupel_service.tiers import assign_tiers, cut_tiers

QUARTERS = (0.25, 0.5, 0.75, 1.0)

fractions = st.lists(st.floats(0.001, 0.999, exclude_max=True), max_size=12, unique=True).map(
    lambda some: (*sorted(some), 1.0)
)


@pytest.mark.parametrize(
    ("tests", "cut", "expected"),
    [
        (4, QUARTERS, (1, 1, 1, 1)),
        (8, QUARTERS, (2, 2, 2, 2)),
        (10, QUARTERS, (3, 2, 3, 2)),  # ends at 2.5, 5, 7.5 and 10, rounded up
        (5, QUARTERS, (2, 1, 1, 1)),
        (3, QUARTERS, (1, 1, 1)),
        (1, QUARTERS, (1,)),
        (30, (0.1, 1.0), (3, 27)),  # 0.1 * 30 is a little more than 3
        (10, (0.51, 0.55, 1.0), (6, 1, 3)),  # both end at 6: the second is moved up
        (3, (0.9, 0.95, 1.0), (1, 1, 1)),
        (7, (1.0,), (7,)),
    ],
)
def test_tests_are_cut_at_cumulative_fractions(
    tests: int, cut: tuple[float, ...], expected: tuple[int, ...]
) -> None:
    assert cut_tiers(tests, cut) == expected


@given(tests=st.integers(1, 300), cut=fractions)
def test_no_tier_is_empty_and_no_test_is_lost(tests: int, cut: tuple[float, ...]) -> None:
    counts = cut_tiers(tests, cut)
    assert min(counts) >= 1
    assert sum(counts) == tests
    assert len(counts) == min(tests, len(cut))


@given(sizes=st.lists(st.integers(0, 50), min_size=1, max_size=80), cut=fractions)
def test_a_test_never_stands_in_a_lower_tier_than_a_smaller_one(
    sizes: list[int], cut: tuple[float, ...]
) -> None:
    tiers = assign_tiers(sizes, cut)
    ordered = sorted(range(len(sizes)), key=lambda index: (sizes[index], index))
    in_order = [tiers[index] for index in ordered]
    assert in_order == sorted(in_order)
    assert set(tiers) == set(range(1, max(tiers) + 1))


def test_tests_of_one_size_keep_their_order() -> None:
    assert assign_tiers([5, 5, 5, 5, 1], (0.4, 1.0)) == (1, 2, 2, 2, 1)


def _problem(*tests: Testcase) -> Problem:
    return Problem(tests=tests)


def test_tiers_are_cut_by_the_bytes_of_the_input() -> None:
    suite = prepare(
        _problem(
            Testcase(name="long", input="x" * 300, output="1"),
            Testcase(name="short", input="x", output="2"),
            Testcase(name="accents", input="é" * 100, output="3"),  # 200 bytes
            Testcase(name="middle", input="x" * 150, output="4"),
        )
    )
    assert [(test.name, test.tier) for test in suite.tests] == [
        ("short", 1),
        ("middle", 2),
        ("accents", 3),
        ("long", 4),
    ]
    assert suite.tests_per_tier == (1, 1, 1, 1)
    assert suite.tiers == 4


def test_a_declared_size_goes_before_the_bytes_of_the_input() -> None:
    suite = prepare(
        _problem(
            Testcase(name="hard", input="10", output="", size=10),
            Testcase(name="easy", input="0000001", output="", size=1),
        )
    )
    assert [test.name for test in suite.tests] == ["easy", "hard"]


def test_given_tiers_are_kept_whatever_the_sizes() -> None:
    suite = prepare(
        _problem(
            Testcase(name="a", input="x" * 9, output="", tier=1),
            Testcase(name="b", input="x", output="", tier=2),
            Testcase(name="c", input="xx", output="", tier=1),
        )
    )
    assert [(test.name, test.tier) for test in suite.tests] == [("c", 1), ("a", 1), ("b", 2)]
    assert suite.tests_per_tier == (2, 1)


def test_coverage_is_nested_and_goes_up_to_every_test() -> None:
    suite = prepare(_problem(*(Testcase(name=str(n), input="x" * n, output="") for n in range(10))))
    sets = [set(suite.covered(level)) for level in range(1, suite.tiers + 1)]
    assert all(low < high for low, high in pairwise(sets))
    assert sets[-1] == set(suite.tests)


def test_test_data_is_decoded_to_bytes() -> None:
    suite = prepare(_problem(Testcase(name="a", input=Base64Data(base64="/wA="), output="é")))
    assert suite.tests[0].input == b"\xff\x00"
    assert suite.tests[0].expected == "é".encode()
    assert suite.data_bytes == 4


def test_the_digest_changes_with_the_content_and_with_nothing_else() -> None:
    problem = _problem(Testcase(name="a", input="1", output="2"))
    again = Problem.model_validate_json(problem.model_dump_json())
    assert digest(problem) == digest(again) == prepare(problem).digest
    assert len(digest(problem)) == 64
    for other in (
        problem.model_copy(update={"limits": Limits(cpu_s=3)}),
        problem.model_copy(update={"checker": FloatsChecker()}),
        _problem(Testcase(name="a", input="1", output="3")),
    ):
        assert digest(other) != digest(problem)
