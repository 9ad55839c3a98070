"""Engines to swap, and what fresh engines answer, each made once."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from asking import ENGINE, Answer, fresh_answers
from tiny_models import Ends, Kind, make_ends

from cupel_trainer.engine import OfflineEngine, WeightStream, WeightSwapper, engine_options
from cupel_trainer.merge import merge
from cupel_trainer.merge.stream import Lerp

if TYPE_CHECKING:
    from vllm import LLM

ALPHAS = (0.0, 0.3, 1.0, 1.3, -0.3)
TIED = Kind("qwen2", tied=True)
SMALL_CHUNK_BYTES = 30_000
"""So that layers, whose tensors vLLM fuses, come in more than one chunk."""


def need_vllm() -> None:
    """Skips the module where vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed here: make test-vllm", allow_module_level=True)


@dataclass(frozen=True)
class Trial:
    """Two checkpoints, merged ones on disk, and what fresh engines answer on each."""

    ends: Ends
    fresh: dict[float, Answer]
    transformers: dict[float, Answer]

    def lerp(self) -> Lerp:
        return Lerp(str(self.ends.low), str(self.ends.high))


def make_trial(folder: Path, kind: Kind) -> Trial:
    ends = make_ends(folder, kind)
    merged = merge(str(ends.low), str(ends.high), alphas=ALPHAS, out=folder / "merged")
    answers = fresh_answers(list(merged.folders))
    engines, references = zip(*answers, strict=True)
    return Trial(
        ends,
        dict(zip(ALPHAS, engines, strict=True)),
        dict(zip(ALPHAS, references, strict=True)),
    )


@contextmanager
def started_engine(model: Path, options: dict[str, object] | None = None) -> Iterator[LLM]:
    """An engine in processes of its own, as a user starts it."""
    from vllm import LLM

    llm = LLM(str(model), **ENGINE, **(engine_options() if options is None else options))
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()


def make_swapper(
    llm: LLM,
    trial: Trial,
    stream: WeightStream | None = None,
    engine: OfflineEngine | None = None,
) -> WeightSwapper:
    from cupel_trainer.engine.shared_memory import SharedMemoryTrainerInitInfo

    small = SharedMemoryTrainerInitInfo(rank=0, chunk_bytes=SMALL_CHUNK_BYTES)
    return WeightSwapper(engine or OfflineEngine(llm), stream or trial.lerp(), transport=small)
