"""Training through a real service: 20 steps, a service that is killed, episodes in real boxes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cupel import embedded_service
from cupel_sandbox.native import NativeHost
from cupel_trainer.train.run import Progress, train
from cupel_trainer.train.run_log import read_log

pytest.importorskip("trl")
sys.path.append(str(Path(__file__).resolve().parents[1] / "unit" / "trainer" / "train"))
from tiny_policy import SPECIAL, make_policy, tiny_recipe, write_problems

pytestmark = pytest.mark.slow

AWAY_S = 3.0


@dataclass
class Served:
    """A service that can be killed and started again on its port."""

    folder: Path
    port: int = 0
    process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "cupel.cli", "serve", "--port", str(self.port)]
        self.process = subprocess.Popen(
            [*command, "--data-dir", str(self.folder / "data")],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert "ready on" in line
        self.port = int(line.split("ready on ")[1].split()[0].rpartition(":")[2])

    def kill(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()


@pytest.fixture
def served(native_host: NativeHost, tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path)
    served.start()
    yield served
    served.kill()


def test_a_killed_service_changes_no_reward_and_no_weight(served: Served, tmp_path: Path) -> None:
    make_policy(tmp_path / "model")
    write_problems(tmp_path / "problems.jsonl")
    recipe = tiny_recipe(
        tmp_path, optimiser={"steps": 20, "learning_rate": 3e-2}, checkpoints={"every_steps": 10}
    )
    quiet = train(recipe, tmp_path / "quiet", url=served.url)

    doing: set[str] = set()
    restart = threading.Timer(AWAY_S, served.start)

    def show(progress: Progress) -> None:
        doing.add(progress.doing)
        if progress.step == 7 and progress.doing == "updating" and not restart.ident:
            served.kill()
            restart.start()

    disturbed = train(recipe, tmp_path / "disturbed", url=served.url, show=show)
    restart.join()
    assert any(each.startswith("service away") for each in doing)
    logs = [read_log(tmp_path / name) for name in ("quiet", "disturbed")]
    rewards = [[each.reward for each in log] for log in logs]
    assert rewards[0] == rewards[1]
    assert sum(each.judging_errors for each in logs[1]) == 0
    assert logs[1][7].judge_wait_s > AWAY_S / 2, "the eighth step waited for the service"
    assert disturbed.weights == quiet.weights
    assert (rewards[0][-1] or 0) > (rewards[0][0] or 0), "the policy learnt"


@pytest.mark.parametrize("setting", ["tools", "agentic"])
def test_episodes_in_boxes_are_trained_on(
    native_host: NativeHost, tmp_path: Path, setting: str
) -> None:
    programs = ("print(1)", "print(2)")
    if setting == "tools":
        actions = tuple(f"```run\n{each}\n```" for each in programs)
        words = (*programs, *actions, *SPECIAL.values())
    else:
        files = tuple(f"```file main.py\n{each}\n```" for each in programs)
        words = (*files, "```submit\nmain.py\n```", "```shell\nls\n```", *SPECIAL.values())
    make_policy(tmp_path / "model", words=words, context_tokens=4096)
    write_problems(tmp_path / "problems.jsonl", count=2)
    recipe = tiny_recipe(
        tmp_path,
        optimiser={"steps": 2, "prompts_per_step": 2},
        setting={"kind": setting, "budget": {"turns": 4, "calls": 2, "submissions": 1}},
        logging={"samples": 8},
    )
    with embedded_service() as url:
        train(recipe, tmp_path / "run", url=url)
    records = read_log(tmp_path / "run")
    assert [each.judging_errors for each in records] == [0, 0]
    assert all(each.tokens > each.completions for each in records), "more turns than episodes"
    lines = (tmp_path / "run" / "samples.jsonl").read_text("utf-8").splitlines()
    samples = [json.loads(line) for line in lines]
    assert len(samples) == 16
    for sample in samples:
        number = sample["problem"].removeprefix("say-")
        answered = f"print({number})" in sample["completion"]
        # A program that a run block holds is no answer; of files, the submitted one is.
        right = answered and (setting == "agentic" or "```run" not in sample["completion"])
        assert sample["reward"] == float(right), sample
    assert {sample["reward"] for sample in samples} == {0.0, 1.0}
