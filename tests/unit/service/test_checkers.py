from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupel.schema import FloatsChecker, TokensChecker
from cupel_service.checkers import check, equal_floats, equal_tokens

# Few distinct bytes, so that equal, nearly equal and glued tokens are all common.
texts = st.lists(
    st.sampled_from([b"a", b"A", b"bb", b"\0", b"\xff", b" ", b"\n", b"\t\r", b"\x0b\x0c", b"\x85"])
).map(b"".join)
numbers = st.lists(st.sampled_from([b"1", b"1.0", b"1.05", b"-2", b"x", b"nan", b" ", b"\n"])).map(
    b"".join
)


@given(output=texts, expected=texts, chunk_bytes=st.integers(1, 9))
def test_streaming_agrees_with_splitting_at_any_chunk_size(
    output: bytes, expected: bytes, chunk_bytes: int
) -> None:
    naive = output.split() == expected.split()
    assert equal_tokens(output, expected, chunk_bytes=chunk_bytes) == naive
    folded = output.lower().split() == expected.lower().split()
    assert equal_tokens(output, expected, case_sensitive=False, chunk_bytes=chunk_bytes) == folded


@given(text=texts, spaces=st.lists(st.sampled_from([b" ", b"\n", b" \t "]), min_size=1))
def test_white_space_between_tokens_does_not_matter(text: bytes, spaces: list[bytes]) -> None:
    spread = b"".join(
        token + spaces[index % len(spaces)] for index, token in enumerate(text.split())
    )
    assert equal_tokens(text, b"\n" + spread, chunk_bytes=3)


@given(output=numbers, expected=numbers)
def test_floats_without_tolerance_accept_all_that_tokens_accept(
    output: bytes, expected: bytes
) -> None:
    if equal_tokens(output, expected):
        assert equal_floats(output, expected, absolute_tolerance=0, relative_tolerance=0)


@pytest.mark.parametrize(
    ("output", "expected", "accepted"),
    [
        (b"1 2 3", b"1\n2\r\n3\n", True),
        (b"1 2", b"1 2 3", False),
        (b"1 2 3 4", b"1 2 3", False),
        (b"12 3", b"1 23", False),
        (b"", b" \n", True),
        (b"", b"1", False),
        (b"yes", b"YES", False),
        (b"a\0b", b"a b", False),  # NUL is part of a token
        (b"1\xc2\xa02", b"1 2", False),  # so is a no-break space
        (b"\xff\xfe", b" \xff\xfe ", True),  # invalid UTF-8 is only bytes
    ],
)
def test_tokens(output: bytes, expected: bytes, accepted: bool) -> None:
    assert check(TokensChecker(), output, expected) is accepted


def test_case_is_ignored_for_ascii_letters_only() -> None:
    checker = TokensChecker(case_sensitive=False)
    assert check(checker, b"YeS", b"yEs")
    assert not check(checker, "É".encode(), "é".encode())


@pytest.mark.parametrize(
    ("output", "expected", "accepted"),
    [
        (b"3.1415", b"3.1416", True),  # |diff| 1e-4, absolute 1e-3
        (b"1001", b"1000", True),  # |diff| 1, relative 1e-2 of 1000 is 10
        (b"1011", b"1000", False),
        (b"0.002", b"0", False),
        (b"0.001", b"0", True),
        (b"1e3", b"1000.0", True),
        (b"+5", b"5.", True),
        (b"-.5", b"-0.5", True),
        (b"-0", b"0", True),
        (b"1 x", b"1.0 x", True),
        (b"1 y", b"1.0 x", False),
        (b"1", b"1 1", False),
        (b"5", b"x", False),
        (b"1_0", b"10", False),
        (b"1_0", b"1_0", True),
        (b"0x10", b"16", False),
        (b"1,5", b"1.5", False),
        (b".", b"0", False),
        (b"e5", b"0", False),
        (b"1e", b"1", False),
        ("٣".encode(), b"3", False),  # a digit for Python's float(), not for us
        (b"inf", b"inf", True),
        (b"inf", b"-inf", False),
        (b"inf", b"infinity", False),
        (b"inf", b"1", False),
        (b"1", b"inf", False),
        (b"nan", b"nan", True),
        (b"nan", b"1", False),
        (b"1", b"nan", False),
        (b"NaN", b"nan", False),
        (b"1e999", b"1e999", True),
        (b"1e999", b"1e998", False),
        (b"5", b"1e999", False),
        (b"1e999", b"5", False),
        (b"1" * 1025, b"1" * 1024 + b"2", False),  # too long to be a number
        (b"1" * 2000, b" " + b"1" * 2000, True),
    ],
)
def test_floats(output: bytes, expected: bytes, accepted: bool) -> None:
    checker = FloatsChecker(absolute_tolerance=1e-3, relative_tolerance=1e-2)
    assert check(checker, output, expected) is accepted


@pytest.mark.parametrize(
    ("output", "expected", "accepted"),
    [
        (b"Yes 1.0", b"YES 1", True),
        (b"yes 1.5", b"YES 1", False),
        (b"yes", b"no", False),
        (b"INF", b"inf", True),
        (b"a" * 3000, b"A" * 3000, True),
        (b"a" * 2999 + b"b", b"A" * 3000, False),
        (b"yes", b"yes yes", False),
    ],
)
def test_floats_in_any_case(output: bytes, expected: bytes, accepted: bool) -> None:
    checker = FloatsChecker(case_sensitive=False)
    assert check(checker, output, expected) is accepted


@given(
    value=st.floats(-1e12, 1e12),
    error=st.floats(-2e-6, 2e-6),
)
def test_the_larger_of_the_two_tolerances_holds(value: float, error: float) -> None:
    output = value * (1 + error)
    within = abs(output - value) <= max(1e-6, 1e-6 * abs(value))
    accepted = equal_floats(
        repr(output).encode(),
        repr(value).encode(),
        absolute_tolerance=1e-6,
        relative_tolerance=1e-6,
    )
    assert accepted is within


@pytest.mark.parametrize("checker", [TokensChecker(), FloatsChecker()])
@pytest.mark.parametrize("unit", [b"1 ", b"7", b" "])
def test_extra_memory_does_not_grow_with_the_output(
    checker: TokensChecker | FloatsChecker, unit: bytes
) -> None:
    output = unit * (1_000_000 // len(unit))
    expected = b"\n" + output
    tracemalloc.start()
    try:
        assert check(checker, output, expected)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # What `split` makes of the whole takes twenty times that.
    assert peak_bytes < 1_000_000
