"""Weights at any alpha, straight into a running vLLM engine.

from vllm import LLM
from cupel_trainer.engine import OfflineEngine, WeightSwapper, engine_options
from cupel_trainer.merge.stream import Lerp

llm = LLM("runs/low", **engine_options())
with WeightSwapper(OfflineEngine(llm), Lerp("runs/low", "runs/high")) as swapper:
    for alpha in (-0.3, 0, 0.5, 1, 1.3):
        swapper.swap(alpha)
        ...  # llm.generate: the model at alpha
"""

from __future__ import annotations

from cupel_trainer.engine.control import OfflineEngine, RunningEngine, ServerEngine
from cupel_trainer.engine.swap import Swap, WeightSwapper, engine_options
from cupel_trainer.engine.weight_stream import WeightStream

__all__ = [
    "OfflineEngine",
    "RunningEngine",
    "ServerEngine",
    "Swap",
    "WeightStream",
    "WeightSwapper",
    "engine_options",
]
