from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cupel.cli import build_app
from cupel.schema import Problem, Verdict
from cupel_trainer.evaluate.record_file import appending, read_header, read_lines
from cupel_trainer.evaluate.records import (
    CheckpointRef,
    JudgedSample,
    Sample,
    SamplesHeader,
    Sampling,
    VerdictsHeader,
)

sys.path.append(str(Path(__file__).resolve().parents[1] / "client"))
from fake_cupel import CutAfter, FakeCupel, Refuse, running_fake

PROBLEM = {"statement": "Add.", "tests": [{"name": "a", "input": "1 2", "output": "3"}]}
ROWS = [
    {"id": "sum", "problem": PROBLEM, "difficulty": "easy", "date": "2024-08-01"},
    {"id": "sort", "problem": {**PROBLEM, "limits": {"cpu_s": 5}}, "difficulty": "hard"},
]
COMPLETIONS = ("right", "wrong", "right", "right too", "wrong")


@pytest.fixture(autouse=True)
def _no_settings_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUPEL_URL", "CUPEL_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fake() -> Iterator[FakeCupel]:
    with running_fake() as running:
        yield running


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def write_samples(path: Path, problems: object, completions: Sequence[str] = COMPLETIONS) -> Path:
    header = SamplesHeader(
        checkpoint=CheckpointRef(name="low", alpha=0),
        sampling=Sampling(language="python"),
        problem_set="abc",
        problems=str(problems),
    )
    with appending(path, header) as file:
        file.append(
            Sample(problem=problem, sample=number, completion=text, completion_tokens=number + 1)
            for problem in ("sum", "sort")
            for number, text in enumerate(completions)
        )
    return path


@pytest.fixture
def samples(tmp_path: Path, problems: Path) -> Path:
    return write_samples(tmp_path / "samples.jsonl", problems)


def run(*arguments: object) -> Result:
    words = ["evaluate", *(str(argument) for argument in arguments)]
    return CliRunner().invoke(build_app(words), words)


def read(path: Path) -> list[JudgedSample]:
    return [line.record for line in read_lines(path, JudgedSample)]


def verdicts(path: Path) -> dict[tuple[str, int], str]:
    return {(each.problem, each.sample): each.verdict.value for each in read(path)}


def judged(fake: FakeCupel) -> list[dict[str, object]]:
    return [
        submission
        for received in fake.received
        if received.path == "/v1/judgements"
        for submission in json.loads(received.body)["submissions"]
    ]


def test_each_sample_gets_a_verdict(fake: FakeCupel, samples: Path, tmp_path: Path) -> None:
    out = tmp_path / "verdicts.jsonl"
    result = run(samples, "--out", out, "--url", fake.url)
    assert result.exit_code == 0, result.output
    header = read_header(out, VerdictsHeader)
    assert header.checkpoint == CheckpointRef(name="low", alpha=0)
    assert header.sampling == Sampling(language="python")
    assert header.problem_set == "abc"
    assert header.service == "cupel 1.2.3; fake boxes; cgroup v2"
    assert verdicts(out) == {
        (problem, number): "AC" if "right" in text else "WA"
        for problem in ("sum", "sort")
        for number, text in enumerate(COMPLETIONS)
    }
    first = next(each for each in read(out) if (each.problem, each.sample) == ("sum", 1))
    assert (first.difficulty, first.date, first.completion_tokens) == ("easy", "2024-08-01", 2)
    assert first.tiers[0].headroom == 0.25  # 0.5 s of the default limit of 2 s
    other = next(each for each in read(out) if each.problem == "sort")
    assert other.tiers[0].headroom == 0.1  # of its own limit of 5 s
    assert len(first.tests) == 16
    assert first.tests != other.tests
    assert "easy" in result.stdout
    assert "3 (60.0%)" in result.stdout
    assert "6 (60.0%)" in result.stdout


def test_a_completion_is_judged_once(fake: FakeCupel, samples: Path, tmp_path: Path) -> None:
    run(samples, "--out", tmp_path / "verdicts.jsonl", "--url", fake.url)
    submissions = judged(fake)
    assert len(submissions) == 6
    for submission in submissions:
        assert submission["stop"] == "never"
        assert submission["probe_endless"] is True
        assert submission["language"] == "python"


def test_inline_problems_are_registered_while_they_are_judged(
    fake: FakeCupel, samples: Path, tmp_path: Path
) -> None:
    fake.problems["mine"] = Problem.model_validate(PROBLEM)
    run(samples, "--out", tmp_path / "verdicts.jsonl", "--url", fake.url)
    assert all(str(each["problem"]).startswith("evaluate-") for each in judged(fake))
    assert len({each["problem"] for each in judged(fake)}) == 2
    assert set(fake.problems) == {"mine"}


@pytest.mark.parametrize("status", [403, 507])
def test_a_service_that_registers_nothing_gets_problems_inline(
    fake: FakeCupel, samples: Path, tmp_path: Path, status: int
) -> None:
    fake.no_puts = Refuse(status, "read only")
    out = tmp_path / "verdicts.jsonl"
    result = run(samples, "--out", out, "--url", fake.url)
    assert result.exit_code == 0, result.output
    assert len(verdicts(out)) == 10
    assert all(isinstance(each["problem"], dict) for each in judged(fake))


def test_registered_problems_are_named(fake: FakeCupel, tmp_path: Path) -> None:
    for row in ROWS:
        fake.problems[str(row["id"])] = Problem.model_validate(row["problem"])
    samples = write_samples(tmp_path / "samples.jsonl", "service")
    out = tmp_path / "verdicts.jsonl"
    assert run(samples, "--out", out, "--url", fake.url).exit_code == 0
    assert {each["problem"] for each in judged(fake)} == {"sum", "sort"}
    assert set(fake.problems) == {"sum", "sort"}
    assert read(out)[0].tests == "0123456789abcdef"
    result = run(samples, "--out", out)
    assert result.exit_code == 2
    assert "say at which, with --url" in result.stderr
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": "sum", "problem": "gone"}\n{"id": "sort"}\n')
    result = run(samples, "--out", tmp_path / "b", "--url", fake.url, "--problems", rows)
    assert result.exit_code == 2
    assert "'gone' is not registered" in result.stderr


def test_a_second_run_judges_nothing(fake: FakeCupel, samples: Path, tmp_path: Path) -> None:
    out = tmp_path / "verdicts.jsonl"
    run(samples, "--out", out, "--url", fake.url)
    content = out.read_bytes()
    fake.received.clear()
    result = run(samples, "--out", out, "--url", fake.url)
    assert result.exit_code == 0
    assert out.read_bytes() == content
    assert not judged(fake)
    assert "6 (60.0%)" in result.stdout


def test_a_cut_file_is_gone_on_with(fake: FakeCupel, samples: Path, tmp_path: Path) -> None:
    out = tmp_path / "verdicts.jsonl"
    run(samples, "--out", out, "--url", fake.url)
    content, expected = out.read_bytes(), verdicts(out)
    for length in range(0, len(content), 401):
        out.write_bytes(content[:length])
        assert run(samples, "--out", out, "--url", fake.url).exit_code == 0
        assert len(read(out)) == 10
        assert verdicts(out) == expected


def test_a_known_completion_needs_no_judging(
    fake: FakeCupel, problems: Path, tmp_path: Path
) -> None:
    samples = write_samples(tmp_path / "samples", problems, ["right", "wrong"])
    out = tmp_path / "verdicts"
    run(samples, "--out", out, "--url", fake.url)
    fake.received.clear()
    samples.unlink()
    write_samples(samples, problems, ["right", "wrong", "wrong", "right", "new"])
    assert run(samples, "--out", out, "--url", fake.url).exit_code == 0
    assert [each["completion"] for each in judged(fake)] == ["new", "new"]
    assert verdicts(out)["sum", 2] == "WA"
    assert verdicts(out)["sum", 3] == "AC"
    by_name = {(each.problem, each.sample): each for each in read(out)}
    assert by_name["sum", 3].completion_tokens == 4


def test_a_judging_error_is_judged_again_at_once(
    fake: FakeCupel, samples: Path, tmp_path: Path
) -> None:
    fake.judging_errors = 5
    out = tmp_path / "verdicts.jsonl"
    result = run(samples, "--out", out, "--url", fake.url)
    assert result.exit_code == 0, result.output
    assert len(read(out)) == 10
    assert Counter(verdicts(out).values()) == {"AC": 6, "WA": 4}
    assert len(judged(fake)) == 11


def test_judging_errors_that_stay_are_left_for_the_next_run(
    fake: FakeCupel, samples: Path, tmp_path: Path
) -> None:
    fake.judging_errors = 10**6
    out = tmp_path / "verdicts.jsonl"
    result = run(samples, "--out", out, "--url", fake.url)
    assert result.exit_code == 1
    assert "10 judging errors are left" in result.stderr
    assert set(verdicts(out).values()) == {"JE"}
    assert len(judged(fake)) == 6 * 3
    assert not fake.problems
    fake.judging_errors = 0
    result = run(samples, "--out", out, "--url", fake.url)
    assert result.exit_code == 0
    assert Counter(verdicts(out).values()) == {"AC": 6, "WA": 4}  # the last line of each holds
    assert len(read(out)) == 20


def test_a_service_that_goes_away_leaves_what_was_judged(
    fake: FakeCupel, problems: Path, tmp_path: Path
) -> None:
    completions = [f"right {number}" for number in range(100)]
    samples = write_samples(tmp_path / "samples", problems, completions)
    out = tmp_path / "verdicts"
    # Info, list and two problems are answered, though perhaps a batch before the second problem;
    # then batches break off after 20 verdicts, and at last nobody is there.
    fake.faults.extend([None] * 4 + [CutAfter(20)] * 4 + [Refuse(503)] * 1000)
    result = run(samples, "--out", out, "--url", fake.url, "--patience", 0)
    assert result.exit_code == 2
    kept = len(read(out))
    assert 20 <= kept < 200
    assert f"{kept} of 200 samples are judged and kept in {out}" in result.stderr
    fake.faults.clear()
    assert run(samples, "--out", out, "--url", fake.url).exit_code == 0
    assert len(read(out)) == len(verdicts(out)) == 200
    assert not fake.problems  # neither this run's nor what the broken one left


def test_nobody_there_is_said(samples: Path, tmp_path: Path) -> None:
    out = tmp_path / "verdicts"
    result = run(samples, "--out", out, "--url", "http://127.0.0.1:1", "--patience", 0)
    assert result.exit_code == 2
    assert "no Cupel service answers at http://127.0.0.1:1" in result.stderr
    assert not out.exists()


def test_a_killed_run_is_gone_on_with(fake: FakeCupel, problems: Path, tmp_path: Path) -> None:
    completions = [f"right {number}" for number in range(100)]
    samples = write_samples(tmp_path / "samples", problems, completions)
    out = tmp_path / "verdicts"
    fake.release = threading.Event()  # each request judges one submission, and waits
    command = [sys.executable, "-m", "cupel.cli", "evaluate", samples, "--out", out]
    process = subprocess.Popen(
        [*(str(word) for word in command), "--url", fake.url],
        env=dict(os.environ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not (out.exists() and out.read_bytes().count(b"\n") > 2):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    fake.release.set()
    assert 0 < len(verdicts(out)) < 200
    assert fake.problems
    assert run(samples, "--out", out, "--url", fake.url).exit_code == 0
    assert len(read(out)) == len(verdicts(out)) == 200
    assert not fake.problems


def test_other_tests_or_samples_need_another_file(
    fake: FakeCupel, problems: Path, samples: Path, tmp_path: Path
) -> None:
    out = tmp_path / "verdicts.jsonl"
    run(samples, "--out", out, "--url", fake.url)
    content = out.read_bytes()
    changed = {**PROBLEM, "tests": [{"name": "b", "output": ""}]}
    problems.write_text(json.dumps({**ROWS[0], "problem": changed}) + f"\n{json.dumps(ROWS[1])}\n")
    result = run(samples, "--out", out, "--url", fake.url)
    assert result.exit_code == 2
    assert "problem 'sum' was judged by other tests than it has now" in result.stderr
    header = SamplesHeader(checkpoint=CheckpointRef(name="high"), problems=str(problems))
    other = tmp_path / "other"
    with appending(other, header) as file:
        file.append([Sample(problem="sum", sample=0, completion="right")])
    result = run(other, "--out", out, "--url", fake.url)
    assert result.exit_code == 2
    assert "checkpoint.name is 'low' there and 'high' here" in result.stderr
    assert out.read_bytes() == content


def test_part_of_a_set_can_be_judged(fake: FakeCupel, samples: Path, tmp_path: Path) -> None:
    out = tmp_path / "verdicts.jsonl"
    assert run(samples, "--out", out, "--url", fake.url, "--difficulty", "hard").exit_code == 0
    assert {each.problem for each in read(out)} == {"sort"}
    assert run(samples, "--out", out, "--url", fake.url).exit_code == 0
    assert len(read(out)) == 10


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        ("", "no file of ours"),
        ('{"kind": "cupel.verdicts"}\n', "is no SamplesHeader of this version"),
    ],
)
def test_what_is_no_file_of_samples_is_said(tmp_path: Path, content: str | None, said: str) -> None:
    samples = tmp_path / "samples"
    if content is not None:
        samples.write_text(content)
    result = run(samples, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert said in result.stderr


def test_samples_without_problems_are_said(fake: FakeCupel, tmp_path: Path) -> None:
    samples = write_samples(tmp_path / "samples", "")
    assert "give --problems" in run(samples, "--out", tmp_path / "out").stderr
    other = tmp_path / "other.jsonl"
    other.write_text('{"id": "unheard-of", "statement": "?"}\n')
    result = run(samples, "--out", tmp_path / "out", "--problems", other, "--url", fake.url)
    assert result.exit_code == 2
    assert "holds no sample of these problems" in result.stderr


def test_every_verdict_of_the_schema_can_be_written() -> None:
    for verdict in Verdict:
        fields = {"problem": "p", "sample": 0, "verdict": verdict, "complete": True}
        JudgedSample.model_validate(fields | {"failure_class": "none"})
