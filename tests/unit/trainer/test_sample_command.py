from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_openai import FakeOpenAI, running_openai
from tiny_causal_lm import make_checkpoint, write_problems
from typer.testing import CliRunner, Result

from cupel.cli import build_app
from cupel_trainer.episodes.budget import Budget
from cupel_trainer.episodes.prompt import default_template
from cupel_trainer.evaluate.plan import Estimate, HeldOut, Plan, PlanMember, plan_json
from cupel_trainer.evaluate.record_file import read_header, read_lines
from cupel_trainer.evaluate.records import (
    CheckpointRef,
    Sample,
    SamplesHeader,
    Sampling,
    Setting,
)
from cupel_trainer.evaluate.sample_run import plan_runs

pytest.importorskip("torch")
pytest.importorskip("transformers")

HF = ("--engine", "hf", "--device", "cpu", "--dtype", "float32", "--batch-size", "4")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "low")


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    return write_problems(tmp_path / "problems.jsonl", 3)


@pytest.fixture
def openai() -> Iterator[FakeOpenAI]:
    with running_openai() as running:
        yield running


def run(*arguments: object, **environment: str) -> Result:
    words = ["sample", *(str(argument) for argument in arguments)]
    return CliRunner(env=environment).invoke(build_app(words), words)


def read(path: Path) -> list[Sample]:
    return [line.record for line in read_lines(path, Sample)]


def test_samples_come_from_a_checkpoint(checkpoint: Path, problems: Path, tmp_path: Path) -> None:
    out = tmp_path / "samples.jsonl"
    options = ["--temperature", 0.5, "--top-p", 0.9, "--max-tokens", 6, "--seed", 3]
    result = run(checkpoint, "--problems", problems, "--out", out, "-n", 3, *HF, *options)
    assert result.exit_code == 0, result.output
    header = read_header(out, SamplesHeader)
    assert header.checkpoint == CheckpointRef(name="low", path=str(checkpoint))
    assert header.setting is Setting.REASONING
    sampling = header.sampling
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens) == (0.5, 0.9, 6)
    assert (sampling.seed, sampling.engine, sampling.dtype) == (3, "hf", "float32")
    assert (sampling.language, sampling.chat) == ("python", True)
    assert len(sampling.template) == len(header.problem_set) == 64
    assert header.problems == str(problems)
    samples = read(out)
    assert {(each.problem, each.sample) for each in samples} == {
        (f"p{problem}", number) for problem in range(3) for number in range(3)
    }
    assert all(0 < each.completion_tokens <= 6 for each in samples)
    tokens = sum(each.completion_tokens for each in samples)
    assert f"{out}: 9 samples of 3 problems, {tokens} tokens drawn now" in result.stdout


def test_a_merge_s_manifest_names_its_checkpoint(
    checkpoint: Path, problems: Path, tmp_path: Path
) -> None:
    merged = tmp_path / "folder"
    merged.mkdir()
    for file in checkpoint.iterdir():
        (merged / file.name).symlink_to(file)
    manifest = {"name": "alpha=1.25", "alpha": 1.25, "digest": "ab12", "formula": "more"}
    (merged / "cupel_merge.json").write_text(json.dumps(manifest))
    out = tmp_path / "samples.jsonl"
    options = ["--problems", problems, "-n", 1, *HF, "--max-tokens", 2]
    assert run(merged, "--out", out, *options).exit_code == 0
    assert read_header(out, SamplesHeader).checkpoint == CheckpointRef(
        name="alpha=1.25", path=str(merged), alpha=1.25, digest="ab12"
    )
    moved = merged.rename(tmp_path / "moved")
    assert run(moved, "--out", out, *options, "-n", 2).exit_code == 0
    assert len(read(out)) == 6
    named = tmp_path / "named.jsonl"
    assert run(moved, "--out", named, *options, "--name", "far", "--alpha", 2).exit_code == 0
    assert read_header(named, SamplesHeader).checkpoint.name == "far"
    assert read_header(named, SamplesHeader).checkpoint.alpha == 2
    (moved / "cupel_merge.json").write_text("{")
    result = run(moved, "--out", out, *options)
    assert result.exit_code == 2
    assert "is no manifest of a merge" in result.stderr


def test_another_run_s_file_is_refused(checkpoint: Path, problems: Path, tmp_path: Path) -> None:
    out = tmp_path / "samples.jsonl"
    options = ["--problems", problems, "--out", out, "-n", 1, *HF, "--max-tokens", 2]
    assert run(checkpoint, *options).exit_code == 0
    content = out.read_bytes()
    for changed, said in (
        (["--temperature", 0.5], "sampling.temperature is 1.0 there and 0.5 here"),
        (["--plain"], "sampling.chat is True there and False here"),
        (["--language", "any"], "sampling.language is"),
        (["--limit", 1], "problem_set is"),
        (["--name", "high"], "checkpoint.name is 'low' there and 'high' here"),
    ):
        result = run(checkpoint, *options, *changed)
        assert result.exit_code == 2
        assert said in result.stderr
        assert "belongs to another run" in result.stderr
    assert out.read_bytes() == content


@pytest.mark.slow
def test_a_killed_run_ends_as_one_that_was_not(
    checkpoint: Path, problems: Path, tmp_path: Path
) -> None:
    options = ["--problems", problems, "-n", 20, *HF, "--max-tokens", 24]
    whole = tmp_path / "whole.jsonl"
    assert run(checkpoint, "--out", whole, *options).exit_code == 0
    out = tmp_path / "killed.jsonl"
    command = [sys.executable, "-m", "cupel.cli", "sample", checkpoint, "--out", out, *options]
    process = subprocess.Popen(
        [str(word) for word in command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not (out.exists() and out.read_bytes().count(b"\n") > 5):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed = out.read_bytes()
    assert whole.read_bytes().startswith(killed)
    assert killed.count(b"\n") < 61
    assert run(checkpoint, "--out", out, *options).exit_code == 0
    assert out.read_bytes() == whole.read_bytes()


def test_a_served_model_is_sampled(openai: FakeOpenAI, problems: Path, tmp_path: Path) -> None:
    out, key = tmp_path / "samples.jsonl", tmp_path / "key"
    key.write_text("sk-file\n")
    options = ["--problems", problems, "--out", out, "--engine", "openai"]
    options += ["--base-url", openai.url, "--alpha", 1]
    result = run("org/model", *options, "-n", 1, OPENAI_API_KEY="sk-variable")
    assert result.exit_code == 0, result.output
    assert openai.received[-1][1]["authorization"] == "Bearer sk-variable"
    result = run("org/model", *options, "-n", 2, "--api-key-file", key)
    assert result.exit_code == 0, result.output
    assert openai.received[-1][1]["authorization"] == "Bearer sk-file"
    assert {body["model"] for _, _, body in openai.received} == {"org/model"}
    assert len(openai.received) == 6
    samples = read(out)
    assert all(each.completion.endswith(f"from {each.seed}") for each in samples)
    ref = read_header(out, SamplesHeader).checkpoint
    assert ref == CheckpointRef(name="org/model", path=f"{openai.url}#org/model", alpha=1)
    assert b"sk-" not in out.read_bytes()


def plan_of(*members: PlanMember) -> str:
    estimate = Estimate(value=0.5, low=0.4, high=0.6)
    held_out = HeldOut(
        ensemble=estimate,
        single=estimate,
        difference=Estimate(value=0, low=0, high=0),
        splits=2,
        problems=2,
        agreement=1,
    )
    plan = Plan(
        budget=sum(member.samples for member in members),
        members=members,
        method="exact",
        chosen_pass=0.5,
        upper_bound=0.5,
        single=members[0].checkpoint,
        single_pass=0.5,
        held_out=held_out,
        seed=0,
    )
    return plan_json(plan)


def test_an_ensemble_s_members_are_sampled_in_turn(
    checkpoint: Path, problems: Path, tmp_path: Path
) -> None:
    other = make_checkpoint(tmp_path / "other", seed=1)
    sampling = Sampling(temperature=0.7, max_tokens=3, dtype="float32", seed=4)
    plan = tmp_path / "plan.json"
    plan.write_text(
        plan_of(
            PlanMember(
                checkpoint=CheckpointRef(name="a/b", path=str(checkpoint), alpha=0),
                samples=2,
                sampling=sampling,
            ),
            PlanMember(
                checkpoint=CheckpointRef(name="other", path=str(other), alpha=1),
                samples=3,
                sampling=sampling,
            ),
        )
    )
    folder = tmp_path / "ensemble"
    options = ["--ensemble", plan, "--problems", problems, "--out", folder]
    result = run(*options, "--device", "cpu")
    assert result.exit_code == 0, result.output
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == ["01-a_b.jsonl", "02-other.jsonl"]
    assert [len(read(file)) for file in files] == [6, 9]
    first = read_header(files[0], SamplesHeader)
    assert first.checkpoint == CheckpointRef(name="a/b", path=str(checkpoint), alpha=0)
    assert first.sampling.temperature == 0.7
    assert first.sampling.seed == 4
    contents = [file.read_bytes() for file in files]
    files[1].write_bytes(contents[1][:-40])
    assert run(*options, "--device", "cpu").exit_code == 0
    assert [file.read_bytes() for file in files] == contents
    elsewhere = tmp_path / "seed"
    options[-1] = elsewhere
    assert run(*options, "--device", "cpu", "--seed", 5).exit_code == 0
    assert read_header(elsewhere / files[0].name, SamplesHeader).sampling.seed == 5


@pytest.mark.parametrize(
    ("member", "said"),
    [
        ({"sampling": Sampling(template="f" * 64)}, "was prompted by another template"),
        (
            {"checkpoint": CheckpointRef(name="m", path="{low}", digest="ab")},
            "holds another checkpoint than 'm'",
        ),
        ({"checkpoint": CheckpointRef(name="m", path="/absent/m")}, "/absent/m: no such folder"),
        ({"sampling": Sampling(engine="gguf")}, "no engine is called 'gguf'"),
    ],
)
def test_a_member_that_is_not_what_was_planned_is_refused(
    checkpoint: Path,
    problems: Path,
    tmp_path: Path,
    member: dict[str, CheckpointRef | Sampling],
    said: str,
) -> None:
    fields = {"checkpoint": CheckpointRef(name="m", path=str(checkpoint)), "samples": 1, **member}
    text = plan_of(PlanMember.model_validate(fields)).replace("{low}", str(checkpoint))
    (tmp_path / "plan.json").write_text(text)
    result = run(
        *("--ensemble", tmp_path / "plan.json", "--problems", problems, "--out", tmp_path / "out")
    )
    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give a CHECKPOINT or --ensemble PLAN"),
        (["low", "--ensemble", "plan.json"], "give a CHECKPOINT or --ensemble PLAN"),
        (["--ensemble", "plan.json", "-n", "3"], "the plan says"),
        (["low", "-n", "1001"], "1000"),
        (["low", "--top-p", "0"], "0"),
        (["low", "--engine", "openai"], "needs --base-url"),
        (["org/low", "--release", "v9"], "no release of LiveCodeBench"),
        (["org/low", "--template", "absent.jinja"], "absent.jinja cannot be read"),
        (["org/low", "--vllm", "nonsense"], "write name=value"),
        (["org/low", "--api-key-file", "absent"], "API key file absent cannot be read"),
        (["low", "--since", "2024"], "2024"),
        (["absent"], "absent: no such folder"),
        (["--ensemble", "absent.json"], "absent.json cannot be read"),
    ],
)
def test_what_cannot_be_meant_is_said(
    problems: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    result = run(*arguments, "--problems", problems, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert said in result.stderr


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys; from cupel.cli import build_app; "
        "from typer.testing import CliRunner; "
        "words = ['{command}', '--help']; "
        "assert CliRunner().invoke(build_app(words), words).exit_code == 0; "
        "heavy = {{'torch', 'transformers', 'vllm', 'jinja2', 'numpy'}} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    for command in ("sample", "evaluate"):
        subprocess.run([sys.executable, "-c", code.format(command=command)], check=True)


def test_a_plan_of_another_setting_is_sampled_in_it(tmp_path: Path) -> None:
    member = PlanMember(
        checkpoint=CheckpointRef(name="served", path="http://127.0.0.1:1/v1 m"),
        samples=2,
        sampling=Sampling(engine="openai", budget=Budget(turns=3)),
    )
    plan = Plan.model_validate_json(plan_of(member)).model_copy(update={"setting": Setting.TOOLS})
    template = default_template(plan.setting)
    (made,) = plan_runs(plan, tmp_path, template, lambda sampling: sampling)
    assert made.header.setting is Setting.TOOLS
    assert made.header.sampling.budget == Budget(turns=3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--budget", "turns=3"], "the setting reasoning has no --budget"),
        (["--setting", "tools", "--budget", "turns"], "--budget 'turns': write name=value"),
        (["--setting", "tools", "--budget", "turns=0"], "budget.turns: "),
        (["--setting", "agentic", "--budget", "turn=3"], "budget.turn: unknown field"),
    ],
)
def test_a_budget_that_makes_no_sense_is_said(
    checkpoint: Path, problems: Path, tmp_path: Path, options: list[str], said: str
) -> None:
    out = tmp_path / "samples.jsonl"
    result = run(checkpoint, "--problems", problems, "--out", out, *HF, *options)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not out.exists()
