from __future__ import annotations

import json
import sys
from datetime import date
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cupel.schema import Language, Problem
from cupel_trainer.errors import ProblemSetError
from cupel_trainer.evaluate.problem_set import (
    ProblemEntry,
    Selection,
    load_tests,
    problem_digest,
    read_problem_set,
    select,
    set_digest,
)

sys.path.append(str(Path(__file__).resolve().parents[1] / "client"))
from fake_cupel import running_fake

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
PROBLEM = {"statement": "Add.", "tests": [{"name": "a", "input": "1 2", "output": "3"}]}
ROWS = [
    {"id": "inline", "problem": PROBLEM, "difficulty": "easy", "date": "2024-03-31"},
    {"id": "known", "statement": "Count.", "difficulty": "hard", "date": "2024-04-01"},
    {
        "id": "elsewhere",
        "statement": "Sort.",
        "problem": "sort-2",
        "language": "cpp",
        "starter_code": "int main() {",
        "difficulty": "hard",
        "date": "2025-01-31",
        "tags": ["sorting"],
    },
]


def write(path: Path, rows: object) -> str:
    assert isinstance(rows, list)
    path.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    return str(path)


@pytest.fixture
def entries(tmp_path: Path) -> tuple[ProblemEntry, ...]:
    return read_problem_set(write(tmp_path / "set.jsonl", ROWS))


def ids(entries: tuple[ProblemEntry, ...]) -> list[str]:
    return [entry.id for entry in entries]


def test_a_file_of_problems_is_read(entries: tuple[ProblemEntry, ...]) -> None:
    assert ids(entries) == ["inline", "known", "elsewhere"]
    inline, known, elsewhere = entries
    assert inline.statement == "Add."
    assert load_tests(inline) == Problem.model_validate(PROBLEM)
    assert load_tests(known) == "known"
    assert load_tests(elsewhere) == "sort-2"
    assert elsewhere.language is Language.CPP
    assert elsewhere.tags == ("sorting",)


def test_a_folder_of_problems_is_read() -> None:
    entries = read_problem_set(str(EXAMPLES))
    assert "two-sum" in ids(entries)
    assert "hostile" not in ids(entries)
    two_sum = next(entry for entry in entries if entry.id == "two-sum")
    assert two_sum.statement
    loaded = load_tests(two_sum)
    assert isinstance(loaded, Problem)
    assert problem_digest(loaded) == two_sum.digest


def test_a_row_may_name_a_folder(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(EXAMPLES)
    rows = [{"id": "pairs", "folder": "examples/two-sum", "difficulty": "easy"}]
    (entry,) = read_problem_set(write(tmp_path / "set.jsonl", rows))
    assert (entry.id, entry.difficulty) == ("pairs", "easy")
    assert entry.statement
    assert isinstance(load_tests(entry), Problem)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "Invalid JSON"),
        ('"text"', "Input should be"),
        ('{"statement": "?"}', "id: Field required"),
        ('{"id": "a b"}', "id: "),
        ('{"id": "x", "dificulty": "easy"}', "dificulty: unknown field"),
        ('{"id": "x", "date": "31.12.2024"}', "date: not a date of the form YYYY-MM-DD"),
        ('{"id": "x", "date": "2024-02-30"}', "date: day"),
        ('{"id": "x", "date": "2024-W52-1"}', "date: not a date"),
        ('{"id": "x", "problem": "y", "folder": "z"}', "`problem` or `folder`"),
        ('{"id": "x", "folder": "absent"}', "absent: no such folder"),
        ('{"id": "x", "problem": {"tests": []}}', "problem."),
        ('{"id": "first"}', "the id 'first' is that of line 1, too"),
    ],
)
def test_a_faulty_row_is_refused_with_line_and_reason(
    tmp_path: Path, line: str, reason: str
) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text('{"id": "first"}\n\n' + line + "\n")
    with pytest.raises(ProblemSetError) as caught:
        read_problem_set(str(path))
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert reason in str(caught.value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
def test_any_file_is_a_set_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "junk.jsonl"
    path.write_bytes(content)
    with pytest.raises(ProblemSetError):
        read_problem_set(str(path))


def test_an_empty_or_absent_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProblemSetError, match="holds no problem"):
        read_problem_set(str(tmp_path))
    with pytest.raises(ProblemSetError, match="no such file or folder"):
        read_problem_set(str(tmp_path / "absent"))


def test_the_digest_is_of_what_is_sampled_from(tmp_path: Path) -> None:
    digest = set_digest(read_problem_set(write(tmp_path / "a", ROWS)))
    other_tests = {**PROBLEM, "tests": [{"name": "b", "output": ""}]}
    same = [{**ROWS[0], "problem": other_tests}, *ROWS[1:]]
    assert set_digest(read_problem_set(write(tmp_path / "b", same))) == digest
    assert set_digest(read_problem_set(write(tmp_path / "c", ROWS[::-1]))) == digest
    for change in ({"statement": "Sort!"}, {"language": "c"}, {"starter_code": ""}, {"id": "e"}):
        rows = [*ROWS[:2], {**ROWS[2], **change}]
        assert set_digest(read_problem_set(write(tmp_path / "d", rows))) != digest


def test_tests_that_changed_meanwhile_are_not_judged_by(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    entry = read_problem_set(write(path, ROWS))[0]
    changed = {**PROBLEM, "tests": [{"name": "b", "output": ""}]}
    write(path, [{**ROWS[0], "problem": changed}])
    with pytest.raises(ProblemSetError, match="was changed while it was in use"):
        load_tests(entry)
    path.write_text("")
    with pytest.raises(ProblemSetError, match="was changed while it was in use"):
        load_tests(entry)


def test_dates_select_with_both_ends(entries: tuple[ProblemEntry, ...]) -> None:
    first = date(2024, 4, 1)
    assert ids(select(entries, Selection(since=first))) == ["known", "elsewhere"]
    assert ids(select(entries, Selection(until=first))) == ["inline", "known"]
    assert ids(select(entries, Selection(since=first, until=first))) == ["known"]


def test_difficulties_and_limits_select(entries: tuple[ProblemEntry, ...]) -> None:
    assert ids(select(entries, Selection(difficulties=("hard",)))) == ["known", "elsewhere"]
    assert len(select(entries, Selection(difficulties=("hard", "easy")))) == 3
    assert ids(select(entries, Selection(difficulties=("hard",), limit=1))) == ["known"]


def test_releases_select_by_date_unless_the_slice_is_given(tmp_path: Path) -> None:
    rows = [*ROWS, {**ROWS[1], "id": "late", "release": "v1"}]
    entries = read_problem_set(write(tmp_path / "set.jsonl", rows))
    assert ids(select(entries, Selection(release="release_v1"))) == ["inline", "late"]
    assert ids(select(entries, Selection(release="v2_v4"))) == ["known"]
    assert ids(select(entries, Selection(release="v5"))) == ["elsewhere"]
    assert len(select(entries, Selection(release="release_latest"))) == 4


@pytest.mark.parametrize(
    ("selection", "reason"),
    [
        (Selection(since=date(2024, 1, 1)), "has no date"),
        (Selection(difficulties=("easy",)), "has no difficulty"),
        (Selection(release="v5"), "has neither date nor release"),
    ],
)
def test_a_filter_that_cannot_tell_says_so(selection: Selection, reason: str) -> None:
    with pytest.raises(ProblemSetError, match=reason):
        select(read_problem_set(str(EXAMPLES)), selection)


def test_filters_that_leave_nothing_say_so(entries: tuple[ProblemEntry, ...]) -> None:
    with pytest.raises(ProblemSetError, match="no problem of the set is left"):
        select(entries, Selection(difficulties=("unheard of",)))


def test_registered_problems_are_a_set() -> None:
    with running_fake() as fake:
        with pytest.raises(ProblemSetError, match="no problem is registered"):
            read_problem_set("service", fake.url)
        for name in ("b", "a", "c"):
            fake.problems[name] = Problem.model_validate({**PROBLEM, "statement": f"Do {name}."})
        every = read_problem_set("service", fake.url)
        assert [(entry.id, entry.statement) for entry in every] == [
            ("a", "Do a."),
            ("b", "Do b."),
            ("c", "Do c."),
        ]
        some = read_problem_set("service:c,a", fake.url)
        assert ids(some) == ["c", "a"]
        assert load_tests(some[0]) == "c"
        with pytest.raises(ProblemSetError, match="no problem 'd' is registered"):
            read_problem_set("service:a,d", fake.url)
        with pytest.raises(ProblemSetError, match="named twice"):
            read_problem_set("service:a,a", fake.url)
