"""`cupel train`: what it says, what it refuses, and what it shows."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_judge import FakeJudge, fake_judge
from rich.console import Console
from typer.testing import CliRunner, Result

from cupel.cli import build_app
from cupel_trainer.train.run import Progress
from cupel_trainer.train.step_record import StepRecord
from cupel_trainer.train.watch import watching


@pytest.fixture
def judge() -> Iterator[FakeJudge]:
    with fake_judge() as fake:
        yield fake


def cupel(*words: str) -> Result:
    return CliRunner().invoke(build_app(words), words)


def write_recipe(stage: Path, file: Path, more: str = "") -> Path:
    file.write_text(
        f'model = {{path = "{stage / "model"}"}}\n'
        f'problems = {{set = "{stage / "problems.jsonl"}"}}\n'
        "sampling = {max_tokens = 1, group_size = 2}\n"
        'precision = {compute = "float32", device = "cpu"}\n'
        "parallelism = {gradient_checkpointing = false}\n" + more
    )
    return file


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys\n"
        "from cupel.cli import main\n"
        "try:\n    main(['train', '--help'])\n"
        "except SystemExit:\n    pass\n"
        "print(sorted({'torch', 'transformers', 'trl', 'datasets'} & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--same-start-as" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_explain_lists_fields_with_defaults_and_reasons() -> None:
    result = cupel("train", "--explain")
    assert result.exit_code == 0
    assert "sampling.group_size = 8  # Completions per prompt" in result.output


def test_a_wrong_field_is_an_error_of_usage(stage: Path, tmp_path: Path) -> None:
    recipe = write_recipe(stage, tmp_path / "recipe.toml", "optimizer = {steps = 3}\n")
    result = cupel("train", str(recipe))
    assert result.exit_code == 2
    assert "optimizer: Extra inputs are not permitted" in result.output
    assert cupel("train").exit_code == 2


def test_a_dry_run_checks_and_plans_without_training(
    stage: Path, tmp_path: Path, judge: FakeJudge
) -> None:
    recipe = write_recipe(
        stage,
        tmp_path / "recipe.toml",
        "optimiser = {steps = 9, prompts_per_step = 2}\n"
        "coverage = {schedule = [[0, 1], [3, 1.0]]}\n",
    )
    words = ["train", str(recipe), "--dry-run", "--url", judge.url, "--out", str(tmp_path / "run")]
    result = cupel(*words)
    assert result.exit_code == 0, result.output
    assert "problems: 4 of" in result.output
    assert "2 tiers, 1 of them count at first" in result.output
    assert "coverage from step 4 on: 1 of the tiers" in result.output
    assert "step 5:" in result.output
    assert not (tmp_path / "run").exists()
    assert judge.problems == {}
    too_long = cupel(*words, "--set", "sampling.max_tokens=250")
    assert too_long.exit_code == 2
    assert "there is room for 6" in too_long.output


def test_progress_is_plain_lines_where_there_is_no_terminal() -> None:
    record = StepRecord(
        step=3,
        coverage=1,
        completions=8,
        reward=0.25,
        solve_rate=0.25,
        full_solve_rate=0.125,
        optimization_failures=0.5,
        correctness_failures=0.25,
        judging_errors=1,
        tokens_per_s=1234.5,
        judge_wait_s=0.5,
        judge_wait_share=0.1,
    )
    written = io.StringIO()
    with watching(Console(file=written, force_terminal=False, width=200)) as show:
        show(Progress(9))
        for doing in ("updating", "drawing", "judging", "updating"):
            show(Progress(9, 3, doing, record))
    assert written.getvalue() == (
        "step 3 of 9: reward 0.250, solved 25%, at all tiers 12%, too slow 50%, wrong 25%, "
        "1234 tokens/s, judge wait 0.5 s (10%), 1 judging errors\n"
    )


def test_progress_on_a_terminal_is_a_bar_with_what_is_being_done() -> None:
    written = io.StringIO()
    with watching(Console(file=written, force_terminal=True, width=120)) as show:
        show(Progress(9, 2, "service away for 12 s"))
    assert "service away for 12 s" in written.getvalue()
    assert "2/9" in written.getvalue()
