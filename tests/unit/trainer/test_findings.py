from __future__ import annotations

from pathlib import Path

import pytest
from study_files import BOOTSTRAP, figures, study_table

from cupel_trainer.evaluate.bootstrap import Interval
from cupel_trainer.evaluate.counting import EndlessAs
from cupel_trainer.evaluate.findings import (
    MINUS,
    bears_comparison,
    listed,
    percent,
    points,
    split_findings,
    study_notes,
)


def said(folder: Path, letters: dict[float | str, str], problems: int = 8) -> tuple[str, ...]:
    """The findings on problems that all have the same letters."""
    verdicts = {
        key: {f"p{index}": text for index in range(problems)} for key, text in letters.items()
    }
    return split_findings(figures(study_table(folder, verdicts)).splits[0], BOOTSTRAP.level)


def test_shares_and_points_are_shown_with_their_intervals() -> None:
    assert percent(Interval(0.383, 0.3194, 0.452)) == "38.3% (31.9 to 45.2)"
    assert points(Interval(0.032, -0.01, 0.054)) == f"+3.2 points ({MINUS}1.0 to +5.4)"
    assert points(Interval(-0.00001, -0.0002, 0.0)) == "+0.0 points (+0.0 to +0.0)"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(["a"]) == "a"


def test_a_clear_trade_is_called_one(tmp_path: Path) -> None:
    findings = said(tmp_path, {0.0: "ATTT", 0.5: "ATTW", 1.0: "ATWW", 1.5: "AWWW"})
    text = "\n".join(findings)
    assert "These verdicts do not tell it apart from any other checkpoint." in text
    assert (
        "Optimization failures fall at every step of alpha from alpha 0 to alpha 1.5; 3 of 3 "
        "steps have an interval that excludes zero." in text
    )
    assert "Correctness failures rise at every step" in text
    assert "The one is traded for the other, and no change of the solve rate is shown." in text
    assert (
        f"Beyond the end, from alpha 1 out to alpha 1.5: optimization failures {MINUS}25.0" in text
    )


def test_a_clear_peak_is_called_one(tmp_path: Path) -> None:
    findings = said(tmp_path, {0.0: "AWWW", 0.5: "AAAW", 1.0: "AAWW"})
    assert findings[0] == (
        "The solve rate is highest at alpha 0.5: 75.0% (75.0 to 75.0). Its lead over each other "
        "checkpoint has an interval above zero."
    )


def test_a_course_against_alpha_is_told_with_its_steps(tmp_path: Path) -> None:
    text = "\n".join(said(tmp_path, {0.0: "TTWW", 0.5: "TTTW", 1.0: "TWWW"}))
    assert (
        "Optimization failures do not fall at every step: they fall at 1 of 2, and rise or stay "
        "from alpha 0 to alpha 0.5 by +25.0 points" in text
    )
    assert f"fall or stay from alpha 0 to alpha 0.5 by {MINUS}25.0 points" in text


def test_many_steps_against_alpha_are_counted_only(tmp_path: Path) -> None:
    letters: dict[float | str, str] = {
        float(index): "TW" if index % 2 else "WW" for index in range(9)
    }
    assert "and rise or stay 4 times." in "\n".join(said(tmp_path, letters))


def test_steady_failures_fall_at_no_step(tmp_path: Path) -> None:
    text = "\n".join(said(tmp_path, {0.0: "TW", 0.5: "TW", 1.0: "TW"}))
    assert "Optimization failures fall at no step of alpha from alpha 0 to alpha 1." in text
    assert "traded" not in text


def test_few_problems_support_no_comparison(tmp_path: Path) -> None:
    assert not bears_comparison(5, 0.95)
    assert bears_comparison(6, 0.95)
    assert not bears_comparison(6, 0.99)
    findings = said(tmp_path, {0.0: "TTTT", 1.0: "AAAA"}, problems=5)
    assert findings[0] == "5 problems cannot tell checkpoints apart: see the tables."
    assert "interval above zero" not in "\n".join(findings)


def test_a_lone_checkpoint_is_compared_with_nothing(tmp_path: Path) -> None:
    findings = said(tmp_path, {"only": "AW"})
    assert findings[0] == "The solve rate is highest at only: 50.0% (50.0 to 50.0)."
    assert findings[-1].endswith("8 of 8 problems are solved by at least one checkpoint, "
                                 "8 by the one that solves most.")  # fmt: skip


def test_what_only_extrapolations_solve_is_counted(tmp_path: Path) -> None:
    verdicts: dict[float | str, dict[str, str]] = {
        0.0: {"p": "AW", "q": "WW", "r": "WW"},
        1.0: {"p": "AW", "q": "WW", "r": "WW"},
        1.5: {"p": "AW", "q": "AW", "r": "WW"},
    }
    split = figures(study_table(tmp_path, verdicts)).splits[0]
    assert split_findings(split, 0.95)[-1] == (
        "With all samples, 2 of 3 problems are solved by at least one checkpoint, 2 by the one "
        "that solves most, 1 by a single one alone, 1 by extrapolations only."
    )


def test_equally_good_checkpoints_share_the_highest_pass(tmp_path: Path) -> None:
    findings = said(tmp_path, {0.0: "AW", 1.0: "AW"})
    assert "the highest pass@2 is 100.0% (100.0 to 100.0), at 2 checkpoints alike." in findings[-2]


def test_notes_tell_what_was_left_out_or_is_uncertain(tmp_path: Path) -> None:
    table = study_table(tmp_path, {0.0: {"p": "AJPU", "q": "EIWW", "r": "WWWW"}})
    notes = "\n".join(study_notes(figures(table)))
    assert "1 judging error (JE)" in notes
    assert "1 failed sample not judged to the end" in notes
    assert "1 pair of checkpoint and problem with fewer than 4 scored samples" in notes
    assert "1 time-out in the smallest tier, not probed" in notes
    assert "2 time-outs known to be endless loops or idle waits, counted as optimization" in notes
    assert "As correctness failures they would move the rates by at most 16.7 points" in notes
    assert "Intervals from 3 problems are rough" in notes


def test_a_clean_study_has_no_warning_but_the_loops(tmp_path: Path) -> None:
    table = study_table(tmp_path, {0.0: {f"p{index}": "AW" for index in range(30)}})
    study = figures(table, EndlessAs.CORRECTNESS)
    assert study_notes(study) == ("No time-out is known to be an endless loop or an idle wait.",)


@pytest.mark.parametrize("problems", [1, 2])
def test_one_problem_is_one_problem(tmp_path: Path, problems: int) -> None:
    findings = said(tmp_path, {0.0: "AW", 1.0: "WW"}, problems=problems)
    assert findings[0].startswith(("1 problem cannot", "2 problems cannot"))
