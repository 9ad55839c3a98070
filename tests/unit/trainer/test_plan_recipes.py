"""Plans of the recipes that ship, and of small ones by hand."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
import typer
from rich.console import Console
from study_files import header, write_verdicts
from typer.testing import CliRunner

from cupel.schema import FailureClass, Language, Verdict
from cupel_trainer.errors import RecipeError, RecordsError
from cupel_trainer.evaluate.records import JudgedSample, TierResult
from cupel_trainer.plan.plan_report import show_plan
from cupel_trainer.plan.recipe_shape import plan_recipe, rewarded_suite, run_shape
from cupel_trainer.plan.simulation import Overlap
from cupel_trainer.plan.workload import (
    Mix,
    Suite,
    VerdictTime,
    default_workload,
    judging_s,
    measured_times,
    replayed_workload,
)
from cupel_trainer.train.command import train
from cupel_trainer.train.recipe_file import read_recipe

RECIPES = Path(__file__).parents[3] / "examples" / "recipes"
GIBIBYTE = 2**30


@pytest.mark.parametrize("name", ["qwen2.5-7b", "cwm-32b"])
@pytest.mark.parametrize("fraction", ["0.25", "1.0"])
def test_the_recipes_that_ship_fit_and_need_one_host_if_answers_are_judged_as_they_end(
    name: str, fraction: str
) -> None:
    recipe = read_recipe(RECIPES / f"{name}.toml", [f"coverage.fraction={fraction}"])
    plan = plan_recipe(recipe)
    assert plan.refusals == ()
    assert plan.judge.programs == recipe.completions_per_step
    stream = plan.steps[Overlap.STREAM]
    assert stream is not None
    assert stream.judge_wait_share < 0.05
    assert stream.slots <= plan.shape.slots_per_host


def test_low_and_high_differ_in_what_the_judge_has_to_do_alone() -> None:
    file = RECIPES / "qwen2.5-7b.toml"
    low, high = (read_recipe(file, [f"coverage.fraction={f}"]) for f in ("0.25", "1.0"))
    assert low.model_copy(update={"coverage": high.coverage}) == high
    assert rewarded_suite(low) == Suite(tests=10, cpu_limit_s=2.0)
    assert rewarded_suite(high) == Suite(tests=40, cpu_limit_s=2.0)
    assert plan_recipe(low).judge.slot_s < plan_recipe(high).judge.slot_s


def test_every_number_of_a_recipe_has_its_reason() -> None:
    for file in RECIPES.glob("*.toml"):
        section = ""
        for line in file.read_text("utf-8").splitlines():
            if line.startswith("["):
                section = line
            name, equals, rest = line.partition("=")
            number = rest.partition("#")[0].strip()
            obvious = name.strip() in {"machines", "engine_gpus", "prompt_tokens_max"}
            if equals and not line.startswith("#") and number[:1].isdigit() and not obvious:
                assert "#" in rest, f"{file.name} {section} {line}"


def test_a_model_on_too_few_gpus_does_not_fit_and_the_plan_says_so() -> None:
    changes = ["parallelism.processes=2", "plan.engine_gpus=1", "plan.engines=1"]
    changes += ["parallelism.machines=1", "plan.engine_memory_fraction=0.8"]
    plan = plan_recipe(read_recipe(RECIPES / "cwm-32b.toml", changes))
    # Masters, gradients and moments alone: 16 bytes of 32.6 billion over two.
    assert plan.training.total > 16 * 32.5e9 / 2
    assert len(plan.refusals) == 2
    assert "training needs" in plan.refusals[0]
    assert "take more GPUs" in plan.refusals[0]
    # 60.7 GiB of weights in 0.8 x 79, less 3 in reserve.
    assert "no room for one sequence of 18432 tokens" in plan.refusals[1]
    assert plan.steps == {}
    console = Console(width=120, record=True, file=StringIO())
    show_plan(plan, console)
    said = console.export_text()
    assert "does not fit" in said
    assert "32,581,097,472 parameters" in said


def test_a_plan_is_shown_with_its_hosts_and_its_sources() -> None:
    console = Console(width=120, record=True, file=StringIO())
    show_plan(plan_recipe(read_recipe(RECIPES / "qwen2.5-7b.toml")), console)
    said = console.export_text()
    for expected in ("7,615,616,512 parameters", "each as it ends", "assumed lengths", "fits"):
        assert expected in said
    assert "does not fit" not in said


def test_an_unsharded_run_holds_all_of_its_state_on_every_gpu() -> None:
    changes = ['parallelism.kind="none"', "parallelism.processes=4"]
    recipe = read_recipe(RECIPES / "qwen2.5-7b.toml", changes)
    plan = plan_recipe(recipe)
    assert (plan.shape.training_gpus, plan.shape.replicas) == (1, 4)
    assert plan.training.moments == 8 * plan.architecture.parameters
    assert plan.refusals


def test_an_engine_on_the_training_gpus_shares_their_memory() -> None:
    changes = ['rollouts.kind="vllm-colocate"', 'rollouts.url=""']
    recipe = read_recipe(RECIPES / "qwen2.5-7b.toml", [*changes, "rollouts.memory_fraction=0.9"])
    plan = plan_recipe(recipe)
    assert plan.shape.colocated
    assert plan.shape.engines == 8
    assert any("lower the engine's share" in each for each in plan.refusals)
    fitting = [*changes, "rollouts.memory_fraction=0.5"]
    assert plan_recipe(read_recipe(RECIPES / "qwen2.5-7b.toml", fitting)).refusals == ()


def test_an_unknown_gpu_is_refused_with_the_known_ones() -> None:
    recipe = read_recipe(RECIPES / "qwen2.5-7b.toml", ["plan.gpu=TPU"])
    with pytest.raises(RecipeError, match=r"plan\.gpu: TPU is not known.*H100-80GB"):
        plan_recipe(recipe)


def test_chunks_are_counted_per_process() -> None:
    from cupel_trainer.plan.architecture import read_architecture

    recipe = read_recipe(RECIPES / "qwen2.5-7b.toml", ["rollouts.chunk=32"])
    shape = run_shape(recipe, read_architecture(recipe.model.path))
    assert shape.chunks == 4  # 1024 completions over 8 processes, 32 at one time


def time(verdict: Verdict, *, tests: int, run_s: float, cpu_limit_s: float = 4.0) -> VerdictTime:
    return VerdictTime(
        language=Language.CPP,
        verdict=verdict,
        tests=tests,
        compile_s=0.5,
        cpu_limit_s=cpu_limit_s,
        run_s=run_s,
    )


@pytest.mark.parametrize(
    ("measured", "every_test", "expected"),
    [
        # Half the limit, so half the time: 0.1 s a test; an accepted one runs all ten.
        (time(Verdict.AC, tests=2, run_s=0.4), False, (0.5 + 10 * 0.1 + 10 * 0.002, 10)),
        # A wrong one ends with the test that it ended with.
        (time(Verdict.WA, tests=2, run_s=0.4), False, (0.5 + 2 * 0.1 + 2 * 0.002, 2)),
        (time(Verdict.WA, tests=2, run_s=0.4), True, (0.5 + 10 * 0.1 + 10 * 0.002, 10)),
        # Too slow: killed at 1.1 x 2 s; its passing test took 4.6 - 4.4 s, here half of that.
        (time(Verdict.TLE, tests=2, run_s=4.6), False, (0.5 + 2.2 + 0.1 + 2 * 0.002, 2)),
        (time(Verdict.TLE, tests=2, run_s=4.6), True, (0.5 + 5 * 2.2 + 5 * 0.1 + 10 * 0.002, 10)),
        (time(Verdict.CE, tests=0, run_s=0.0), True, (0.5, 0)),
    ],
)
def test_measured_times_carry_over_to_other_suites_by_hand(
    measured: VerdictTime, every_test: bool, expected: tuple[float, int]
) -> None:
    seconds, tests = judging_s(measured, Suite(10, cpu_limit_s=2.0, every_test=every_test))
    assert seconds == pytest.approx(expected[0])
    assert tests == expected[1]


def test_the_default_is_drawn_from_measured_submissions_by_the_mix() -> None:
    assert len(measured_times()) >= 50
    slow = default_workload(1000, Suite(8), mix=Mix(0.0, 0.0), count=2000)
    quick = default_workload(1000, Suite(8), mix=Mix(0.0, 1.0), count=2000)
    whole = [each for each in slow.rollouts if each.tokens < 1000]
    assert min(each.judging_s for each in whole) >= 2.2  # killed at 1.1 of 2 s
    assert quick.mean_judging_s < slow.mean_judging_s
    # The median is a quarter of the longest; what is cut holds no program.
    middle = sorted(each.tokens for each in slow.rollouts)[1000]
    assert middle == pytest.approx(250, rel=0.06)
    assert {each.judging_s for each in slow.rollouts if each.tokens == 1000} == {0.0}
    assert default_workload(1000, Suite(8), count=50) == default_workload(1000, Suite(8), count=50)


def test_files_of_verdicts_are_replayed(tmp_path: Path) -> None:
    # Largest test 1.5 s at headroom 0.75: a limit of 2 s. Two tests of 0.5 s, four of 1.5 s.
    sample = JudgedSample(
        problem="p",
        sample=0,
        verdict=Verdict.AC,
        failure_class=FailureClass.NONE,
        complete=True,
        language=Language.PYTHON,
        tiers=(
            TierResult(tests=2, passed=2, headroom=0.25),
            TierResult(tests=4, passed=4, headroom=0.75),
        ),
        cpu_s=1.5,
        completion_tokens=321,
    )
    unjudged = sample.model_copy(update={"sample": 1, "tiers": (), "cpu_s": 0.0})
    lines = [header("a"), sample, unjudged]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f"{line.model_dump_json()}\n" for line in lines))
    workload = replayed_workload([path])
    first, second = workload.rollouts
    assert (first.tokens, first.tests) == (321, 6)
    assert first.judging_s == pytest.approx(2 * 0.5 + 4 * 1.5 + 6 * 0.002)
    assert (second.judging_s, second.tests) == (0.0, 0)
    assert "a.jsonl (2 samples)" in workload.source


def test_nothing_to_replay_is_refused(tmp_path: Path) -> None:
    path = write_verdicts(tmp_path / "a.jsonl", {}, header("a"))
    with pytest.raises(RecordsError, match="no judged sample"):
        replayed_workload([path])


def test_the_command_shows_the_plan_and_says_by_its_exit_whether_it_fits() -> None:
    app = typer.Typer()
    app.command()(train)
    file = str(RECIPES / "qwen2.5-7b.toml")
    fits = CliRunner().invoke(app, [file, "--plan"])
    assert fits.exit_code == 0, fits.output
    assert "7,615,616,512 parameters" in fits.stdout
    small = CliRunner().invoke(app, [file, "--plan", "--set", "plan.gpu=A100-80GB"])
    assert small.exit_code == 0, small.output
    refused = CliRunner().invoke(app, [file, "--plan", "--set", "parallelism.micro_batch=16"])
    assert refused.exit_code == 1
    assert "does not fit: training needs" in refused.stdout
    unknown = CliRunner().invoke(app, [file, "--plan", "--set", "model.path=some/other"])
    assert unknown.exit_code == 2
    assert "some/other: its shape is not known here" in unknown.output
