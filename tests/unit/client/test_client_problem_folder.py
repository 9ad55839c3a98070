from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cupel
from cupel import load_problem, problem_id
from cupel.schema import Base64Data, decode_data

SETTINGS = """
title = "Sum"
tier_fractions = [0.5, 1]
[limits]
cpu_s = 1
memory_bytes = 67_108_864
[checker]
type = "floats"
absolute_tolerance = 1e-9
"""


def write(folder: Path, files: Mapping[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def test_a_folder_holds_all_of_a_problem(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "sum",
        {
            "problem.toml": SETTINGS,
            "statement.md": "Add them: é\n",
            "tests/b.in": "1 2\n",
            "tests/b.ans": "3\n",
            "tests/a.in": b"\xff\n",
            "tests/a.ans": "",
            "solutions/right.py": "not looked at",
        },
    )
    problem = load_problem(folder)
    assert problem_id(folder) == "sum"
    assert (problem.title, problem.statement) == ("Sum", "Add them: é\n")
    assert problem.limits == cupel.Limits(cpu_s=1.0, memory_bytes=67_108_864)
    assert problem.checker == cupel.FloatsChecker(absolute_tolerance=1e-9)
    assert problem.tier_fractions == (0.5, 1.0)
    assert problem.tests == (
        cupel.Testcase(name="a", input=Base64Data(base64="/wo="), output=""),
        cupel.Testcase(name="b", input="1 2\n", output="3\n"),
    )


def test_public_tests_are_named_in_the_settings(tmp_path: Path) -> None:
    files = {f"tests/{tier}/a.{ending}": "1\n" for tier in (1, 2) for ending in ("in", "ans")}
    folder = write(tmp_path / "shown", {"problem.toml": 'public = ["1/a"]\n', **files})
    assert [test.public for test in load_problem(folder).tests] == [True, False]
    write(folder, {"problem.toml": 'public = ["1/b"]\n'})
    with pytest.raises(cupel.ProblemFolderError, match="no test is called '1/b'"):
        load_problem(folder)


def test_folders_of_tests_are_tiers_and_numbers_are_sorted_as_numbers(tmp_path: Path) -> None:
    names = ["2/a", "1/10", "1/9", "1/b"]
    files: dict[str, bytes | str] = {"problem.toml": ""}
    for name in names:
        files |= {f"tests/{name}.in": name, f"tests/{name}.ans": name}
    files["tests/.DS_Store"] = b"\0"
    problem = load_problem(write(tmp_path / "p", files))
    found = [(test.tier, test.name) for test in problem.tests]
    assert found == [(1, "1/9"), (1, "1/10"), (1, "1/b"), (2, "2/a")]


NAMES = st.text("abcXYZ019-_ é", min_size=1, max_size=8).filter(lambda name: name.strip())
DATA = st.binary(max_size=20) | st.text(st.characters(codec="utf-8"), max_size=20).map(str.encode)
TIERS = st.lists(st.dictionaries(NAMES, st.tuples(DATA, DATA), min_size=1), min_size=1, max_size=4)


@settings(max_examples=50)
@given(TIERS)
def test_what_is_written_is_loaded_byte_for_byte(
    tiers: list[dict[str, tuple[bytes, bytes]]],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        files: dict[str, bytes | str] = {"problem.toml": ""}
        wanted = {}
        for tier, tests in enumerate(tiers, start=1):
            for test, (given_input, answer) in tests.items():
                files |= {f"tests/{tier}/{test}.in": given_input}
                files |= {f"tests/{tier}/{test}.ans": answer}
                wanted[f"{tier}/{test}"] = (tier, given_input, answer)
        problem = load_problem(write(Path(name), files))
    got = {
        test.name: (test.tier, decode_data(test.input), decode_data(test.output))
        for test in problem.tests
    }
    assert got == wanted


GOOD: dict[str, bytes | str] = {"problem.toml": "", "tests/a.in": "1", "tests/a.ans": "1"}


@pytest.mark.parametrize(
    ("changes", "at", "says"),
    [
        ({"problem.toml": None}, "problem.toml", "missing"),
        ({"problem.toml": "title = "}, "problem.toml", "not valid TOML"),
        ({"problem.toml": b"\xff"}, "problem.toml", "not UTF-8"),
        ({"problem.toml": "titel = 'x'"}, "problem.toml", "titel: unknown key"),
        ({"problem.toml": "[limits]\ncpu_ms = 1"}, "problem.toml", "limits.cpu_ms: unknown key"),
        ({"problem.toml": "[limits]\ncpu_s = -1"}, "problem.toml", "limits.cpu_s: .* greater than"),
        ({"problem.toml": "[checker]\ntype = 'x'"}, "problem.toml", "checker: .*'tokens'"),
        ({"problem.toml": "tier_fractions = [0.5]"}, "", "tier_fractions"),
        ({"statement.md": b"\xff"}, "statement.md", "not UTF-8"),
        ({"tests/a.ans": None}, "tests/a.ans", "missing: a.in needs it"),
        ({"tests/a.in": None}, "tests/a.in", "missing: a.ans needs it"),
        ({"tests/b.out": "1"}, "tests/b.out", "neither NAME.in nor NAME.ans"),
        ({"tests/a.ans": None, "tests/a.in": None}, "tests", "no tests"),
        ({"tests/1/a.in": "", "tests/1/a.ans": ""}, "tests/a.ans", "a file beside tiers"),
    ],
)
def test_each_fault_names_its_file_and_what_is_wrong(
    tmp_path: Path, changes: dict[str, bytes | str | None], at: str, says: str
) -> None:
    files = {name: content for name, content in (GOOD | changes).items() if content is not None}
    (tmp_path / "tests").mkdir()
    write(tmp_path, files)
    with pytest.raises(cupel.ProblemFolderError, match=says) as raised:
        load_problem(tmp_path)
    assert raised.value.path == tmp_path / at


@pytest.mark.parametrize("tier", ["0", "01", "small", "1000"])
def test_folders_in_tests_are_tiers_only(tmp_path: Path, tier: str) -> None:
    write(tmp_path, {"problem.toml": "", f"tests/{tier}/a.in": "", f"tests/{tier}/a.ans": ""})
    with pytest.raises(cupel.ProblemFolderError, match="not a tier"):
        load_problem(tmp_path)


def test_tiers_have_no_gaps(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"problem.toml": "", "tests/1/a.in": "", "tests/1/a.ans": ""}
        | {"tests/3/a.in": "", "tests/3/a.ans": ""},
    )
    with pytest.raises(cupel.ProblemFolderError, match="without gaps"):
        load_problem(tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(cupel.ProblemFolderError, match="nowhere: no such folder"):
        load_problem(tmp_path / "nowhere")


def test_the_folders_name_must_be_an_id(tmp_path: Path) -> None:
    with pytest.raises(cupel.ProblemFolderError, match="rename it"):
        problem_id(tmp_path / "two sum")
