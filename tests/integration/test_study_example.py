"""The study in miniature of docs/sampling.md, on a CPU: made, merged, sampled, judged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cupel.cli import build_app
from cupel.schema import FailureClass
from cupel_sandbox.native import NativeHost
from cupel_trainer.evaluate.record_file import read_header, read_lines
from cupel_trainer.evaluate.records import JudgedSample, VerdictsHeader

STUDY = Path(__file__).resolve().parents[2] / "examples" / "study"

pytest.importorskip("torch")


def run(*arguments: object) -> None:
    words = [str(argument) for argument in arguments]
    result = CliRunner().invoke(build_app(words), words)
    assert result.exit_code == 0, result.output


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_study_in_miniature_trades_one_failure_for_the_other(
    native_host: NativeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUPEL_URL", raising=False)
    subprocess.run([sys.executable, STUDY / "make_checkpoints.py", tmp_path], check=True)
    ends = (tmp_path / "low", tmp_path / "high")
    run("merge", *ends, "--alphas=0,1", "--out", tmp_path / "merged")
    failures = {}
    for name in ("alpha_0", "alpha_1"):
        samples, verdicts = tmp_path / f"{name}.samples", tmp_path / f"{name}.verdicts"
        run(
            *("sample", tmp_path / "merged" / name, "--problems", STUDY / "problems.jsonl"),
            *("--template", STUDY / "title.jinja", "--language", "any", "--max-tokens", 64),
            *("-n", 6, "--device", "cpu", "--out", samples),
        )
        run("evaluate", samples, "--out", verdicts)
        assert read_header(verdicts, VerdictsHeader).checkpoint.alpha == float(name[-1])
        judged = [line.record for line in read_lines(verdicts, JudgedSample)]
        assert len(judged) == 42
        classes = [record.failure_class for record in judged]
        failures[name] = (
            classes.count(FailureClass.OPTIMIZATION),
            classes.count(FailureClass.CORRECTNESS),
        )
    low, high = failures["alpha_0"], failures["alpha_1"]
    assert low[0] > high[0]
    assert low[1] < high[1]
