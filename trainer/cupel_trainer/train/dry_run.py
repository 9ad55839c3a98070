"""A run without training: everything that can be checked beforehand, and the plan of its steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cupel_trainer.episodes.message import user
from cupel_trainer.episodes.tokens import TurnTemplate
from cupel_trainer.errors import EngineError, TrainingError
from cupel_trainer.train.coverage import level_of
from cupel_trainer.train.desk import Desk
from cupel_trainer.train.order import order_digest
from cupel_trainer.train.policy import context_tokens, load_tokenizer
from cupel_trainer.train.recipe import Recipe
from cupel_trainer.train.run import Course, plan_course, service

_SHOWN = 5


def plan_lines(recipe: Recipe, url: str | None = None) -> Iterator[str]:
    """Checks problems, prompts, tokenizer and service, and tells what training would do.

    Args:
        recipe: The run.
        url: The service, in place of the recipe's.

    Yields:
        Lines for people.

    Raises:
        TrainerError: Something is not what it must be.
        CupelError: The service refuses.
    """
    from pathlib import Path

    impatient = recipe.service.model_copy(update={"patience_s": 5.0})
    recipe = recipe.model_copy(update={"service": impatient})
    with service(recipe, url) as (where, api_key):
        course = plan_course(recipe, where)
        yield f"problems: {len(course.entries)} of {recipe.problems.set}"
        yield from _prompt_lines(recipe, course)
        with Desk(recipe, course.entries, where, Path("dry-run"), api_key) as desk:
            info = desk.info()
            yield (
                f"service: version {info.version}, {info.slots} slots, boxes {info.box}"
                + (f", isolation given up: {', '.join(info.degraded)}" if info.degraded else "")
            )
            first = course.order[0][0]
            target, _, level = desk.call(desk.specs(first, 0)).result()
            yield f"problem {first!r}: {target.tiers} tiers, {level} of them count at first"
    yield from _step_lines(recipe, course)


def _prompt_lines(recipe: Recipe, course: Course) -> Iterator[str]:
    from transformers import AutoConfig

    tokenizer = load_tokenizer(recipe)
    try:
        config: Any = AutoConfig.from_pretrained(
            recipe.model.path, trust_remote_code=recipe.model.trust_remote_code
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise EngineError(f"{recipe.model.path} has no config: {error}") from error
    template = TurnTemplate(tokenizer, chat=recipe.model.chat)
    lengths = {
        problem: len(template.prompt_ids((user(prompt),)))
        for problem, prompt in course.prompts.items()
    }
    longest = max(lengths, key=lambda problem: lengths[problem])
    room = context_tokens(recipe, config) - recipe.sampling.max_tokens
    if lengths[longest] > room:
        raise TrainingError(
            f"the prompt of problem {longest!r} has {lengths[longest]} tokens, and there is room "
            f"for {room} beside sampling.max_tokens = {recipe.sampling.max_tokens}: leave the "
            "problem out, or lower max_tokens"
        )
    asked = "by the chat template" if template.chat else "as plain text"
    yield f"prompts: {asked}, at most {lengths[longest]} tokens ({longest})"


def _step_lines(recipe: Recipe, course: Course) -> Iterator[str]:
    optimiser, own = recipe.optimiser, recipe.completions_per_step // recipe.parallelism.processes
    yield (
        f"steps: {optimiser.steps} of {optimiser.prompts_per_step} prompts x "
        f"{recipe.sampling.group_size} completions; per process {own} completions, drawn in chunks "
        f"of {recipe.chunk}, {own // recipe.micro_batch} x {recipe.micro_batch} in the update"
    )
    before: str = ""
    for step in range(optimiser.steps):
        amount = recipe.coverage.at(step)
        if repr(amount) != before:  # 1 is a level, 1.0 all tiers
            of_four = level_of(amount, 4)
            kind = f"tiers 1..{amount}" if isinstance(amount, int) else f"{amount:g} of the tiers"
            yield f"coverage from step {step + 1} on: {kind} (1..{of_four} of a problem with 4)"
            before = repr(amount)
    yield (
        f"checkpoints: every {recipe.checkpoints.every_steps} steps, the newest "
        f"{recipe.checkpoints.keep} stay"
    )
    yield f"order of problems: SHA-256 {order_digest(course.order)}"
    for step, problems in enumerate(course.order[:_SHOWN], start=1):
        shown = ", ".join(problems[:_SHOWN]) + (", ..." if len(problems) > _SHOWN else "")
        yield f"  step {step}: {shown}"
