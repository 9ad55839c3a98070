"""Rollouts: chunks, verdicts that come while the next chunk is drawn, order of problems, seeds."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import wait
from pathlib import Path

import pytest
from fake_judge import fake_judge
from tiny_policy import PROGRAMS, WORDS, tiny_recipe

from cupel_trainer.errors import TrainingError
from cupel_trainer.evaluate.problem_set import read_problem_set
from cupel_trainer.train.desk import Desk
from cupel_trainer.train.order import order_digest, problem_order
from cupel_trainer.train.policy import load_tokenizer
from cupel_trainer.train.rollout import Ids, Rolled, Rollout, Sampler, Slot, Turn, draw_seed

END = WORDS.index("<|end|>")


class Scripted:
    """Says its programs in turn; before the second chunk it waits for the first one's verdicts."""

    def __init__(self, programs: Sequence[str]) -> None:
        self.programs = list(programs)
        self.begun: list[Rolled] = []
        self.contexts: list[int] = []
        self.requests: list[object] = []

    def draw(self, contexts: Sequence[Ids]) -> list[Turn]:
        if self.contexts:
            while not self.requests:  # the test's time limit ends it, if judging does not overlap
                wait([], timeout=0.01)
        self.contexts.append(len(contexts))
        said = [self.programs.pop(0) for _ in contexts]
        return [Turn((WORDS.index(each), END), (-0.5, -0.1), ended=True) for each in said]

    def any_active(self, active: bool) -> bool:
        return active

    def alone(self, number: int) -> Sampler | None:
        return None


def test_a_chunk_is_judged_while_the_next_one_is_drawn(stage: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(
        stage,
        sampling={"max_tokens": 2, "group_size": 2},
        optimiser={"prompts_per_step": 3},
        rollouts={"chunk": 4},
    )
    entries = read_problem_set(recipe.problems.set)
    languages = {entry.id: entry.language for entry in entries}
    said = (PROGRAMS[0], PROGRAMS[1], PROGRAMS[1], PROGRAMS[1], PROGRAMS[2], PROGRAMS[0])
    sampler = Scripted(said)
    slots = [Slot(f"say-{number}", "Say") for number in (1, 1, 2, 2, 3, 3)]
    with fake_judge() as judge, Desk(recipe, entries, judge.url, tmp_path, "") as desk:
        sampler.requests = judge.requests
        rollout = Rollout(recipe, desk, load_tokenizer(recipe), languages, 64)
        batch = rollout.draw(slots, sampler, 0)
        rewards = [each.handle.result(30).reward for each in batch.rolled]
        with pytest.raises(TrainingError, match="leave the problem out, or lower max_tokens"):
            rollout.draw([Slot("say-1", "Say " * 63)], sampler, 0)
    assert sampler.contexts == [4, 2]
    assert rewards == [1.0, 0.0, 1.0, 1.0, 1.0, 0.0]
    assert [each.completion for each in batch.rolled] == list(said)
    assert batch.tokens == 12
    track = batch.rolled[0].track
    assert (track.prompt_ids, track.completion_ids) == ((WORDS.index("Say"),), (0, END))
    assert (track.env_mask, track.logprobs) == ((1, 1), (-0.5, -0.1))


def test_the_order_is_that_of_the_seed_and_passes_over_the_set() -> None:
    order = problem_order(["c", "a", "b", "d"], steps=4, per_step=3, seed=0)
    assert [len(step) for step in order] == [3, 3, 3, 3]
    flat = [problem for step in order for problem in step]
    assert [sorted(flat[start : start + 4]) for start in (0, 4, 8)] == [list("abcd")] * 3
    assert problem_order(list("abcd"), steps=4, per_step=3, seed=0) == order
    assert problem_order(list("abcd"), steps=2, per_step=3, seed=0) == order[:2]
    other = problem_order(list("abcd"), steps=4, per_step=3, seed=1)
    assert order_digest(other) != order_digest(order)


def test_every_step_and_process_draws_from_a_seed_of_its_own() -> None:
    seeds = {
        draw_seed(seed, step, rank) for seed in (0, 1) for step in range(50) for rank in (0, 1)
    }
    assert len(seeds) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)
