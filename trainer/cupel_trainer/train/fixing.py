"""Online fixing: a failed sample becomes a prompt of the next step.

After the appendix of arXiv 2605.28751 as reported: a failed sample gives a second prompt that holds
the failed program and aggregate statistics of its tests, trained beside the first. TRL's batch has
a fixed size, so the second prompts take a share of the next step's places: of each process, the
last ones. Failures of several problems are taken before two of one, in the order of the batch: that
is deterministic, and the pending ones are part of a checkpoint. A place that is not needed keeps
its problem. A fixing prompt's own failures are not fixed again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cupel.schema import FailureClass
from cupel_trainer.episodes.prompt import (
    FIXING,
    Failed,
    failed_of,
    read_template,
    render_fixing,
)
from cupel_trainer.evaluate.problem_set import ProblemEntry
from cupel_trainer.train.judged import Judged
from cupel_trainer.train.recipe import Recipe
from cupel_trainer.train.rollout import Rolled, Slot


@dataclass(frozen=True, slots=True)
class Pending:
    """A prompt for the next step."""

    problem: str
    prompt: str


class Fixer:
    """Keeps failures of one step for the next; without fixing it does nothing.

    Args:
        recipe: Whether and how much.
        entries: The problems, by their ids.
    """

    def __init__(self, recipe: Recipe, entries: Mapping[str, ProblemEntry]) -> None:
        self._recipe = recipe
        self._entries = entries
        self._template = read_template(FIXING) if recipe.fixing.enabled else None
        self._pending: tuple[Pending, ...] = ()
        self._fixing: frozenset[str] = frozenset()
        """Prompts of the running step that are second attempts."""

    @property
    def places(self) -> int:
        """Prompts of a step, over all processes, that may be replaced."""
        recipe = self._recipe
        if not recipe.fixing.enabled:
            return 0
        processes = recipe.parallelism.processes
        own = recipe.optimiser.prompts_per_step // processes
        return processes * min(own - 1, max(1, round(own * recipe.fixing.share)))

    def replace(
        self, slots: Sequence[Slot], process: int, processes: int
    ) -> tuple[list[Slot], int]:
        """Puts second attempts into the last groups of this process.

        Returns:
            The slots, and how many prompts were replaced over all processes.
        """
        size = self._recipe.sampling.group_size
        mine = self._pending[process::processes]
        replaced = list(slots)
        for number, pending in enumerate(mine, start=1):
            start = len(replaced) - number * size
            replaced[start : start + size] = [Slot(pending.problem, pending.prompt)] * size
        self._fixing = frozenset(pending.prompt for pending in self._pending)
        return replaced, len(self._pending)

    def take(
        self,
        rolled: Sequence[Rolled],
        judged: Sequence[Judged],
        gather: Callable[[list[object]], list[object]],
    ) -> None:
        """Takes a step's failures; every process calls it, and all keep the same."""
        if self._template is None:
            return
        own: list[object] = [
            (each.slot.problem, each.completion, verdict.judgement.model_dump_json())
            for each, verdict in zip(rolled, judged, strict=True)
            if verdict.judgement is not None
            and verdict.failure in (FailureClass.CORRECTNESS, FailureClass.OPTIMIZATION)
            and each.slot.prompt not in self._fixing
            and each.completion.strip()
        ]
        found: list[Any] = gather(own)  # Any: `gather` takes all kinds of things
        self._pending = tuple(
            Pending(problem, self._prompt(problem, completion, judgement))
            for problem, completion, judgement in _spread(found)[: self.places]
        )

    def state(self) -> list[list[str]]:
        """What a checkpoint must hold."""
        return [[each.problem, each.prompt] for each in self._pending]

    def restore(self, state: Any) -> None:  # Any: it was JSON
        """Goes on from a checkpoint."""
        self._pending = tuple(Pending(problem, prompt) for problem, prompt in state)

    def _prompt(self, problem: str, completion: str, judgement: str) -> str:
        from cupel.schema import Judgement

        if self._template is None:
            raise AssertionError("fixing is off")
        failed: Failed = failed_of(program_in(completion), Judgement.model_validate_json(judgement))
        return render_fixing(
            self._template, self._entries[problem].view, failed, self._recipe.language
        )


def program_in(completion: str) -> str:
    """The program that a completion's last fenced block holds, or else all of it."""
    from cupel_trainer.episodes.fences import find_blocks

    blocks = find_blocks(completion, ())
    return blocks[-1].text if blocks else completion


def _spread(found: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """The first failure of each problem, then the second of each, ..."""
    seen: dict[str, int] = {}
    ranked = []
    for place, each in enumerate(found):
        rank = seen.get(each[0], 0)
        seen[each[0]] = rank + 1
        ranked.append((rank, place, each))
    return [each for _, _, each in sorted(ranked, key=lambda entry: entry[:2])]
