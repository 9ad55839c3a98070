"""Whole runs on a tiny policy: what is logged, proven, exported, and gone on with after kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_judge import FakeJudge, fake_judge
from tiny_policy import WORDS, tiny_fields, tiny_recipe

from cupel_trainer.errors import TrainingError
from cupel_trainer.train.checkpoint_folder import newest, seal
from cupel_trainer.train.manifest import compare_runs, read_manifest
from cupel_trainer.train.policy import folder_digest
from cupel_trainer.train.run import Progress, train
from cupel_trainer.train.run_log import read_log


@pytest.fixture
def judge() -> Iterator[FakeJudge]:
    with fake_judge() as fake:
        yield fake


def toml(fields: dict[str, dict[str, object]]) -> str:
    lines = []
    for section, values in fields.items():
        lines.append(f"[{section}]")
        lines += [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    return "\n".join(lines) + "\n"


def test_a_run_learns_logs_and_exports_float32_masters(
    stage: Path, judge: FakeJudge, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    recipe = tiny_recipe(
        stage,
        optimiser={"steps": 20, "learning_rate": 3e-2},
        reward={"full_coverage": True},
        checkpoints={"every_steps": 10},
        logging={"samples": 2},
    )
    seen: list[Progress] = []
    result = train(recipe, tmp_path / "run", url=judge.url, show=seen.append)
    records = read_log(tmp_path / "run")
    assert [each.step for each in records] == list(range(1, 21))
    assert all(each.completions == each.tokens == 16 for each in records)
    first, last = (
        sum(each.reward or 0 for each in part) / 5 for part in (records[:5], records[-5:])
    )
    assert last > first + 0.2, "the policy learns what is rewarded"
    assert all(each.judge_wait_s > 0 for each in records)
    assert all(each.judge_wait_share == each.judge_wait_s / each.step_s for each in records)
    assert all(each.full_solve_rate <= each.solve_rate for each in records)
    assert {"loss", "entropy", "learning_rate", "grad_norm"} <= records[0].trainer.keys()
    assert (seen[0].doing, seen[-1].doing) == ("loading", "exporting")
    assert {"drawing", "judging", "updating"} <= {each.doing for each in seen}
    samples = (tmp_path / "run" / "samples.jsonl").read_text().splitlines()
    assert len(samples) == 40
    assert json.loads(samples[-1])["step"] == 20
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))

    model = AutoModelForCausalLM.from_pretrained(result.masters, dtype="auto")
    assert {each.dtype for each in model.parameters()} == {torch.float32}
    assert len(AutoTokenizer.from_pretrained(result.masters)) == len(WORDS)
    manifest = read_manifest(tmp_path / "run")
    assert (manifest.status, manifest.steps) == ("finished", 20)
    assert manifest.masters == result.weights == folder_digest(result.masters)
    assert manifest.masters != manifest.weights
    assert manifest.service is not None
    assert manifest.service.version == "fake"

    again = train(recipe, tmp_path / "run", url=judge.url)
    assert again == result, "a finished run is not trained again"
    assert len(read_log(tmp_path / "run")) == 20


def test_low_and_high_are_proven_to_start_the_same(
    stage: Path, judge: FakeJudge, tmp_path: Path
) -> None:
    low = tiny_recipe(stage, optimiser={"steps": 2})
    high = tiny_recipe(stage, optimiser={"steps": 2}, coverage={"fraction": 1.0})
    train(low, tmp_path / "low", url=judge.url)
    other_order = tiny_recipe(stage, optimiser={"steps": 2}, problems={"order_seed": 1})
    with pytest.raises(TrainingError, match="the order of problems differ"):
        train(other_order, tmp_path / "other", url=judge.url, same_start_as=tmp_path / "low")
    other_bytes = tiny_recipe(stage, optimiser={"steps": 2}, model={"random_seed": 5})
    with pytest.raises(TrainingError, match="the initial weights differ"):
        train(other_bytes, tmp_path / "other", url=judge.url, same_start_as=tmp_path / "low")
    assert not (tmp_path / "other" / "run.json").exists()
    train(high, tmp_path / "high", url=judge.url, same_start_as=tmp_path / "low")
    compare_runs(tmp_path / "low", tmp_path / "high")
    one, other = read_manifest(tmp_path / "low"), read_manifest(tmp_path / "high")
    assert (one.weights, one.order) == (other.weights, other.order)
    with pytest.raises(TrainingError, match="what differs: coverage"):
        train(high, tmp_path / "low", url=judge.url)


def test_a_run_with_fixing_goes_on_as_if_it_had_not_stopped(
    stage: Path, judge: FakeJudge, tmp_path: Path
) -> None:
    fixing = {"enabled": True, "share": 0.5}
    whole = tiny_recipe(stage, optimiser={"steps": 4}, fixing=fixing)
    half = tiny_recipe(stage, optimiser={"steps": 2}, fixing=fixing)
    straight = train(whole, tmp_path / "straight", url=judge.url)
    train(half, tmp_path / "resumed", url=judge.url)
    resumed = train(whole, tmp_path / "resumed", url=judge.url)
    counts = [each.fixing_prompts for each in read_log(tmp_path / "straight")]
    assert counts == [0, 2, 2, 2], "half of the four prompts, from the second step on"
    assert resumed.weights == straight.weights
    without = train(tiny_recipe(stage, optimiser={"steps": 4}), tmp_path / "no", url=judge.url)
    assert without.weights != straight.weights


def test_a_service_that_stays_away_stops_training_and_resuming_goes_on(
    stage: Path, judge: FakeJudge, tmp_path: Path
) -> None:
    straight = train(tiny_recipe(stage), tmp_path / "straight", url=judge.url)
    recipe = tiny_recipe(stage, service={"patience_s": 0.5})

    def show(progress: Progress) -> None:
        if progress.step == 3:
            judge.down.set()

    with pytest.raises(TrainingError, match="run the same command again"):
        train(recipe, tmp_path / "stopped", url=judge.url, show=show)
    judge.down.clear()
    resumed = train(recipe, tmp_path / "stopped", url=judge.url)
    assert resumed.weights == straight.weights
    rewards = [
        [each.reward for each in read_log(tmp_path / name)] for name in ("straight", "stopped")
    ]
    assert rewards[0] == rewards[1]


def at_line(out: Path, lines: int) -> Callable[[], bool]:
    log = out / "log.jsonl"
    return lambda: log.exists() and log.read_bytes().count(b"\n") >= lines


def in_checkpoint(out: Path) -> Callable[[], bool]:
    """While the second checkpoint is being written."""
    return lambda: (out / ".unfinished" / "checkpoint-4").exists()


@pytest.mark.slow
def test_kill_9_at_any_point_and_resuming_gives_the_same_bytes(
    stage: Path, judge: FakeJudge, tmp_path: Path
) -> None:
    fields = tiny_fields(stage)
    straight = train(tiny_recipe(stage), tmp_path / "straight", url=judge.url)
    recipe, out = tmp_path / "recipe.toml", tmp_path / "killed"
    recipe.write_text(toml(fields))
    command = [sys.executable, "-m", "cupel.cli", "train", str(recipe), "--out", str(out)]
    environment = os.environ | {"CUPEL_URL": judge.url, "OMP_NUM_THREADS": "1"}
    environment.pop("CUPEL_API_KEY", None)
    judge.pause_s = 0.1
    for point in (at_line(out, 1), at_line(out, 3), in_checkpoint(out)):
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as child:
            while not point() and child.poll() is None:
                time.sleep(0.001)
            child.send_signal(signal.SIGKILL)
            said = child.communicate()[1].decode()
        assert child.returncode == -signal.SIGKILL, said
    # A torn line, as a kill in mid-write leaves it.
    with (out / "log.jsonl").open("a") as file:
        file.write('{"step":')
    resumed = train(tiny_recipe(stage), out, url=judge.url)
    assert resumed.weights == straight.weights
    lines = read_log(out)
    assert [each.step for each in lines] == [1, 2, 3, 4, 5, 6]
    assert [each.reward for each in lines] == [
        each.reward for each in read_log(tmp_path / "straight")
    ]


def test_a_torn_checkpoint_is_passed_over(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        made = tmp_path / f"made-{step}"
        made.mkdir()
        (made / "model.safetensors").write_bytes(b"x" * 10)
        seal(made, tmp_path / "checkpoints", step, {"n": step}, keep=2)
    assert not (tmp_path / "checkpoints" / "step-1").exists(), "only the newest two stay"
    found = newest(tmp_path / "checkpoints")
    assert found is not None
    assert (found.step, found.state) == (3, {"n": 3})
    (found.path / "model.safetensors").write_bytes(b"x" * 9)
    older = newest(tmp_path / "checkpoints")
    assert older is not None
    assert older.step == 2


def test_two_processes_do_not_train_in_one_folder(
    stage: Path, judge: FakeJudge, tmp_path: Path
) -> None:
    import fcntl

    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(TrainingError, match="another process trains"):
            train(tiny_recipe(stage), tmp_path, url=judge.url)
