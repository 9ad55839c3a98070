from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from pydantic import ValidationError
from study_files import BOOTSTRAP, header, study_table, write_verdicts

from cupel_trainer.errors import RecordsError, StudyError
from cupel_trainer.evaluate.ensemble import plan_ensemble
from cupel_trainer.evaluate.plan import Plan, plan_json, read_plan
from cupel_trainer.evaluate.records import Setting
from cupel_trainer.evaluate.verdict_table import VerdictTable, join_files, read_verdicts_file


def specialists(folder: Path, problems: int = 12, samples: int = 8) -> VerdictTable:
    """Two checkpoints that solve half of the problems each, and a third that is worse."""
    half = "A" * (samples // 2) + "W" * (samples // 2)
    never = "W" * samples
    letters = {
        0.0: [half, never],
        1.0: [never, half],
        1.5: [never, "A" + "W" * (samples - 1)],
    }
    return study_table(
        folder,
        {
            alpha: {f"p{index}": texts[index % 2] for index in range(problems)}
            for alpha, texts in letters.items()
        },
        # Halves must hold problems of both kinds for the choice to carry over.
        difficulties={f"p{index}": ("even", "odd")[index % 2] for index in range(problems)},
    )


def plan(folder: Path) -> Plan:
    return plan_ensemble(specialists(folder), 4, 3, halvings=2, bootstrap=BOOTSTRAP)


def test_complementary_checkpoints_share_the_budget_and_are_worth_more(tmp_path: Path) -> None:
    made = plan(tmp_path)
    assert [(member.checkpoint.name, member.samples) for member in made.members] == [
        ("0.0", 2),
        ("1.0", 2),
    ]
    # By hand: 2 of 8 with 4 accepted: 1 - 6/28; alone, with 4 draws, 1 - 1/70 on half of them.
    assert made.chosen_pass == pytest.approx(1 - 6 / 28)
    assert made.single_pass == pytest.approx((1 - 1 / 70) / 2)
    assert made.held_out.ensemble.value == pytest.approx(1 - 6 / 28)
    assert made.held_out.difference.value == pytest.approx((1 - 6 / 28) - (1 - 1 / 70) / 2)
    difference = made.held_out.difference
    assert difference.low < difference.value < difference.high
    assert made.held_out.agreement == 1
    assert made.upper_bound >= made.chosen_pass
    assert (made.method, made.members_max, made.budget) == ("exact", 3, 4)


def test_a_plan_says_where_it_comes_from(tmp_path: Path) -> None:
    made = plan(tmp_path)
    assert made.members[0].checkpoint.path == "merged/0.0"
    assert made.members[0].checkpoint.digest == "d" * 64
    assert made.problem_set == "set"
    for given in made.inputs:
        assert given.sha256 == hashlib.sha256(Path(given.path).read_bytes()).hexdigest()


def test_a_written_plan_is_read_back_as_it_was(tmp_path: Path) -> None:
    made = plan(tmp_path)
    path = tmp_path / "plan.json"
    path.write_text(plan_json(made))
    assert read_plan(path) == made


def test_the_same_seed_makes_the_same_plan(tmp_path: Path) -> None:
    assert plan_json(plan(tmp_path)) == plan_json(plan(tmp_path))


@pytest.mark.parametrize("setting", list(Setting))
def test_every_setting_can_be_planned(tmp_path: Path, setting: Setting) -> None:
    files = [
        read_verdicts_file(
            write_verdicts(
                tmp_path / name,
                {f"p{index}": "AWAW" for index in range(4)},
                header(name, setting=setting),
            )
        )
        for name in ("one", "two")
    ]
    made = plan_ensemble(join_files(files), 2, None, halvings=1, bootstrap=BOOTSTRAP)
    assert made.setting is setting
    assert made.method == "greedy"


def test_no_difference_is_told(tmp_path: Path) -> None:
    same = {f"p{index}": "AWWW" for index in range(8)}
    table = study_table(tmp_path, {0.0: same, 1.0: same})
    made = plan_ensemble(table, 2, 2, halvings=1, bootstrap=BOOTSTRAP)
    assert any("includes zero" in warning for warning in made.warnings)
    assert any("Intervals from 8 problems are rough" in warning for warning in made.warnings)


def test_too_few_samples_are_told(tmp_path: Path) -> None:
    table = study_table(
        tmp_path,
        {
            0.0: {"p": "AAWW", "q": "WWWW", "r": "WWWJ"},
            1.0: {"p": "WW", "q": "AA", "r": "AA"},
        },
    )
    made = plan_ensemble(table, 4, 2, halvings=1, bootstrap=BOOTSTRAP)
    text = "\n".join(made.warnings)
    assert "1.0 has only 2 scored samples per problem, fewer than the budget" in text
    assert "0.0 needs 4 samples, and has fewer (down to 3) of 1 problems" in text
    assert all(member.samples <= 2 for member in made.members if member.checkpoint.alpha == 1)


def test_a_budget_beyond_all_samples_is_refused_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="take --budget 8 or less, or sample more"):
        plan_ensemble(specialists(tmp_path), 9, 2, halvings=1, bootstrap=BOOTSTRAP)


def test_one_checkpoint_is_no_ensemble(tmp_path: Path) -> None:
    table = study_table(tmp_path, {0.0: {"p": "A", "q": "W"}})
    with pytest.raises(StudyError, match="at least two checkpoints"):
        plan_ensemble(table, 1, 2, halvings=1, bootstrap=BOOTSTRAP)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": 5}, "samples sum to 4, the budget is 5"),
        ({"members": []}, "at least 1 item"),
        ({"kind": "cupel.verdicts"}, "cupel.plan"),
        ({"later": 1}, "Extra inputs are not permitted"),
    ],
)
def test_a_plan_that_does_not_add_up_is_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    document = plan(tmp_path).model_dump(mode="json") | change
    with pytest.raises(ValidationError, match=message):
        Plan.model_validate(document)


def test_a_member_may_not_be_named_twice(tmp_path: Path) -> None:
    document = plan(tmp_path).model_dump(mode="json")
    document["members"] = [document["members"][0]] * 2
    with pytest.raises(ValidationError, match=r"'0\.0' is a member 2 times"):
        Plan.model_validate(document)


def test_a_file_that_is_no_plan_is_told(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    with pytest.raises(RecordsError, match="cannot be read"):
        read_plan(path)
    path.write_text("{}")
    with pytest.raises(RecordsError, match="is not a plan of this version"):
        read_plan(path)
