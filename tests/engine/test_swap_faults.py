"""What goes wrong with a swap is said, and no engine ever answers from mixed weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from asking import TOLERANCE, ask, distance
from broken_streams import BreaksOff, Promises, Stream
from stage import Trial, make_swapper, need_vllm, started_engine

from cupel_trainer.engine import OfflineEngine
from cupel_trainer.engine.swap import UNFINISHED_VERSION
from cupel_trainer.errors import EngineError, MergeRefused

if TYPE_CHECKING:
    from vllm import LLM

need_vllm()

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("default"),  # vLLM's own, in this process
]

NORM = "model.norm.weight"
QUERY = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def llm(tied_trial: Trial) -> Iterator[LLM]:
    with started_engine(tied_trial.ends.low) as llm:
        yield llm


def swap_to(alpha: float, llm: LLM, trial: Trial) -> None:
    with make_swapper(llm, trial) as swapper:
        swapper.swap(alpha)


@pytest.mark.parametrize(
    ("promise", "said"),
    [
        ({"without": QUERY}, f"tensor {QUERY} is missing"),
        ({"renamed": {QUERY: "x.weight"}}, "tensor x.weight is not in the engine's model"),
        ({"reshaped": {NORM: (63,)}}, rf"tensor {NORM}: shape \[63\], the engine has \[64\]"),
        ({"settings": {"rms_norm_eps": 0.1}}, "rms_norm_eps is 0.1, the engine has 1e-06"),
    ],
    ids=["missing", "unknown", "shape", "config"],
)
def test_another_model_is_refused_before_anything_changes(
    llm: LLM, tied_trial: Trial, promise: dict[str, object], said: str
) -> None:
    swap_to(0.3, llm, tied_trial)
    version = OfflineEngine(llm).weight_version()
    with (
        make_swapper(llm, tied_trial, Promises(tied_trial.lerp(), **promise)) as swapper,
        pytest.raises(MergeRefused, match=said),
    ):
        swapper.swap(1.0)
    assert OfflineEngine(llm).weight_version() == version
    assert distance(ask(llm), tied_trial.fresh[0.3]) < TOLERANCE


def test_weights_other_than_promised_are_not_loaded_as_if_they_were(
    llm: LLM, tied_trial: Trial
) -> None:
    class Lies(Promises):
        specs = property(lambda self: self.of.specs)

        def tensors(self, alpha):
            return (pair for pair in self.of.tensors(alpha) if pair[0] != self.without)

    with (
        make_swapper(llm, tied_trial, Lies(tied_trial.lerp(), without=QUERY)) as swapper,
        pytest.raises(EngineError, match=f"{QUERY}.* was promised"),
    ):
        swapper.swap(1.0)
    swap_to(0.3, llm, tied_trial)
    assert distance(ask(llm), tied_trial.fresh[0.3]) < TOLERANCE


@pytest.mark.parametrize("after", [0, 1, 13, 25])
def test_a_swap_that_broke_off_can_be_done_again(llm: LLM, tied_trial: Trial, after: int) -> None:
    stream = BreaksOff(tied_trial.lerp(), after=after)
    with make_swapper(llm, tied_trial, stream) as swapper:
        with pytest.raises(EngineError, match="the disk is gone.*\n.*answers nothing"):
            swapper.swap(1.3)
        assert OfflineEngine(llm).weight_version() == UNFINISHED_VERSION
        stream.broken = False
        assert swapper.swap(1.3).previous_version == UNFINISHED_VERSION
    assert distance(ask(llm), tied_trial.fresh[1.3]) < TOLERANCE


def test_a_swap_that_broke_off_in_the_engine_can_be_done_again(llm: LLM, tied_trial: Trial) -> None:
    class Garbles(OfflineEngine):
        sent = 0

        def update_weights(self, update_info: dict[str, object]) -> None:
            self.sent += 1
            if self.sent == 3:
                update_info = update_info | {"tensors": [(QUERY, "no_dtype", [64, 64], 0)]}
            super().update_weights(update_info)

    with (
        make_swapper(llm, tied_trial, engine=Garbles(llm)) as swapper,
        pytest.raises(EngineError, match="no_dtype"),
    ):
        swapper.swap(1.0)
    swap_to(-0.3, llm, tied_trial)
    assert distance(ask(llm), tied_trial.fresh[-0.3]) < TOLERANCE


def test_a_swap_that_another_took_over_from_fails_and_the_other_holds(
    llm: LLM, tied_trial: Trial
) -> None:
    class Overtaken(Stream):
        def tensors(self, alpha):
            for count, pair in enumerate(self.of.tensors(alpha)):
                if count == 13:
                    swap_to(0.3, llm, tied_trial)
                yield pair

    with (
        make_swapper(llm, tied_trial, Overtaken(tied_trial.lerp())) as swapper,
        pytest.raises(EngineError, match="Unless another swap took over"),
    ):
        swapper.swap(1.3)
    assert OfflineEngine(llm).weight_version() == tied_trial.lerp().digest(0.3)
    assert distance(ask(llm), tied_trial.fresh[0.3]) < TOLERANCE


def test_a_swap_cannot_end_another(llm: LLM, tied_trial: Trial) -> None:
    class Late(OfflineEngine):
        """Just before it is to end its swap, another one begins, and breaks off."""

        def call_workers(self, method: str, **arguments: object) -> list[dict[str, list[str]]]:
            if method == "end_swap":
                broken = BreaksOff(tied_trial.lerp(), after=13)
                with make_swapper(llm, tied_trial, broken) as other, pytest.raises(EngineError):
                    other.swap(1.0)
            return super().call_workers(method, **arguments)

    with (
        make_swapper(llm, tied_trial, engine=Late(llm)) as swapper,
        pytest.raises(EngineError, match="another swap of weights has taken over"),
    ):
        swapper.swap(1.3)
    assert OfflineEngine(llm).weight_version() == UNFINISHED_VERSION
    swap_to(1.3, llm, tied_trial)
    assert distance(ask(llm), tied_trial.fresh[1.3]) < TOLERANCE


def test_an_engine_without_the_extension_says_what_to_start_it_with(tied_trial: Trial) -> None:
    with (
        started_engine(tied_trial.ends.low, options={}) as llm,
        pytest.raises(EngineError, match="engine_options"),
    ):
        make_swapper(llm, tied_trial)


def test_an_engine_with_mixed_weights_does_not_answer(tied_trial: Trial) -> None:
    from vllm.v1.engine.exceptions import EngineDeadError

    broken = BreaksOff(tied_trial.lerp(), after=13)
    with (
        started_engine(tied_trial.ends.low) as llm,
        make_swapper(llm, tied_trial, broken) as swapper,
    ):
        with pytest.raises(EngineError, match="Swap it again .* or restart it"):
            swapper.swap(1.0)
        with pytest.raises(EngineDeadError):
            ask(llm)
