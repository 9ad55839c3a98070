from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest
from study_files import header, write_verdicts
from typer.testing import CliRunner, Result

from cupel.cli import build_app
from cupel_trainer.evaluate.plan import read_plan
from cupel_trainer.evaluate.records import Setting

NASTY = '<script>alert("x")</script> | $a_b$'


def run(*arguments: object) -> Result:
    words = [str(argument) for argument in arguments]
    return CliRunner().invoke(build_app(words), words)


def write_study(folder: Path, *, difficulties: bool = True) -> list[Path]:
    """Five checkpoints along alpha and one without, eight problems of two difficulties."""
    folder.mkdir()
    letters = ("TTTA", "TTWA", "TWAA", "WWEA", "WWWA", "AAAA")
    places = [(NASTY, None), *((f"alpha{a}", a) for a in (-0.5, 0.0, 0.5, 1.0, 1.5))]
    levels = {f"p{index}": ("easy", "hard & long")[index % 2] for index in range(8)}
    return [
        write_verdicts(
            folder / f"{row}.jsonl",
            {f"p{index}": letters[(row + index) % 6] for index in range(8)},
            header(name, alpha),
            difficulties=levels if difficulties else None,
            dates={f"p{index}": f"2024-0{index + 1}-01" for index in range(8)},
        )
        for row, (name, alpha) in enumerate(places)
    ]


@pytest.fixture
def study(tmp_path: Path) -> list[Path]:
    return write_study(tmp_path / "verdicts")


@pytest.fixture
def plain(tmp_path: Path) -> list[Path]:
    """The same without difficulties: fewer pictures."""
    return write_study(tmp_path / "verdicts", difficulties=False)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report that tests only read."""
    folder = tmp_path_factory.mktemp("study")
    out = folder / "report"
    result = run("frontier", *write_study(folder / "verdicts"), "--out", out, "--resamples", 200)
    assert result.exit_code == 0, result.output
    assert f"wrote {out / 'frontier.html'}" in result.output
    return out


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class Page(HTMLParser):
    """Checks that tags nest, and collects what refers elsewhere, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_every_file_of_a_report_is_there_and_whole(report: Path) -> None:
    out = report
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    pictures = {"map"} | {
        f"{kind}-{split}"
        for kind in ("plane", "rates", "passes", "complementarity")
        for split in ("all", "easy", "hard-long")
    }
    assert names == {
        "frontier.html",
        "frontier.md",
        *(f"tables/{name}.csv" for name in
          ("rates", "pass_at_k", "changes", "complementarity", "problems")),
        *(f"pictures/{name}.{kind}" for name in pictures for kind in ("png", "svg")),
    }  # fmt: skip
    for path in out.rglob("*.svg"):
        ElementTree.fromstring(path.read_bytes())  # noqa: S314  (our own picture)
    for path in out.rglob("*.png"):
        assert path.read_bytes().endswith(b"IEND\xaeB\x60\x82")


def test_tables_hold_the_numbers(report: Path) -> None:
    out = report
    rates = rows(out / "tables" / "rates.csv")
    assert len(rates) == 3 * 6 * 2  # splits, checkpoints, both ways to count endless loops
    for row in rates:
        parts = ("solve", "optimization", "correctness", "unclassified")
        assert sum(float(row[part]) for part in parts) == pytest.approx(1)
        assert float(row["solve_low"]) <= float(row["solve"]) + 1e-9
    both = [row for row in rates if row["split"] == "all" and row["checkpoint"] == "alpha0.5"]
    assert [row["endless_as"] for row in both] == ["optimization", "correctness"]
    assert float(both[0]["optimization"]) > float(both[1]["optimization"])
    problems = rows(out / "tables" / "problems.csv")
    first = next(row for row in problems if row["problem"] == "p0" and row["checkpoint"] == NASTY)
    assert (first["accepted_samples"], first["optimization_samples"]) == ("1", "3")
    assert first["alpha"] == ""
    passes = rows(out / "tables" / "pass_at_k.csv")
    assert {row["k"] for row in passes} == {"1", "2", "4"}
    kinds = {row["kind"] for row in rows(out / "tables" / "changes.csv")}
    assert kinds == {"step", "span", "beyond"}
    assert len(rows(out / "tables" / "complementarity.csv")) == 3 * 36


def test_the_page_stands_alone_and_escapes_what_others_wrote(report: Path) -> None:
    out = report
    text = (out / "frontier.html").read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert "script" not in page.tags
    assert NASTY in page.text
    assert all(each.startswith(("data:image/svg+xml;base64,", "#")) for each in page.sources)
    assert not re.search(r"(?:src|href|url)\s*[=(]\s*[\"']?(?:https?:)?//", text)
    assert "hard & long" in page.text
    assert 'name="viewport"' in text
    assert "@media print" in text
    assert text.count("<img") == 13
    assert "Correctness failures" in page.text


def test_the_markdown_keeps_its_tables_whatever_names_hold(report: Path) -> None:
    out = report
    lines = (out / "frontier.md").read_text().splitlines()
    tables = [line for line in lines if line.startswith("|")]
    nasty = [line for line in tables if "script" in line]
    assert nasty
    for line in nasty:
        cells = re.split(r"(?<!\\)\|", line)
        rule = next(
            tables[index - 1]
            for index in range(tables.index(line), 0, -1)
            if re.fullmatch(r"[| :-]+", tables[index - 1])
        )
        assert len(cells) == rule.count("|") + 1
        assert r"\<script\>" in line
    for picture in re.findall(r"\]\((pictures/[^)]*)\)", "\n".join(lines)):
        assert (out / picture).is_file()


def test_a_filled_folder_is_left_alone_unless_forced(plain: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "report"
    out.mkdir()
    (out / "frontier.html").write_text("mine")
    refused = run("frontier", *plain, "--out", out)
    assert refused.exit_code == 2
    assert (
        "is not empty: name another folder, or replace files in it with --force" in refused.output
    )
    assert [path.name for path in out.iterdir()] == ["frontier.html"]
    assert (out / "frontier.html").read_text() == "mine"
    (out / "notes.txt").write_text("mine, too")
    forced = run("frontier", *plain, "--out", out, "--force", "--resamples", 200)
    assert forced.exit_code == 0
    assert "<!DOCTYPE html>" in (out / "frontier.html").read_text()
    assert (out / "notes.txt").read_text() == "mine, too"


def test_the_same_verdicts_give_the_same_report(plain: list[Path], tmp_path: Path) -> None:
    for name in ("one", "two"):
        run("frontier", *plain, "--out", tmp_path / name, "--resamples", 200)
    for path in (tmp_path / "one").rglob("*.*"):
        assert (
            path.read_bytes()
            == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
        )


def test_a_window_keeps_the_problems_within_it(plain: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "report"
    words = ("--since", "2024-03-01", "--until", "2024-05-01", "--resamples", 200)
    result = run("frontier", *plain, "--out", out, *words)
    assert result.exit_code == 0
    problems = {row["problem"] for row in rows(out / "tables" / "problems.csv")}
    assert problems == {"p2", "p3", "p4"}
    assert "published from 2024-03-01 to 2024-05-01" in (out / "frontier.html").read_text()


def test_endless_loops_count_as_asked(plain: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "report"
    run("frontier", *plain, "--out", out, "--endless", "correctness", "--resamples", 200)
    page = (out / "frontier.html").read_text()
    assert "endless loops count as correctness failures" in page
    assert "endless loops counted as optimization failures" in page


@pytest.mark.parametrize("setting", list(Setting))
def test_reports_of_every_setting_look_alike(tmp_path: Path, setting: Setting) -> None:
    files = [
        write_verdicts(
            tmp_path / name, {"p": "ATW", "q": "WWA"}, header(name, alpha, setting=setting)
        )
        for name, alpha in (("low", 0.0), ("high", 1.0))
    ]
    result = run("frontier", *files, "--out", tmp_path / "out", "--resamples", 200)
    assert result.exit_code == 0
    assert f"setting: {setting.value}" in (tmp_path / "out" / "frontier.html").read_text()


def test_mixed_settings_are_refused(tmp_path: Path) -> None:
    one = write_verdicts(tmp_path / "1", {"p": "A"}, header("one"))
    two = write_verdicts(tmp_path / "2", {"p": "A"}, header("two", setting=Setting.AGENTIC))
    result = run("frontier", one, two, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "its setting is agentic, not reasoning" in result.output
    assert not (tmp_path / "out").exists()


def test_a_plan_is_written_shown_and_kept(study: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    words = ("ensemble", *study, "--budget", 3, "--out", out, "--halvings", 2, "--resamples", 200)
    result = run(*words)
    assert result.exit_code == 0, result.output
    plan = read_plan(out)
    assert plan.budget == sum(member.samples for member in plan.members) == 3
    assert plan.method == "exact"
    assert len(plan.inputs) == 6
    assert "pass@3" in result.output
    assert "held-out" in result.output
    assert "Of 8 problems, a row solves so many that a column does not" in result.output
    before = out.read_bytes()
    again = run(*words)
    assert again.exit_code == 2
    assert "exists already" in again.output
    assert out.read_bytes() == before
    assert run(*words, "--force").exit_code == 0
    assert out.read_bytes() == before  # the same seed


def test_a_plan_says_which_problems_it_is_for(study: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    words = ("--difficulty", "easy", "--since", "2024-02-01", "--members", "any")
    result = run("ensemble", *study, "--budget", 2, "--out", out, "--halvings", 1, *words)
    assert result.exit_code == 0, result.output
    document = json.loads(out.read_bytes())
    assert document["selection"] == "easy from 2024-02-01"
    assert document["method"] == "greedy"
    assert document["held_out"]["problems"] == 3
    unknown = run("ensemble", *study, "--budget", 2, "--out", tmp_path / "b", "--difficulty", "x")
    assert unknown.exit_code == 2
    assert "no problem is of difficulty 'x'; there are: easy, hard & long" in unknown.output


def test_a_budget_beyond_the_samples_is_refused(study: list[Path], tmp_path: Path) -> None:
    result = run("ensemble", *study, "--budget", 5, "--out", tmp_path / "plan.json")
    assert result.exit_code == 2
    assert "take --budget 4 or less" in result.output
    assert not (tmp_path / "plan.json").exists()


@pytest.mark.parametrize("command", ["frontier", "ensemble"])
def test_help_and_errors_wait_for_no_heavy_library(command: str) -> None:
    program = (
        "import sys\n"
        "from cupel.cli import build_app\n"
        f"app = build_app(['{command}', '--help'])\n"
        "try:\n"
        f"    app(['{command}', '--help'])\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0\n"
        "assert not {'numpy', 'matplotlib', 'torch', 'jinja2'} & set(sys.modules)\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert "VERDICTS" in finished.stdout
