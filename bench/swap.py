"""What a swap of a running engine's weights costs, over what a start of the engine costs.

Makes two synthetic checkpoints, starts vLLM on the one and swaps it along the line to the other.
Needs vLLM: `make test-vllm` makes an environment, `.venv-vllm/bin/python bench/swap.py` measures.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

# Before torch: on busy cores more threads make everything several times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import torch

from cupel_trainer.engine import OfflineEngine, WeightSwapper, engine_options
from cupel_trainer.merge.stream import Lerp
from merge_checkpoints import ONE_AND_A_HALF_BILLION, SMALL, Shape, write_checkpoint
from report import Figure, show

SHAPES = {
    "small": SMALL,
    "middle": Shape(12, 768, 2048, 50_048, 128),
    "1.5b": ONE_AND_A_HALF_BILLION,
}
ALPHAS = (0.3, 1.0, 1.3, -0.3, 0.0)


def measure(folder: Path, shape: Shape) -> Figure:
    for name, step in (("low", 0.0), ("high", 3e-4)):
        write_checkpoint(
            folder / name, shape, step=step, shard_bytes=1_000_000_000, dtype=torch.bfloat16
        )
    from vllm import LLM

    began = time.perf_counter()
    llm = LLM(
        str(folder / "low"),
        enforce_eager=True,
        kv_cache_memory_bytes=256 * 2**20,
        max_model_len=512,
        skip_tokenizer_init=True,
        **engine_options(),
    )
    start_s = time.perf_counter() - began
    lerp = Lerp(str(folder / "low"), str(folder / "high"))
    with WeightSwapper(OfflineEngine(llm), lerp) as swapper:
        first = swapper.swap(0.5)  # hashes the inputs, too
        swaps = [swapper.swap(alpha) for alpha in ALPHAS]
        size_bytes = swapper.size_bytes
    began = time.perf_counter()
    for _ in lerp.tensors(0.7):
        pass
    making_s = time.perf_counter() - began
    swap_s = statistics.median(swap.wall_s for swap in swaps)
    details = {"swap_s": swap_s, "start_s": start_s, "first_swap_s": first.wall_s}
    details |= {"making_the_weights_s": making_s, "weights_mb": size_bytes / 1e6}
    return Figure("swap_over_start_ratio", swap_s / start_s, "x", len(swaps), details)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="middle", help="the model's size")
    parser.add_argument("--json", action="store_true", help="one JSON object per figure and line")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figure = measure(Path(folder), SHAPES[arguments.shape])
    show(f"swapping a {arguments.shape} model", [figure], as_json=arguments.json)


if __name__ == "__main__":
    main()
