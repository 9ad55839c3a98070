"""Recipes: defaults, errors that name the field, single changes, coverage."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupel_trainer.errors import RecipeError, TrainingError
from cupel_trainer.train.coverage import Coverage, level_of
from cupel_trainer.train.launch import accelerate_config, launch_command, needs_launch
from cupel_trainer.train.recipe import Recipe
from cupel_trainer.train.recipe_file import explain, make_recipe, read_recipe

LEAST = {"model": {"path": "base"}, "problems": {"set": "service"}}


def test_two_fields_are_enough_and_json_brings_all_of_it_back() -> None:
    recipe = make_recipe(LEAST)
    assert recipe.completions_per_step == 64 * 8
    assert recipe.chunk == 128
    assert recipe.coverage.at(0) == 1.0
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize(
    ("section", "values", "said"),
    [
        ("sampling", {"groupsize": 3}, "sampling.groupsize: Extra inputs"),
        ("sampling", {"group_size": 1}, "sampling.group_size: Input should be greater"),
        ("coverage", {"level": 1, "fraction": 0.5}, "coverage: give exactly one of"),
        ("coverage", {"schedule": [[1, 1]]}, "begin with 0 and rise"),
        ("coverage", {"schedule": [[0, 1], [0, 2]]}, "begin with 0 and rise"),
        ("rollouts", {"kind": "vllm-server"}, "needs it"),
        ("parallelism", {"processes": 3}, "parallelism.processes: 3 processes cannot share"),
        ("parallelism", {"micro_batch": 100}, "parallelism.micro_batch: must divide the 512"),
        ("reward", {"kind": "tier_weights"}, "reward.weights: tier_weights needs"),
        ("fixing", {"enabled": True}, None),
        ("reward", {"extra": {"full": {}}}, "the name full is Cupel's own"),
        ("optimiser", {"betas": [0.9, 1.0]}, "optimiser.betas: both must be"),
        ("model", {"path": "base", "random_seed": 1}, None),
    ],
)
def test_an_error_names_its_field(section: str, values: dict[str, object], said: str) -> None:
    fields = LEAST | {section: values}
    if said is None:
        make_recipe(fields)
        if section == "fixing":
            with pytest.raises(RecipeError, match="two prompts per process"):
                make_recipe(fields | {"optimiser": {"prompts_per_step": 1}})
            return
        with pytest.raises(RecipeError, match=r"optimiser\.kl_beta"):
            make_recipe(fields | {"optimiser": {"kl_beta": 0.1}})
        return
    with pytest.raises(RecipeError) as caught:
        make_recipe(fields)
    assert said in str(caught.value)


def test_a_file_is_read_with_changes_and_paths_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    file = tmp_path / "recipe.toml"
    file.write_text('[model]\npath = "base"\n[problems]\nset = "set.jsonl"\n')
    recipe = read_recipe(
        file, ["coverage.schedule=[[0, 1], [9, 0.5]]", "rollouts.kind=transformers", "seed = 7"]
    )
    assert recipe.model.path == str(tmp_path / "base")
    assert recipe.problems.set == str(tmp_path / "set.jsonl")
    assert recipe.seed == 7
    assert [recipe.coverage.level_of(step, 4) for step in (0, 8, 9, 99)] == [1, 1, 2, 2]
    with pytest.raises(RecipeError, match="write it as"):
        read_recipe(file, ["seed"])
    with pytest.raises(RecipeError, match="seed is not a table"):
        read_recipe(file, ["seed=1", "seed.deep=1"])
    file.write_text("[model")
    with pytest.raises(RecipeError, match="not valid TOML"):
        read_recipe(file)
    with pytest.raises(RecipeError, match="No such file"):
        read_recipe(tmp_path / "none.toml")


def test_a_name_on_a_hub_stays_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text('[model]\npath = "Org/Name"\n[problems]\nset = "service:a"\n')
    recipe = read_recipe(file)
    assert (recipe.model.path, recipe.problems.set) == ("Org/Name", "service:a")


def test_every_field_has_a_reason() -> None:
    fields = list(explain())
    assert [each.name for each in fields if not each.reason] == []
    assert len({each.name for each in fields}) == len(fields) > 60
    defaults = {each.name: each.default for each in fields}
    assert defaults["model.path"] == "required"
    assert defaults["coverage"] == "{fraction = 1.0}"
    assert defaults["sampling.group_size"] == "8"


def test_fractions_of_tiers_are_rounded_up() -> None:
    assert [level_of(0.5, tiers) for tiers in (1, 2, 3, 4)] == [1, 1, 2, 2]
    assert level_of(0.2, 5) == 1  # 0.2 * 5 is more than 1 in binary
    assert level_of(0.6, 5) == 3
    assert level_of(9, 4) == 4


@given(st.floats(0.001, 1), st.integers(1, 100))
def test_a_fraction_is_a_level_of_the_problem(fraction: float, tiers: int) -> None:
    assert 1 <= level_of(fraction, tiers) <= tiers


def test_integers_of_a_schedule_are_levels_and_floats_are_fractions() -> None:
    coverage = Coverage(schedule=((0, 1), (10, 1.0)))
    assert coverage.level_of(9, 4) == 1
    assert coverage.level_of(10, 4) == 4


def test_parallelism_becomes_a_configuration_of_accelerate() -> None:
    fsdp = make_recipe(LEAST | {"parallelism": {"kind": "fsdp", "processes": 8}})
    config = accelerate_config(fsdp)
    assert (config["distributed_type"], config["num_processes"]) == ("FSDP", 8)
    assert config["mixed_precision"] == "bf16"
    assert config["fsdp_config"]["fsdp_state_dict_type"] == "FULL_STATE_DICT"
    zero = make_recipe(LEAST | {"parallelism": {"kind": "deepspeed", "zero_stage": 2}})
    assert accelerate_config(zero)["deepspeed_config"]["zero_stage"] == 2


def test_processes_are_started_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "CUPEL_TRAIN_LAUNCHED"):
        monkeypatch.delenv(name, raising=False)
    two = make_recipe(LEAST | {"parallelism": {"processes": 2}})
    assert not needs_launch(make_recipe(LEAST))
    assert needs_launch(two)
    command = launch_command(two, tmp_path, ["train", "recipe.toml"])
    assert command[-4:] == ["--module", "cupel.cli", "train", "recipe.toml"]
    assert (tmp_path / "accelerate.json").exists()
    monkeypatch.setenv("CUPEL_TRAIN_LAUNCHED", "1")
    with pytest.raises(TrainingError, match="did not say which of how many"):
        needs_launch(two)
    monkeypatch.setenv("RANK", "1")
    assert not needs_launch(two)
