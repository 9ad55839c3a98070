"""From a recipe to what a plan counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from cupel.schema import RewardKind
from cupel_trainer.errors import RecipeError
from cupel_trainer.evaluate.records import Setting
from cupel_trainer.plan.architecture import Architecture, read_architecture
from cupel_trainer.plan.hardware import GPUS
from cupel_trainer.plan.memory import COMPUTE_BYTES, SERVING_RESERVE_BYTES
from cupel_trainer.plan.run_plan import RunPlan, RunShape, plan_run
from cupel_trainer.plan.simulation import Overlap
from cupel_trainer.plan.workload import (
    Mix,
    Suite,
    Workload,
    default_workload,
    replayed_workload,
)
from cupel_trainer.train.recipe import ParallelKind, Recipe, RolloutKind

STATE_BYTES = 16
"""Per parameter: float32 master and gradient, Adam's two moments."""


def plan_recipe(recipe: Recipe, verdicts: Sequence[Path] = ()) -> RunPlan:
    """Plans a recipe's run; nothing is fetched, no weight is read.

    Args:
        recipe: The recipe.
        verdicts: Files of verdicts to replay; without any, the default distributions.

    Raises:
        CheckpointError: The model's shape is not known here.
        RecipeError: The recipe names a kind of GPU that is not known.
        RecordsError: A file of verdicts cannot be read.
    """
    architecture = read_architecture(recipe.model.path)
    shape = run_shape(recipe, architecture)
    return plan_run(architecture, shape, recipe_workload(recipe, verdicts))


def run_shape(recipe: Recipe, architecture: Architecture) -> RunShape:
    """A recipe's run as far as its cost goes.

    Args:
        recipe: The recipe.
        architecture: Its model.

    Raises:
        RecipeError: It names a kind of GPU that is not known.
    """
    assumed = recipe.plan
    if assumed.gpu not in GPUS:
        raise RecipeError(f"plan.gpu: {assumed.gpu} is not known; take one of {', '.join(GPUS)}")
    processes = recipe.parallelism.processes
    server = recipe.rollouts.kind is RolloutKind.VLLM_SERVER
    per_engine = assumed.engine_gpus if server else _engine_gpus(recipe)
    own = recipe.completions_per_step // processes
    return RunShape(
        gpu=GPUS[assumed.gpu],
        training_gpus=processes if _is_sharded(recipe) else 1,
        replicas=1 if _is_sharded(recipe) else processes,
        engines=assumed.engines if server else max(1, processes // per_engine),
        gpus_per_engine=per_engine,
        engine_share=assumed.engine_memory_fraction if server else _share(recipe, architecture),
        colocated=not server,
        engine_sequences=assumed.engine_sequences,
        completions=recipe.completions_per_step,
        group=recipe.sampling.group_size,
        # A server takes every answer by itself; other engines draw a chunk and return.
        overlap=Overlap.STREAM if server else Overlap.CHUNKS,
        chunks=math.ceil(own / recipe.chunk),
        micro_batch=recipe.micro_batch,
        checkpointing=recipe.parallelism.gradient_checkpointing,
        # vLLM's log-probabilities are corrected by the trainer's own: one more pass.
        forwards=int(recipe.rollouts.kind is not RolloutKind.TRANSFORMERS)
        + int(recipe.optimiser.kl_beta > 0),
        prompt_tokens_max=assumed.prompt_tokens_max,
        prompt_tokens=assumed.prompt_tokens,
        completion_tokens_max=_answer_tokens(recipe),
        steps=recipe.optimiser.steps,
        checkpoints_kept=recipe.checkpoints.keep,
        slots_per_host=assumed.slots_per_host,
        merge_alphas=assumed.merge_alphas,
    )


def rewarded_suite(recipe: Recipe) -> Suite:
    """The tests that the recipe's coverage lets run, at its first step."""
    assumed = recipe.plan
    level = assumed.tiers
    if not recipe.reward.full_coverage:
        level = recipe.coverage.level_of(0, assumed.tiers)
    every = recipe.reward.every_failure or recipe.reward.kind is not RewardKind.ALL_OR_NOTHING
    tests = max(1, math.ceil(assumed.tests * level / assumed.tiers))
    return Suite(tests, assumed.cpu_limit_s, every)


def recipe_workload(recipe: Recipe, verdicts: Sequence[Path] = ()) -> Workload:
    """What the recipe's answers are taken to be like.

    Args:
        recipe: The recipe.
        verdicts: Files of verdicts to replay; without any, the default distributions.

    Raises:
        RecordsError: A file of verdicts cannot be read.
    """
    if verdicts:
        return replayed_workload(verdicts)
    return default_workload(
        _answer_tokens(recipe),
        rewarded_suite(recipe),
        language=recipe.language,
        mix=Mix(recipe.plan.accepted, recipe.plan.wrong),
    )


def _answer_tokens(recipe: Recipe) -> int:
    if recipe.setting.kind is Setting.REASONING:
        tokens = recipe.sampling.max_tokens
    else:
        tokens = recipe.setting.budget.tokens
    if recipe.sampling.max_context_tokens is not None:
        tokens = min(tokens, recipe.sampling.max_context_tokens - recipe.plan.prompt_tokens)
    return max(1, tokens)


def _is_sharded(recipe: Recipe) -> bool:
    parallelism = recipe.parallelism
    return parallelism.kind is ParallelKind.FSDP or (
        parallelism.kind is ParallelKind.DEEPSPEED and parallelism.zero_stage == 3
    )


def _engine_gpus(recipe: Recipe) -> int:
    colocated = recipe.rollouts.kind is RolloutKind.VLLM_COLOCATE
    return recipe.rollouts.tensor_parallel if colocated else 1


def _share(recipe: Recipe, architecture: Architecture) -> float:
    """Of a GPU's memory for drawing, where it is the GPU that trains."""
    if recipe.rollouts.kind is RolloutKind.VLLM_COLOCATE:
        return recipe.rollouts.memory_fraction
    # transformers draws with what training leaves; its weights are the masters themselves.
    gpus = recipe.parallelism.processes if _is_sharded(recipe) else 1
    room = GPUS[recipe.plan.gpu].memory_bytes
    left = room - STATE_BYTES * architecture.parameters / gpus
    needed = COMPUTE_BYTES * architecture.parameters + SERVING_RESERVE_BYTES
    return max(0.0, min(0.9, max(left, needed) / room))
