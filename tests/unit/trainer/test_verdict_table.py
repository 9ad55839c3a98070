from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from study_files import LETTERS, header, judged, write_verdicts

from cupel.schema import FailureClass, Verdict
from cupel_trainer.errors import RecordsError, StudyError
from cupel_trainer.evaluate.counting import Count, count_as
from cupel_trainer.evaluate.records import Sampling, Setting
from cupel_trainer.evaluate.verdict_table import VerdictTable, join_files, read_verdicts_file


def table_of(*paths: Path) -> VerdictTable:
    return join_files([read_verdicts_file(path) for path in paths])


@pytest.mark.parametrize(
    ("letter", "count"),
    [
        ("A", Count.ACCEPTED),
        ("W", Count.CORRECTNESS),
        ("C", Count.CORRECTNESS),
        ("T", Count.OPTIMIZATION),
        ("M", Count.OPTIMIZATION),
        ("F", Count.OPTIMIZATION),
        ("E", Count.ENDLESS),
        ("I", Count.ENDLESS),
        ("U", Count.UNPROBED),
        ("P", Count.UNCLASSIFIED),
        ("J", Count.JUDGING_ERROR),
    ],
)
def test_each_judgement_is_counted_as_what_it_proves(letter: str, count: Count) -> None:
    assert count_as(judged(letter)) is count


def test_a_wrong_answer_beside_a_time_out_is_a_correctness_failure() -> None:
    # The verdict is that of the first failing test, the class that of the worst.
    mixed = judged("E").model_copy(update={"failure_class": FailureClass.CORRECTNESS})
    assert count_as(mixed) is Count.CORRECTNESS


def test_a_memory_failure_before_an_unprobed_time_out_is_no_loop() -> None:
    first = judged("U").model_copy(update={"verdict": Verdict.MLE})
    assert count_as(first) is Count.OPTIMIZATION


def test_acceptance_without_a_complete_judgement_is_refused(tmp_path: Path) -> None:
    path = write_verdicts(tmp_path / "a.jsonl", {"p": "A"}, header("a"))
    unproven = judged("A", sample=1).model_copy(update={"complete": False})
    with path.open("a") as file:
        file.write(unproven.model_dump_json() + "\n")
    with pytest.raises(RecordsError, match="line 3 is not a verdict: AC, but not every test"):
        read_verdicts_file(path)


def test_a_file_is_counted_per_problem(tmp_path: Path) -> None:
    path = write_verdicts(
        tmp_path / "a.jsonl",
        {"one": "AAWTEJ", "two": "PUAMIJ"},
        header("a", 0.5),
        difficulties={"one": "easy"},
        dates={"two": "2024-05-01"},
    )
    file = read_verdicts_file(path)
    assert file.problems == ("one", "two")
    assert file.counts.tolist() == [[2, 1, 1, 1, 0, 0, 1], [1, 0, 1, 1, 1, 1, 1]]
    assert file.tokens.tolist() == [500, 500]  # of the five scored samples
    assert file.difficulties == ("easy", "")
    assert file.dates == ("", "2024-05-01")
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not file.torn


def test_the_last_line_of_a_sample_counts(tmp_path: Path) -> None:
    path = write_verdicts(tmp_path / "a.jsonl", {"p": "JW"}, header("a"))
    with path.open("a") as file:
        file.write(judged("A", sample=0).model_dump_json() + "\n")
    table = table_of(path)
    assert table.accepted.tolist() == [[1]]
    assert table.samples.tolist() == [[2]]


@given(st.integers(1, 400))
def test_a_torn_last_line_is_dropped_wherever_it_tore(
    tmp_path_factory: pytest.TempPathFactory, length: int
) -> None:
    path = write_verdicts(tmp_path_factory.mktemp("torn") / "a.jsonl", {"p": "AA"}, header("a"))
    whole = judged("A", sample=2).model_dump_json().encode()
    with path.open("ab") as file:
        file.write(whole[:length])
    read = read_verdicts_file(path)
    assert read.torn
    assert read.counts[0, Count.ACCEPTED] == 2


def test_a_torn_line_is_told(tmp_path: Path) -> None:
    path = write_verdicts(tmp_path / "a.jsonl", {"p": "AA"}, header("a"))
    with path.open("a") as file:
        file.write('{"problem": "p", "sam')
    assert "the last line was torn" in table_of(path).warnings[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "does not begin with the header"),
        ("{}\n", "checkpoint: Field required"),
        ('{"kind": "cupel.samples"}\n', "does not begin with the header"),
        ("not json\n", "does not begin with the header"),
        (header("a").model_dump_json() + "\n", "holds no verdict yet"),
        (header("a").model_dump_json() + '\n{"problem": "p"}\n', "line 2 is not a verdict"),
        (header("a").model_dump_json() + "\n\n", "line 2 is not a verdict"),
        (
            f"{header('a').model_dump_json()}\n{judged('A').model_dump_json()}\ngarbage\n",
            "line 3 is not a verdict",
        ),
    ],
)
def test_a_malformed_file_is_refused_with_its_line(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(RecordsError, match=message):
        read_verdicts_file(path)


def test_unknown_fields_are_refused(tmp_path: Path) -> None:
    path = write_verdicts(tmp_path / "a.jsonl", {"p": "A"}, header("a"))
    line = judged("A", sample=1).model_dump_json()
    with path.open("a") as file:
        file.write(line.replace("{", '{"later": 1, ', 1) + "\n")
    with pytest.raises(RecordsError, match="line 3 is not a verdict: later"):
        read_verdicts_file(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="cannot be read: No such file"):
        read_verdicts_file(tmp_path / "a.jsonl")


@given(st.text(alphabet="".join(LETTERS), min_size=1, max_size=30))
def test_every_sample_is_counted_once(
    tmp_path_factory: pytest.TempPathFactory, letters: str
) -> None:
    path = tmp_path_factory.mktemp("counted") / "a.jsonl"
    read = read_verdicts_file(write_verdicts(path, {"p": letters}, header("a")))
    assert read.counts.sum() == len(letters)
    assert read.counts[0, Count.JUDGING_ERROR] == letters.count("J")
    assert read.counts[0, Count.ACCEPTED] == letters.count("A")


def test_checkpoints_stand_by_alpha_then_by_name(tmp_path: Path) -> None:
    places = [("z", None), ("high", 1.0), ("low", 0.0), ("out", -0.5), ("a", None)]
    paths = [
        write_verdicts(tmp_path / f"{name}.jsonl", {"p": "A"}, header(name, alpha))
        for name, alpha in places
    ]
    assert table_of(*paths).names == ("out", "low", "high", "a", "z")


def test_problems_are_matched_by_name(tmp_path: Path) -> None:
    one = write_verdicts(tmp_path / "1", {"p": "AA", "q": "WW"}, header("one", 0.0))
    two = write_verdicts(tmp_path / "2", {"q": "WA", "p": "AW"}, header("two", 1.0))
    table = table_of(one, two)
    assert table.problems == ("p", "q")
    assert table.accepted.tolist() == [[2, 0], [1, 1]]


def test_problems_that_a_checkpoint_lacks_are_left_out_and_told(tmp_path: Path) -> None:
    one = write_verdicts(tmp_path / "1", {"p": "AA", "q": "WW", "r": "A"}, header("one"))
    two = write_verdicts(tmp_path / "2", {"p": "AW", "r": "J"}, header("two"))
    table = table_of(one, two)
    assert table.problems == ("p",)
    assert table.warnings == (
        "2 of 3 problems are left out, because not every checkpoint has a scored sample of them "
        "(two lacks 2)",
    )


def test_no_common_problem_is_an_error(tmp_path: Path) -> None:
    one = write_verdicts(tmp_path / "1", {"p": "A"}, header("one"))
    two = write_verdicts(tmp_path / "2", {"q": "A"}, header("two"))
    with pytest.raises(StudyError, match="no problem has a scored sample of every checkpoint"):
        table_of(one, two)
    with pytest.raises(StudyError, match="at least one file"):
        join_files([])


def test_files_of_two_studies_are_refused_and_the_difference_is_named(tmp_path: Path) -> None:
    one = write_verdicts(tmp_path / "1", {"p": "A"}, header("one"))
    other_set = write_verdicts(tmp_path / "2", {"p": "A"}, header("two", problem_set="other"))
    tools = write_verdicts(tmp_path / "3", {"p": "A"}, header("three", setting=Setting.TOOLS))
    again = write_verdicts(tmp_path / "4", {"p": "A"}, header("one"))
    hard = write_verdicts(tmp_path / "5", {"p": "A"}, header("five"), difficulties={"p": "hard"})
    with pytest.raises(StudyError, match="2 is of another study .* problem set is other, not set"):
        table_of(one, other_set)
    with pytest.raises(StudyError, match="setting is tools, not reasoning"):
        table_of(one, tools)
    with pytest.raises(StudyError, match="both of checkpoint 'one'"):
        table_of(one, again)
    with pytest.raises(StudyError, match="says of problem 'p' that it is hard"):
        table_of(one, hard)


@pytest.mark.parametrize("setting", list(Setting))
def test_every_setting_makes_a_study(tmp_path: Path, setting: Setting) -> None:
    paths = [
        write_verdicts(tmp_path / name, {"p": "AW"}, header(name, setting=setting))
        for name in ("one", "two")
    ]
    assert table_of(*paths).headers[0].setting is setting


def test_checkpoints_that_were_sampled_otherwise_are_told(tmp_path: Path) -> None:
    warm = header("warm").model_copy(update={"sampling": Sampling(temperature=1.0, seed=1)})
    cool = header("cool").model_copy(update={"sampling": Sampling(temperature=0.2, seed=1)})
    reseeded = header("seed").model_copy(update={"sampling": Sampling(temperature=1.0, seed=2)})
    paths = {
        head.checkpoint.name: write_verdicts(tmp_path / head.checkpoint.name, {"p": "A"}, head)
        for head in (warm, cool, reseeded)
    }
    assert not table_of(paths["warm"], paths["seed"]).warnings
    assert "not sampled alike" in table_of(paths["warm"], paths["cool"]).warnings[0]


def test_a_selection_keeps_problems_and_their_facts_together(tmp_path: Path) -> None:
    path = write_verdicts(
        tmp_path / "1",
        {"p": "AW", "q": "TT", "r": "WWW"},
        header("one"),
        difficulties={"p": "easy", "q": "hard", "r": "hard"},
    )
    table = table_of(path)
    kept = table.select(table.samples[0] == 2)
    assert kept.problems == ("p", "q")
    assert kept.difficulties == ("easy", "hard")
    assert kept.samples.tolist() == [[2, 2]]
    assert table.draws_max.tolist() == [2]
