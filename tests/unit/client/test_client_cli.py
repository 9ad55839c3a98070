from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import typer
from fake_cupel import FakeCupel, Refuse
from typer.testing import CliRunner, Result

from cupel import schema
from cupel.cli import build_app
from cupel.cli.plugins import add_plugin


def run(*arguments: object) -> Result:
    words = [str(argument) for argument in arguments]
    return CliRunner().invoke(build_app(words), words)


@pytest.fixture
def solution(tmp_path: Path) -> Path:
    path = tmp_path / "solution.cpp"
    path.write_text("// right\n")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "sum"
    (path / "tests").mkdir(parents=True)
    (path / "problem.toml").write_text('title = "Sum [of] two"\n')
    (path / "statement.md").write_text("Add two numbers.\n")
    (path / "tests" / "a.in").write_text("1 2\n")
    (path / "tests" / "a.ans").write_text("3\n")
    return path


def test_judge_shows_tests_and_verdict(fake: FakeCupel, folder: Path, solution: Path) -> None:
    result = run("judge", solution, "--problem", folder, "--url", fake.url)
    assert result.exit_code == 0
    assert "1/a" in result.stdout
    assert "0.500 s" in result.stdout
    assert "3.0 MiB" in result.stdout
    assert f"{solution}: AC; 1 of 1 tests passed; at most 0.500 s, 3.0 MiB" in result.stdout
    (submission,) = json.loads(fake.received[0].body)["submissions"]
    assert submission["language"] == "cpp"
    assert submission["problem"]["tests"][0]["name"] == "a"


@pytest.mark.parametrize(("program", "code"), [("right", 0), ("wrong", 1), ("je", 2)])
def test_the_exit_code_tells_the_verdict(
    fake: FakeCupel, tmp_path: Path, program: str, code: int
) -> None:
    file = tmp_path / "main.py"
    file.write_text(program)
    result = run("judge", file, "--problem", "sum", "--url", fake.url, "--json")
    assert result.exit_code == code
    judgement = schema.Judgement.model_validate_json(result.stdout)
    assert judgement.id == str(file)
    assert judgement.problem == "sum"


def test_the_worst_of_many_files_decides(fake: FakeCupel, tmp_path: Path) -> None:
    files = [tmp_path / "a.c", tmp_path / "b.py"]
    files[0].write_text("right")
    files[1].write_text("wrong")
    result = run("judge", *files, "--problem", "sum", "--url", fake.url, "--json")
    assert result.exit_code == 1
    verdicts = [json.loads(line)["verdict"] for line in result.stdout.split("\n")[:2]]
    assert verdicts == ["AC", "WA"]


def test_judging_options_reach_the_service(fake: FakeCupel, tmp_path: Path) -> None:
    file = tmp_path / "program.txt"
    file.write_text("right")
    options = ["--language", "python", "--stop", "never", "--coverage", "2"]
    assert run("judge", file, "--problem", "sum", "--url", fake.url, *options).exit_code == 0
    (submission,) = json.loads(fake.received[0].body)["submissions"]
    got = (submission["language"], submission["stop"], submission["coverage"])
    assert got == ("python", "never", 2)


def test_problems_are_added_listed_shown_and_removed(fake: FakeCupel, folder: Path) -> None:
    url = ["--url", fake.url]
    assert run("problems", "add", folder, *url).stdout == "sum: 1 tests, 0123456789ab\n"
    assert "Sum [of] two" in run("problems", "list", *url).stdout
    assert "Add two numbers." in run("problems", "show", "sum", *url).stdout
    assert run("problems", "remove", "sum", *url).stdout == "sum: removed\n"
    result = run("problems", "show", "sum", *url)
    assert (result.exit_code, result.stderr) == (2, "cupel: no problem 'sum'\n")


def test_nothing_is_added_if_one_folder_is_faulty(
    fake: FakeCupel, folder: Path, tmp_path: Path
) -> None:
    result = run("problems", "add", folder, tmp_path / "other", "--url", fake.url)
    assert result.exit_code == 2
    assert "other: no such folder" in result.stderr
    assert not fake.received


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["solution.cpp", "--problem", "sum"], "--url http://HOST:PORT, or set CUPEL_URL"),
        (["solution.cpp", "--problem", "./sum"], "sum: no such folder"),
        (["solution.cpp", "--problem", "a b", "--url", "http://h"], "problem"),
        (["missing.cpp", "--problem", "sum", "--url", "http://h"], "No such file or directory"),
        (["solution.txt", "--problem", "sum", "--url", "http://h"], "say it with --language"),
        (["binary.c", "--problem", "sum", "--url", "http://h"], "not UTF-8 text"),
        (["solution.cpp", "--problem", "sum", "--url", "h:1"], "must begin with http://"),
    ],
)
def test_wrong_usage_gives_one_line_with_the_remedy(
    solution: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(solution.parent)
    Path("solution.txt").write_text("x")
    Path("binary.c").write_bytes(b"\xff")
    result = run("judge", *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert says in result.stderr
    assert result.stderr.startswith("cupel: ")
    assert result.stderr.count("\n") == 1


def test_an_error_of_the_service_gives_one_line(fake: FakeCupel, solution: Path) -> None:
    fake.faults.append(Refuse(422, "not valid", errors=("submissions.0: python is missing",)))
    result = run("judge", solution, "--problem", "sum", "--url", fake.url)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "cupel: not valid; submissions.0: python is missing\n"


def app_with(entry: EntryPoint) -> typer.Typer:
    app = typer.Typer()
    app.command("other")(lambda: None)  # a second one, so that names are needed
    add_plugin(app, entry)
    return app


def test_a_command_of_another_package_gets_its_options() -> None:
    entry = EntryPoint("double", "plugin_for_tests:double", "cupel.commands")
    result = CliRunner().invoke(app_with(entry), ["double", "--number", "4"])
    assert (result.exit_code, result.stdout) == (0, "8\n")


def test_a_command_without_its_extra_says_how_to_install_it() -> None:
    entry = EntryPoint("serve", "cupel_absent.serve:serve", "cupel.commands")
    result = CliRunner().invoke(app_with(entry), ["serve", "--port", "0", "x"])
    assert result.exit_code == 2
    assert "pip install 'cupel[absent]'" in result.stderr
