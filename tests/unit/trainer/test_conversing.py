from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fake_boxes_client import FakeClient
from scripted_engine import Script, ScriptedEngine

from cupel.errors import CupelError, ServiceUnavailable, SessionEnded, Unauthorized
from cupel_trainer.episodes.budget import Budget
from cupel_trainer.episodes.environment import Environment
from cupel_trainer.episodes.episode import Answer, Episode, Masked, Observation
from cupel_trainer.episodes.loop_thread import LoopThread
from cupel_trainer.episodes.message import Messages
from cupel_trainer.errors import EpisodeError
from cupel_trainer.evaluate.conversing import Conversing, turn_seed
from cupel_trainer.evaluate.record_file import read_lines
from cupel_trainer.evaluate.records import (
    CheckpointRef,
    Sample,
    SamplesHeader,
    Sampling,
    Setting,
)
from cupel_trainer.evaluate.sampling import Policy, Task, draw_samples, sample_seed

PROBLEMS = ["p0", "p1", "p2"]
HEADER = SamplesHeader(checkpoint=CheckpointRef(name="scripted"), setting=Setting.TOOLS)


def script(messages: Messages, seed: int) -> str:
    """Runs as many programs as its first seed says and one, then answers by what they printed."""
    if len(messages) == 1:
        return f"```run\nprint({seed % 3})\n```"
    left = int(messages[2].content.split()[5])
    if len(messages) < 3 + 2 * left:
        return f"```run\nprint({seed})\n```"
    return f"answer {seed} after {messages[-1].content.split()[5]}"


class World:
    """Episodes on made-up boxes; keeps them, and can be made to fail."""

    def __init__(self, setting: Setting = Setting.TOOLS) -> None:
        self.episodes: list[Episode] = []
        self.failing: dict[str, CupelError] = {}
        self.most_at_once = 0
        self.before_play: Callable[[], None] = lambda: None
        self._setting = setting
        self._client = FakeClient()
        self._environment = Environment(self._client)

    async def begin(self, problem: str) -> Episode:
        episode = Episode(problem, self._setting, Budget(turns=6), problem=problem)
        self.episodes.append(episode)
        open_now = sum(each.result is None for each in self.episodes)
        self.most_at_once = max(self.most_at_once, open_now)
        return episode

    async def play(
        self, episode: Episode, text: str, *, tokens: int, cut: bool
    ) -> Observation | Answer | Masked:
        await asyncio.sleep(len(self.episodes) % 3 / 500)  # boxes take their time, each its own
        self.before_play()
        self._client.fail = self.failing.get(str(episode.problem))
        return await self._environment.play(episode, text, tokens=tokens, cut=cut)

    async def close(self, episode: Episode) -> None:
        await self._environment.close(episode)


@contextmanager
def conversing(engine: ScriptedEngine, world: World, *, episodes: int = 64) -> Iterator[Conversing]:
    with LoopThread() as loop:
        yield Conversing(engine, loop, world, Sampling(), episodes=episodes)


def tasks(count: int) -> list[Task]:
    return [
        Task(problem, number, sample_seed(0, problem, number))
        for problem in PROBLEMS
        for number in range(count)
    ]


def samples_of(
    how: Script, together: int, *, episodes: int = 64, count: int = 5
) -> dict[tuple[str, int], Sample]:
    engine, world = ScriptedEngine(how, together), World()
    with conversing(engine, world, episodes=episodes) as policy:
        drawn = [each for some in policy.answer(tasks(count)) for each in some]
    assert len(drawn) == len({(each.problem, each.sample) for each in drawn}) == 3 * count
    return {(each.problem, each.sample): each for each in drawn}


def test_every_task_gets_the_sample_of_its_episode() -> None:
    drawn = samples_of(script, 1)
    for task in tasks(5):
        sample = drawn[task.problem, task.sample]
        calls = 1 + task.seed % 3
        assert sample.turns == calls + 1
        assert sample.completion.startswith(f"answer {turn_seed(task.seed, calls)} after ")
        assert (sample.seed, sample.finish_reason) == (task.seed, "answer")
        assert sample.prompt_tokens == 2
        assert sample.completion_tokens > len(sample.completion)


def test_samples_do_not_depend_on_what_is_under_way_beside_them() -> None:
    expected = samples_of(script, 1)
    assert samples_of(script, 1, episodes=1) == expected
    assert samples_of(script, 4) == expected
    assert samples_of(script, 4, episodes=1) == expected


def test_groups_are_computed_as_they_were_given() -> None:
    for _ in range(3):
        engine, world = ScriptedEngine(script, 4), World()
        with conversing(engine, world) as policy:
            for _some in policy.answer(tasks(4)):
                pass
        for asked in engine.asked:
            assert len(asked) <= 4
            assert len({each.messages[0].content for each in asked}) == 1
            assert len({len(each.messages) for each in asked}) == 1


def test_so_many_episodes_are_under_way_at_most() -> None:
    engine, world = ScriptedEngine(script), World()
    with conversing(engine, world, episodes=3) as policy:
        drawn = [each for some in policy.answer(tasks(5)) for each in some]
    assert len(drawn) == 15
    assert world.most_at_once <= 3
    assert engine.most_at_once <= 3


def test_an_engine_that_takes_turns_as_they_come_is_asked_once_and_kept_full() -> None:
    engine, world = ScriptedEngine(script, at_once=6), World()
    with conversing(engine, world) as policy:
        drawn = [each for some in policy.answer(tasks(10)) for each in some]
    assert len(drawn) == 30
    (asked,) = engine.asked
    assert len(asked) == sum(each.turns for each in drawn)
    assert engine.most_at_once == 6


def test_a_conversation_that_outgrows_the_model_ends() -> None:
    def endless(messages: Messages, seed: int) -> str:
        return "context" if len(messages) > 3 else script(messages[:1], seed)

    drawn = samples_of(endless, 1)
    assert {(each.finish_reason, each.completion) for each in drawn.values()} == {("context", "")}
    assert {each.turns for each in drawn.values()} == {2}


def test_a_fault_of_the_service_leaves_a_sample_out(caplog: pytest.LogCaptureFixture) -> None:
    engine, world = ScriptedEngine(script), World()
    world.failing["p1"] = SessionEnded("the service was restarted", by_host=True)
    with caplog.at_level(logging.WARNING), conversing(engine, world) as policy:
        drawn = [each for some in policy.answer(tasks(2)) for each in some]
    assert {each.problem for each in drawn} == {"p0", "p2"}
    assert "sample 0 of problem 'p1' is left out" in caplog.text


@pytest.mark.parametrize("together", [1, 4])
def test_what_others_finished_is_kept_when_a_run_ends_early(together: int) -> None:
    def one_is_slow(messages: Messages, seed: int) -> str:
        return run_one if messages[0].content == "p1" or len(messages) == 1 else "answer"

    run_one = "```run\nprint(1)\n```"
    engine, world = ScriptedEngine(one_is_slow, together, at_once=100), World()

    def away_later() -> None:
        if sum(each.result is not None for each in world.episodes) == 8:
            world.failing["p1"] = ServiceUnavailable("it is away")

    world.before_play = away_later
    drawn: list[Sample] = []
    with conversing(engine, world) as policy, pytest.raises(EpisodeError):
        drawn.extend(each for some in policy.answer(tasks(4)) for each in some)
    assert len(drawn) == 8


def test_a_service_that_is_away_ends_the_run() -> None:
    for error, raised in (
        (ServiceUnavailable("it is away"), EpisodeError),
        (Unauthorized("no key"), Unauthorized),
    ):
        engine, world = ScriptedEngine(script), World()
        world.failing["p1"] = error
        with conversing(engine, world) as policy, pytest.raises(raised, match=r"away|no key"):
            for _some in policy.answer(tasks(2)):
                pass


@pytest.mark.parametrize("together", [1, 4])
def test_a_run_that_was_stopped_goes_on(tmp_path: Path, together: int) -> None:
    @contextmanager
    def policy() -> Iterator[Policy]:
        with conversing(ScriptedEngine(script, together), World(), episodes=8) as made:
            yield made

    whole, stopped = tmp_path / "whole.jsonl", tmp_path / "stopped.jsonl"
    for out in (whole, stopped):
        done = draw_samples(out, HEADER, PROBLEMS, 6, policy, lambda _: None)
        assert (done.held, done.wanted) == (18, 18)
    lines = stopped.read_bytes().splitlines(keepends=True)
    stopped.write_bytes(b"".join(lines[:8]) + lines[8][:20])  # killed while it wrote a line
    draw_samples(stopped, HEADER, PROBLEMS, 6, policy, lambda _: None)

    def key(sample: Sample) -> tuple[str, int]:
        return sample.problem, sample.sample

    held = [
        sorted((line.record for line in read_lines(out, Sample)), key=key)
        for out in (whole, stopped)
    ]
    assert held[0] == held[1]


def test_each_turn_has_a_seed_of_its_own() -> None:
    seeds = {turn_seed(seed, turn) for seed in range(50) for turn in range(20)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert turn_seed(7, 0) == 7
    assert turn_seed(7, 3) == turn_seed(7, 3)
