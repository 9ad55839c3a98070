"""Turns from a vLLM server, each episode by itself, over real HTTP; what it is compared by."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from fake_judge import fake_judge
from fake_vllm import FakeVllm, fake_vllm
from tiny_policy import WORDS, tiny_recipe

from cupel_trainer.errors import EngineError
from cupel_trainer.evaluate.problem_set import read_problem_set
from cupel_trainer.train.desk import Desk
from cupel_trainer.train.recipe import Sampling
from cupel_trainer.train.rollout import Rollout, Sampler, Slot, Turn
from cupel_trainer.train.vllm_server import OneEpisode, VllmServer, compare, probe_ids

SAMPLING = Sampling(max_tokens=7, temperature=0.5, top_p=0.9)


@pytest.fixture
def fake() -> Iterator[FakeVllm]:
    with fake_vllm() as running:
        yield running


@pytest.fixture
def server(fake: FakeVllm) -> Iterator[VllmServer]:
    with closing(VllmServer.at(f"{fake.url}/v1", connections=8, timeout_s=60)) as connected:
        yield connected


def test_a_turn_is_asked_for_and_read_as_tokens(fake: FakeVllm, server: VllmServer) -> None:
    fake.tokens, fake.finish_reason = (4, 5), "length"
    assert server.turn((1, 2), SAMPLING, seed=3) == Turn([4, 5], [-0.5, -0.5], ended=False)
    (asked,) = fake.received
    assert asked["prompt"] == [1, 2]
    assert (asked["model"], asked["seed"], asked["max_tokens"]) == ("tiny", 3, 7)
    assert (asked["temperature"], asked["top_p"]) == (0.5, 0.9)
    fake.finish_reason = "stop"
    assert server.turn((1, 2), SAMPLING, seed=3).ended


def test_every_turn_draws_by_its_own_seed_in_its_lowest_bits(
    fake: FakeVllm, server: VllmServer
) -> None:
    # A CPU's generator takes 32 bits: with the same ones a group would hold one answer many times.
    for number in range(8):
        OneEpisode(server, SAMPLING, 11, number).draw([(1, 2), (1, 2, 3)])
    OneEpisode(server, SAMPLING, 12, 0).draw([(1, 2)])
    seeds = [asked["seed"] for asked in fake.received]
    assert len({seed % 2**32 for seed in seeds}) == 17
    OneEpisode(server, SAMPLING, 11, 0).draw([(1, 2)])
    assert fake.received[-1]["seed"] == seeds[0], "a resumed run draws the same"


def test_a_server_that_is_busy_is_asked_again(fake: FakeVllm, server: VllmServer) -> None:
    fake.faults.append(503)
    assert server.turn((1,), SAMPLING, seed=0).ids == [0]
    assert len(fake.received) == 2


@pytest.mark.parametrize(
    ("fault", "said"), [(400, "HTTP 400 not now"), (b'{"choices": [{}]}', "not an answer of vLLM")]
)
def test_a_refusal_is_an_error_and_not_asked_again(
    fake: FakeVllm, server: VllmServer, fault: int | bytes, said: str
) -> None:
    fake.faults.append(fault)
    with pytest.raises(EngineError, match=said):
        server.turn((1,), SAMPLING, seed=0)
    assert len(fake.received) == 1


def test_no_server_is_an_error_that_names_the_url() -> None:
    with pytest.raises(EngineError, match=r"127\.0\.0\.1:9: no vLLM server answers"):
        VllmServer.at("http://127.0.0.1:9", connections=1, timeout_s=5)


def test_log_probabilities_are_those_of_the_sequences_own_tokens(server: VllmServer) -> None:
    assert server.log_probabilities((5, 6, 7)) == [-6.0, -7.0]


def test_servers_are_compared_by_the_largest_difference() -> None:
    assert compare([-1.0, -2.0], [-1.25, -2.0]) == 0.25
    for theirs in ([-1.0, -4.0], [-1.0, math.nan]):
        with pytest.raises(EngineError, match="other weights than the trainer"):
            compare([-1.0, -2.0], theirs)
    assert all(1 <= token < 10 for token in probe_ids(10))
    assert len(set(probe_ids(1000))) == len(probe_ids(1000))


class Together:
    """Draws by a server, every episode by itself."""

    def __init__(self, server: VllmServer) -> None:
        self.server = server

    def draw(self, contexts: object) -> list[Turn]:
        raise AssertionError("no chunk is drawn")

    def any_active(self, active: bool) -> bool:
        raise AssertionError("no other process is asked")

    def alone(self, number: int) -> Sampler:
        return OneEpisode(self.server, SAMPLING, 0, number)


def test_episodes_are_under_way_together_and_each_is_judged(
    stage: Path, fake: FakeVllm, server: VllmServer
) -> None:
    from transformers import PreTrainedTokenizerFast

    recipe = tiny_recipe(stage)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(stage / "model")
    entries = read_problem_set(recipe.problems.set)
    fake.tokens = (WORDS.index("print(2)"), WORDS.index("<|end|>"))
    fake.gather = threading.Barrier(6)  # broken, if any of the six waited for another
    with fake_judge() as judge, Desk(recipe, entries, judge.url, stage / "out", "") as desk:
        rollout = Rollout(recipe, desk, tokenizer, dict.fromkeys(["say-1", "say-2"]), 64)
        slots = [Slot(f"say-{1 + place % 2}", "Say 1") for place in range(6)]
        batch = rollout.draw(slots, Together(server), step=0)
        rewards = [each.handle.result().reward for each in batch.rolled]
    assert [each.slot for each in batch.rolled] == slots
    assert rewards == [0.0, 1.0] * 3
    assert batch.tokens == 12


def test_an_engine_that_fails_in_one_episode_ends_the_step(
    stage: Path, fake: FakeVllm, server: VllmServer
) -> None:
    from transformers import PreTrainedTokenizerFast

    recipe = tiny_recipe(stage)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(stage / "model")
    entries = read_problem_set(recipe.problems.set)
    fake.faults.append(400)
    with fake_judge() as judge, Desk(recipe, entries, judge.url, stage / "out", "") as desk:
        rollout = Rollout(recipe, desk, tokenizer, {"say-1": None}, 64)
        with pytest.raises(EngineError, match="HTTP 400"):
            rollout.draw([Slot("say-1", "Say 1")] * 3, Together(server), step=0)
