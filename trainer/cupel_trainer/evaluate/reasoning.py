"""The setting `reasoning`: one completion per sample, with the program in its last fenced block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from cupel_trainer.evaluate.engine import Completion, Engine, Request
from cupel_trainer.evaluate.records import Sample, Sampling
from cupel_trainer.evaluate.sampling import Task


class Reasoning:
    """Answers a problem by a single completion.

    Args:
        engine: What writes it.
        prompts: The prompt of each problem, by its id.
        sampling: How completions are drawn.
    """

    def __init__(self, engine: Engine, prompts: Mapping[str, str], sampling: Sampling) -> None:
        self._engine = engine
        self._prompts = prompts
        self._sampling = sampling

    @property
    def together(self) -> int:
        """As the engine says."""
        return self._engine.together

    def answer(self, tasks: Sequence[Task]) -> Iterator[Sequence[Sample]]:
        """Answers tasks; see `Policy`."""
        requests = [Request.of_prompt(self._prompts[task.problem], task.seed) for task in tasks]
        for completions in self._engine.draw(requests, self._sampling):
            yield [_sample(tasks[each.index], each) for each in completions]


def _sample(task: Task, completion: Completion) -> Sample:
    return Sample(
        problem=task.problem,
        sample=task.sample,
        completion=completion.text,
        seed=task.seed,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        finish_reason=completion.finish_reason,
    )
