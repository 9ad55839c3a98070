"""The lab end to end, much smaller: a real service, real RL, kill -9 in the midst, a report."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cupel_sandbox.native import NativeHost
from cupel_trainer.evaluate.records import Setting

pytest.importorskip("torch")

RECIPE = """
ensemble_budget = 2
max_tokens = 48
policy = { hidden = 32, layers = 1, heads = 2, inner = 64 }
teaching = { lessons = 800, steps = 60, later_steps = 20, learning_rate = 5e-3 }
rl = { steps = 2, prompts_per_step = 4, group_size = 2 }
problems = { train = { easy = 4, hard = 4 }, held_out = { easy = 2, hard = 6 } }
reasoning = { alphas = [-0.5, 0, 0.5, 1, 1.5], samples = 2, each = { easy = 2, hard = 6 } }
tools = { alphas = [0, 1, 1.5], samples = 1, each = { easy = 1, hard = 2 } }
agentic = { alphas = [0, 1, 1.5], samples = 1, each = { easy = 1, hard = 2 } }
"""


def lab(recipe: Path, out: Path) -> list[str]:
    command = [sys.executable, "-m", "cupel.cli", "lab", "--recipe", str(recipe)]
    return [*command, "--seed", "7", "--out", str(out)]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_lab_that_was_killed_goes_on_and_ends_with_its_report(
    native_host: NativeHost, tmp_path: Path
) -> None:
    recipe, out = tmp_path / "tiny.toml", tmp_path / "lab"
    recipe.write_text(RECIPE)
    environment = {name: value for name, value in os.environ.items() if name != "CUPEL_URL"}
    started = out / "seed-7" / "start" / "done.json"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(lab(recipe, out), env=environment, stderr=log)
        try:
            while not started.exists():
                assert process.poll() is None, (tmp_path / "log").read_text("utf-8")
                time.sleep(0.1)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    before = started.stat().st_mtime_ns
    run = subprocess.run(lab(recipe, out), env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert started.stat().st_mtime_ns == before  # what was done is not done again
    page = (out / "report.html").read_text("utf-8")
    assert "seed 7" in page
    assert page.count("data:image/svg+xml") == 4
    for setting in Setting:
        verdicts = list((out / "seed-7" / setting.value / "verdicts").glob("*.jsonl"))
        assert len(verdicts) == (5 if setting is Setting.REASONING else 3)
    again = subprocess.run(lab(recipe, out), env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "wrote" in again.stdout
