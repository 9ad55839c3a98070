"""A swapped engine answers like a fresh one on the merged checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import torch
from asking import TOLERANCE, ask, distance
from stage import ALPHAS, TIED, Trial, make_swapper, make_trial, need_vllm, started_engine
from tiny_models import Kind

from cupel_trainer.engine import OfflineEngine, WeightSwapper, engine_options

if TYPE_CHECKING:
    from vllm import LLM

need_vllm()

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("default"),  # vLLM's own, in this process
]

KINDS = (
    TIED,
    Kind("qwen3", tied=False),
    Kind("llama", tied=True),
    Kind("llama", tied=False, dtype=torch.bfloat16),
)


@dataclass(frozen=True)
class Running:
    """An engine and its swapper."""

    trial: Trial
    llm: LLM
    swapper: WeightSwapper


@pytest.fixture(scope="module", params=KINDS, ids=str)
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    if request.param == TIED:
        trial = request.getfixturevalue("tied_trial")
    else:
        trial = make_trial(tmp_path_factory.mktemp(str(request.param)), request.param)
    with started_engine(trial.ends.low) as llm, make_swapper(llm, trial) as swapper:
        yield Running(trial, llm, swapper)


def test_the_reference_engines_differ_from_each_other_and_agree_with_transformers(
    running: Running,
) -> None:
    trial = running.trial
    for alpha in ALPHAS:
        assert distance(trial.fresh[alpha], trial.transformers[alpha]) < TOLERANCE
        for other in ALPHAS:
            if other != alpha:
                assert distance(trial.fresh[alpha], trial.fresh[other]) > 100 * TOLERANCE


@pytest.mark.parametrize("order", [ALPHAS, (*reversed(ALPHAS), 0.0)], ids=["there", "and back"])
def test_a_swapped_engine_answers_like_a_fresh_one(
    running: Running, order: tuple[float, ...], record_property: pytest.RecordProperty
) -> None:
    for alpha in order:
        done = running.swapper.swap(alpha)
        # Asked twice: the second answer comes from the prefix cache of the new weights.
        for answer in (ask(running.llm), ask(running.llm)):
            found = distance(answer, running.trial.fresh[alpha])
            record_property(f"distance at {alpha:g}", found)
            record_property("wall_s", done.wall_s)
            assert found < TOLERANCE


def test_the_weight_version_is_the_digest_of_the_same_merge_on_disk(running: Running) -> None:
    running.swapper.swap(0.0)
    done = running.swapper.swap(0.3)
    merged = running.trial.ends.low.parent / "merged" / "alpha_0.3"
    manifest = json.loads((merged / "cupel_merge.json").read_text())
    assert done.weight_version == running.trial.lerp().digest(0.3)
    assert done.weight_version in json.dumps(manifest)
    assert OfflineEngine(running.llm).weight_version() == done.weight_version
    assert done.previous_version == running.trial.lerp().digest(0.0)


def test_two_workers_that_hold_half_a_model_each_are_swapped_together(
    tied_trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        pytest.skip("two workers need two cores")
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "|".join(map(str, cores)))
    options = engine_options() | {"tensor_parallel_size": 2, "distributed_executor_backend": "mp"}
    with (
        started_engine(tied_trial.ends.low, options) as llm,
        make_swapper(llm, tied_trial) as swapper,
    ):
        for alpha in (1.3, -0.3):
            swapper.swap(alpha)
            assert distance(ask(llm), tied_trial.fresh[alpha]) < TOLERANCE
