"""The source is what vLLM's own transports expect, also those that need GPUs to run."""

from __future__ import annotations

import pytest
import torch
from broken_streams import Promises
from stage import TIED, need_vllm
from tiny_models import make_ends

from cupel_trainer.engine import OfflineEngine, ServerEngine
from cupel_trainer.errors import EngineError
from cupel_trainer.merge.stream import Lerp

need_vllm()

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("default"),  # vLLM's own, in this process
]


@pytest.fixture(scope="module")
def lerp(tmp_path_factory: pytest.TempPathFactory) -> Lerp:
    ends = make_ends(tmp_path_factory.mktemp("ends"), TIED)
    return Lerp(str(ends.low), str(ends.high))


def test_what_vllm_is_told_of_the_weights_is_what_comes(lerp: Lerp) -> None:
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerWeightTransferEngine

    from cupel_trainer.engine.lerp_source import LerpSource

    counted: list[int] = []
    source = LerpSource(lerp, alpha=1.3, on_bytes=counted.append)
    # The check that vLLM's NCCL transport makes of every source.
    checked = NCCLTrainerWeightTransferEngine._checked_iter(source, source.metadata())
    sent = dict(checked)
    wanted = dict(lerp.tensors(1.3))
    assert sent.keys() == wanted.keys()
    assert all(torch.equal(sent[name], wanted[name]) for name in wanted)
    assert sum(counted) == sum(tensor.nbytes for tensor in wanted.values())
    assert [name for group in source.groups() for name in group] == [
        name for names, _ in source.iter_groups() for name in names
    ]


def test_each_pass_gives_the_weights_at_the_alpha_of_its_beginning(lerp: Lerp) -> None:
    from cupel_trainer.engine.lerp_source import LerpSource

    source = LerpSource(lerp)
    for alpha in (0.3, -0.3):
        source.alpha = alpha
        wanted = dict(lerp.tensors(alpha))
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in source)


def test_a_stream_that_breaks_its_promise_is_caught(lerp: Lerp) -> None:
    from cupel_trainer.engine.lerp_source import LerpSource

    with pytest.raises(EngineError, match=r"model.norm.weight.*\[7\].* was promised"):
        list(LerpSource(Promises(lerp, reshaped={"model.norm.weight": (7,)})))
    with pytest.raises(EngineError, match="comes after the last that was promised"):
        list(LerpSource(Promises(lerp, without=lerp.specs[-1].name)))


def test_both_engines_are_what_vllms_transports_drive() -> None:
    from vllm.distributed.weight_transfer import VLLMWeightSyncClient

    assert issubclass(OfflineEngine, VLLMWeightSyncClient)
    assert issubclass(ServerEngine, VLLMWeightSyncClient)
