"""A training run apart from the trainer: what is drawn in a step, its rewards, and its record."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cupel_trainer.evaluate.problem_set import ProblemEntry
from cupel_trainer.train.desk import Desk
from cupel_trainer.train.fixing import Fixer
from cupel_trainer.train.judged import Judged
from cupel_trainer.train.recipe import Recipe
from cupel_trainer.train.rollout import Batch, Handle, Rollout, Sampler, Slot
from cupel_trainer.train.step_record import Scores, StepRecord

POLL_S = 0.5
"""How often somebody who watches is told of a wait."""

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Place:
    """Which process of how many this is."""

    process: int = 0
    processes: int = 1


class Session:
    """What happens in each step, for one process.

    Args:
        recipe: The run.
        entries: Its problems.
        prompts: The prompt of each problem, by its id.
        desk: Judges.
        tokenizer: Of the model, from transformers.
        context_tokens: What the model takes.
        tell: Is told what is being done.
    """

    def __init__(
        self,
        recipe: Recipe,
        entries: Sequence[ProblemEntry],
        prompts: Mapping[str, str],
        desk: Desk,
        tokenizer: Any,  # transformers has no types that mypy --strict can use
        context_tokens: int,
        tell: Tell,
    ) -> None:
        self._recipe = recipe
        self._prompts = prompts
        self._desk = desk
        self._tell = tell
        languages = {entry.id: entry.language or recipe.language for entry in entries}
        self._rollout = Rollout(recipe, desk, tokenizer, languages, context_tokens)
        self._fixer = Fixer(recipe, {entry.id: entry for entry in entries})
        self._began_s = time.monotonic()
        self._batch: Batch | None = None
        self._judged: list[Judged] = []
        self._judge_wait_s = 0.0
        self._fixing_prompts = 0

    def draw(
        self, problems: Sequence[str], sampler: Sampler, step: int, place: Place
    ) -> dict[str, list[object] | None]:
        """Draws a step's completions and has them judged.

        Args:
            problems: The problem of each completion of this process, group by group.
            sampler: Draws turns.
            step: Counted from 0.
            place: Of this process.

        Returns:
            What TRL's `rollout_func` must return; `handle` holds the pending verdicts.
        """
        self._began_s = time.monotonic()
        self._tell("drawing")
        slots = [Slot(problem, self._prompts[problem]) for problem in problems]
        slots, self._fixing_prompts = self._fixer.replace(slots, place.process, place.processes)
        self._batch = batch = self._rollout.draw(slots, sampler, step)
        tracks = [each.track for each in batch.rolled]
        logprobs = [track.logprobs for track in tracks]
        return {
            "prompt_ids": [list(track.prompt_ids) for track in tracks],
            "completion_ids": [list(track.completion_ids) for track in tracks],
            "env_mask": [list(track.env_mask) for track in tracks],
            "logprobs": None
            if any(each is None for each in logprobs)
            else [list(each or ()) for each in logprobs],
            "handle": [each.handle for each in batch.rolled],
        }

    def rewards(
        self, handles: Sequence[Handle], gather: Callable[[list[object]], list[object]]
    ) -> list[float | None]:
        """Waits for the verdicts that are still out.

        Args:
            handles: Of the step's completions.
            gather: Puts together lists of all processes.

        Returns:
            One reward each; None masks a judging error.

        Raises:
            TrainingError: The service was away for too long.
        """
        began_s = time.monotonic()
        self._tell("judging")
        self._judged = [self._wait(each) for each in handles]
        self._judge_wait_s = time.monotonic() - began_s
        self._tell("updating")
        if self._batch is not None:
            self._fixer.take(self._batch.rolled, self._judged, gather)
        return [each.reward for each in self._judged]

    def record(
        self,
        step: int,
        trainer: Mapping[str, float | None],
        gather: Callable[[list[object]], list[object]],
        sync_logprob_error: float | None = None,
    ) -> StepRecord:
        """The record of the step that has just ended; every process asks together.

        Args:
            step: Counted from 1.
            trainer: What the trainer says of it.
            gather: Puts together lists of all processes.
            sync_logprob_error: Of the last hand-over of weights, where it was compared.
        """
        batch = self._batch
        own = (
            Scores.of(self._judged),
            batch.tokens if batch else 0,
            batch.wall_s if batch else 0.0,
            self._judge_wait_s,
        )
        parts: list[Any] = gather([own])  # Any: `gather` takes all kinds of things
        scores = parts[0][0]
        for part in parts[1:]:
            scores = scores + part[0]
        tokens = sum(part[1] for part in parts)
        generation_s = max(part[2] for part in parts)
        judge_wait_s = max(part[3] for part in parts)
        step_s = time.monotonic() - self._began_s
        return StepRecord.model_validate(
            {
                **scores.fields(),
                "step": step,
                "coverage": self._recipe.coverage.at(step - 1),
                "fixing_prompts": self._fixing_prompts,
                "tokens": tokens,
                "generation_s": generation_s,
                "judge_wait_s": judge_wait_s,
                "step_s": step_s,
                "judge_wait_share": judge_wait_s / step_s if step_s else 0.0,
                "tokens_per_s": tokens / generation_s if generation_s else 0.0,
                "sync_logprob_error": sync_logprob_error,
                "trainer": dict(trainer),
            }
        )

    def samples(self, count: int) -> list[dict[str, object]]:
        """The first completions of the step, with their rewards, for people."""
        if self._batch is None:
            return []
        return [
            {
                "problem": rolled.slot.problem,
                "completion": rolled.completion,
                "reward": judged.reward,
                "verdict": judged.judgement.verdict.value if judged.judgement else None,
            }
            for rolled, judged in zip(self._batch.rolled[:count], self._judged[:count], strict=True)
        ]

    def state(self) -> dict[str, object]:
        """What a checkpoint must hold of the session."""
        return {"fixing": self._fixer.state()}

    def restore(self, state: Mapping[str, object]) -> None:
        """Goes on from a checkpoint."""
        self._fixer.restore(state["fixing"])

    def _wait(self, handle: Handle) -> Judged:
        while True:
            try:
                return handle.result(timeout=POLL_S)
            except TimeoutError:
                if handle.done():
                    raise
                away_s = self._desk.away_s
                self._tell(f"service away for {away_s:.0f} s" if away_s else "judging")
