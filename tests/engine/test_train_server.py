"""GRPO with a vLLM server on the CPU: judged by a real service, weights through shared memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from asking import TOLERANCE
from random_policy import make_policy, write_problems
from serving import started_judge, started_server
from stage import need_vllm

need_vllm()

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("default"),  # vLLM's and TRL's own, in this process
]

STEPS = 20
# In chunks, vLLM rewinds the generators of seeded requests, which those of a CPU do not allow.
SEEDED = ("--no-enable-chunked-prefill", "--logprobs-mode", "processed_logprobs")


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with started_judge(tmp_path_factory.mktemp("judge")) as url:
        yield url


def fields(model: Path, judge: str, server: str, **rollouts: object) -> dict[str, object]:
    return {
        "model": {"path": str(model)},
        "problems": {
            "set": str(write_problems(model.parent)),
            "template": model.parent / "statement.jinja",
        },
        "service": {"url": judge},
        "sampling": {"max_tokens": 1, "group_size": 8},
        "optimiser": {"steps": STEPS, "prompts_per_step": 3, "learning_rate": 3e-3},
        "precision": {"compute": "float32", "device": "cpu"},
        "parallelism": {"gradient_checkpointing": False},
        "rollouts": {"kind": "vllm-server", "url": server, "in_flight": 8} | rollouts,
        "checkpoints": {"every_steps": STEPS},
        "logging": {"tensorboard": False},
    }


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_after_every_hand_over_the_servers_log_probabilities_are_the_trainers(
    tmp_path: Path, judge: str, tied: bool
) -> None:
    from cupel_trainer.train.recipe_file import make_recipe
    from cupel_trainer.train.run import train

    model = make_policy(tmp_path / "model", tied=tied)
    with started_server(model, tmp_path / "log", *SEEDED) as server:
        recipe = make_recipe(fields(model, judge, server, verify_sync="every"))
        result = train(recipe, tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    records = [line for line in lines if "step" in line]
    assert [record["step"] for record in records] == [*range(1, STEPS + 1)]
    errors = [record["sync_logprob_error"] for record in records]
    assert max(errors) <= TOLERANCE, errors
    # The policy moved, and RL had work: in some steps some answers were right, others not.
    assert result.weights != result.initial_weights
    assert any(0 < record["reward"] < 1 for record in records)
    assert all(record["judging_errors"] == 0 for record in records)


def test_a_server_of_another_model_is_refused_before_the_first_step(
    tmp_path: Path, judge: str
) -> None:
    from cupel_trainer.errors import TrainerError
    from cupel_trainer.train.recipe_file import make_recipe
    from cupel_trainer.train.run import train

    model = make_policy(tmp_path / "model", tied=True)
    other = make_policy(tmp_path / "other", tied=False)
    with started_server(other, tmp_path / "log", *SEEDED) as server:
        recipe = make_recipe(fields(model, judge, server))
        with pytest.raises(TrainerError, match="the engine serves another model"):
            train(recipe, tmp_path / "out")
