"""`cupel evaluate` through a real service of its own: every kind of completion, real boxes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cupel.cli import build_app
from cupel_sandbox.native import NativeHost
from cupel_sandbox.toolchains import find_toolchains
from cupel_trainer.evaluate.record_file import appending, read_header, read_lines
from cupel_trainer.evaluate.records import (
    CheckpointRef,
    JudgedSample,
    Sample,
    SamplesHeader,
    VerdictsHeader,
)

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FENCES = {".py": "python", ".cpp": "cpp", ".c": "c"}
PROGRAMS = {
    "two-sum": ("right.py", "wrong.py", "slow.py", "../../hostile/crash.py", "right.py"),
    "fibonacci": ("right.cpp", "wrong.cpp", "slow.cpp", "../../hostile/broken.cpp", "right.c"),
}
EXPECTED = {
    "right": ("AC", "none"),
    "wrong": ("WA", "correctness"),
    "slow": ("TLE", "optimization"),
    "crash": ("RTE", "correctness"),
    "broken": ("CE", "correctness"),
    "none": ("CE", "correctness"),
}


def completion_of(problem: str, name: str) -> str:
    program = EXAMPLES / problem / "solutions" / name
    return f"First I think.\n```{FENCES[program.suffix]}\n{program.read_text('utf-8')}\n```\n"


@pytest.mark.slow
@pytest.mark.skipif(
    not all(toolchain.available for toolchain in find_toolchains()),
    reason="needs a C compiler, a C++ compiler and Python",
)
def test_samples_are_judged_by_a_service_of_its_own(
    native_host: NativeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUPEL_URL", raising=False)
    samples, out = tmp_path / "samples.jsonl", tmp_path / "verdicts.jsonl"
    header = SamplesHeader(
        checkpoint=CheckpointRef(name="people", alpha=0.5), problems=str(EXAMPLES)
    )
    with appending(samples, header) as file:
        for problem, names in PROGRAMS.items():
            texts = [completion_of(problem, name) for name in names]
            texts.append("<think>```python\nprint(1)\n```</think>I do not know.")
            file.append(
                Sample(problem=problem, sample=number, completion=text, completion_tokens=number)
                for number, text in enumerate(texts)
            )
    words = ["evaluate", str(samples), "--out", str(out)]
    result = CliRunner().invoke(build_app(words), words)
    assert result.exit_code == 0, result.output

    judged = {
        (line.record.problem, line.record.sample): line.record
        for line in read_lines(out, JudgedSample)
    }
    assert len(judged) == 12
    for problem, names in PROGRAMS.items():
        for number, name in enumerate([*names, "none"]):
            record = judged[problem, number]
            kind = Path(name).stem
            assert (record.verdict.value, record.failure_class.value) == EXPECTED[kind], name
            assert record.complete
            assert record.completion_tokens == number
    slow = judged["two-sum", 2]
    assert slow.first_failing_tier is not None
    assert slow.first_failing_tier > 1
    assert slow.tiers[0].passed == slow.tiers[0].tests > 0
    headroom = slow.tiers[slow.first_failing_tier - 1].headroom
    assert headroom is not None
    assert headroom > 1
    assert slow.tle_kind == "cpu"
    right = judged["two-sum", 0]
    assert all(tier.headroom is not None and tier.headroom < 1 for tier in right.tiers)
    assert right == judged["two-sum", 4].model_copy(update={"sample": 0, "completion_tokens": 0})
    assert all(tier.headroom is None for tier in judged["fibonacci", 3].tiers)
    service = read_header(out, VerdictsHeader).service
    assert "native boxes" in service
    assert "Python" in service

    content = out.read_bytes()
    out.write_bytes(content[: len(content) * 2 // 3])
    assert CliRunner(env=dict(os.environ)).invoke(build_app(words), words).exit_code == 0
    verdicts = {
        (line.record.problem, line.record.sample): line.record.verdict
        for line in read_lines(out, JudgedSample)
    }
    assert verdicts == {key: record.verdict for key, record in judged.items()}
