from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from study_files import header, write_verdicts

from cupel_trainer.errors import StudyError
from cupel_trainer.evaluate.splits import (
    by_difficulty,
    select_difficulty,
    select_window,
    window_words,
)
from cupel_trainer.evaluate.verdict_table import VerdictTable, join_files, read_verdicts_file


def table(
    folder: Path, difficulties: dict[str, str], dates: dict[str, str] | None = None
) -> VerdictTable:
    path = write_verdicts(
        folder / "a.jsonl",
        dict.fromkeys(difficulties, "AW"),
        header("a"),
        difficulties=difficulties,
        dates=dates,
    )
    return join_files([read_verdicts_file(path)])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("hard", "easy", "medium"), ["all", "easy", "medium", "hard"]),
        (("1900", "800", ""), ["all", "800", "1900", "unrated"]),
        (("B", "A", "Easy"), ["all", "Easy", "A", "B"]),
        (("hard", "hard", "hard"), ["all"]),
        (("", "", ""), ["all"]),
    ],
)
def test_difficulties_come_from_easy_to_hard(
    tmp_path: Path, given: tuple[str, ...], expected: list[str]
) -> None:
    splits = by_difficulty(table(tmp_path, dict(zip("pqr", given, strict=True))))
    assert [split.name for split in splits] == expected
    assert len(splits[0].table.problems) == 3
    assert sum(len(split.table.problems) for split in splits[1:]) in (0, 3)


def test_one_difficulty_can_be_chosen(tmp_path: Path) -> None:
    study = table(tmp_path, {"p": "easy", "q": "", "r": "easy"})
    assert select_difficulty(study, "easy").problems == ("p", "r")
    assert select_difficulty(study, "unrated").problems == ("q",)
    with pytest.raises(StudyError, match="'hard'; there are: easy, unrated"):
        select_difficulty(study, "hard")


def test_both_days_of_a_window_belong_to_it(tmp_path: Path) -> None:
    dates = {"p": "2024-01-31", "q": "2024-02-01", "r": "2024-03-01", "s": "2024-03-02"}
    study = table(tmp_path, dict.fromkeys(dates, ""), dates)
    window = select_window(study, date(2024, 2, 1), date(2024, 3, 1))
    assert window.problems == ("q", "r")
    assert select_window(study, date(2024, 3, 1), None).problems == ("r", "s")
    assert select_window(study, None, date(2024, 1, 31)).problems == ("p",)
    assert select_window(study, None, None) is study


def test_problems_without_a_date_are_left_out_and_told(tmp_path: Path) -> None:
    study = table(tmp_path, {"p": "", "q": ""}, {"p": "2024-01-31"})
    window = select_window(study, date(2024, 1, 1), None)
    assert window.problems == ("p",)
    assert window.warnings == (
        "left out of the window, because they have no date: 1 of the problems",
    )


def test_an_empty_window_is_an_error(tmp_path: Path) -> None:
    study = table(tmp_path, {"p": ""}, {"p": "2024-01-31"})
    with pytest.raises(StudyError, match="no problem was published from 2025-01-01$"):
        select_window(study, date(2025, 1, 1), None)
    undated = table(tmp_path, {"p": ""})
    with pytest.raises(StudyError, match="the problem set gives no dates"):
        select_window(undated, None, date(2025, 1, 1))


def test_a_date_that_is_none_is_an_error(tmp_path: Path) -> None:
    study = table(tmp_path, {"p": ""}, {"p": "last year"})
    with pytest.raises(StudyError, match="'last year', which is no date"):
        select_window(study, date(2025, 1, 1), None)


def test_a_window_is_told_in_words() -> None:
    day = date(2024, 8, 1)
    assert window_words(day, date(2025, 2, 1)) == "from 2024-08-01 to 2025-02-01"
    assert window_words(None, day) == "to 2024-08-01"
    assert window_words(None, None) == ""
