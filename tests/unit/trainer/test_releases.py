from __future__ import annotations

from datetime import date

import pytest

from cupel_trainer.errors import ProblemSetError
from cupel_trainer.evaluate.releases import Release, parse_release


@pytest.mark.parametrize(
    ("name", "release"),
    [
        ("release_v1", Release(1, 1)),
        ("release_v5", Release(1, 5)),
        ("release_latest", Release(1, 6)),
        ("v1", Release(1, 1)),
        ("v5", Release(5, 5)),
        ("v4_v5", Release(4, 5)),
        ("v1_v6", Release(1, 6)),
    ],
)
def test_names_of_livecodebench_are_known(name: str, release: Release) -> None:
    assert parse_release(name) == release


@pytest.mark.parametrize(
    "name", ["", "v0", "v7", "release_v7", "v5_v4", "release_v1_v2", "V5", "v4-v5", "v5 "]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ProblemSetError, match="is no release of LiveCodeBench"):
        parse_release(name)


@pytest.mark.parametrize(
    ("release", "day", "held"),
    [
        ("release_v1", date(2023, 4, 30), False),
        ("release_v1", date(2023, 5, 1), True),
        ("release_v1", date(2024, 3, 31), True),
        ("release_v1", date(2024, 4, 1), False),
        ("v2", date(2024, 3, 31), False),
        ("v2", date(2024, 4, 1), True),
        ("v2", date(2024, 5, 31), True),
        ("v3", date(2024, 7, 31), True),
        ("v4", date(2024, 9, 30), True),
        ("v5", date(2024, 10, 1), True),
        ("v5", date(2025, 1, 31), True),
        ("v5", date(2025, 2, 1), False),
        ("v6", date(2025, 4, 30), True),
        ("v6", date(2025, 5, 1), False),
        ("release_v5", date(2025, 2, 1), False),
        ("v4_v5", date(2024, 7, 31), False),
        ("v4_v5", date(2024, 8, 1), True),
    ],
)
def test_windows_begin_where_the_one_before_ended(release: str, day: date, held: bool) -> None:
    assert parse_release(release).holds("", day) is held


def test_the_slice_that_a_set_names_goes_before_the_date() -> None:
    v5 = parse_release("v5")
    assert v5.holds("v5", date(2023, 5, 1)) is True
    assert v5.holds("v4", date(2024, 12, 1)) is False
    assert v5.holds("winter", date(2024, 12, 1)) is True
    assert v5.holds("winter", None) is None
