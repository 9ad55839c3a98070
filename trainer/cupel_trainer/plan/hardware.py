"""GPUs by their data sheets, and how fast they decode and train: a roofline, not a measurement.

Rates are the data sheets' (dense bfloat16, no sparsity). The shares of them that real programs
reach are assumptions, in one place; replace them by your own as soon as a run has measured them.
"""

from __future__ import annotations

from dataclasses import dataclass

from cupel_trainer.plan.architecture import Architecture
from cupel_trainer.plan.simulation import Decoding

BANDWIDTH_SHARE = 0.6
"""Of memory bandwidth while decoding; an assumption."""
COMPUTE_SHARE = 0.4
"""Of arithmetic while training and reading prompts (model FLOPs utilisation); an assumption."""
DECODING_OVERHEAD_S = 0.004
"""Per decoding step beside memory and arithmetic: scheduling, sampling, launches; an assumption."""
NETWORK_BYTES_PER_S = 25e9
"""From the trainer to the engines: one 200 Gbit/s link; an assumption."""
MASTER_BYTES = 4
WEIGHT_BYTES = 2
"""Of one weight in an engine, and of one number in its cache: bfloat16."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One kind of GPU.

    Args:
        name: Its name.
        memory_bytes: What the driver offers of its memory.
        bandwidth_bytes_per_s: Of its memory.
        flops: Floating-point operations per second, dense bfloat16.
    """

    name: str
    memory_bytes: int
    bandwidth_bytes_per_s: float
    flops: float


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("A100-80GB", 79 * 2**30, 2.039e12, 312e12),
        Gpu("H100-80GB", 79 * 2**30, 3.35e12, 989e12),
        Gpu("H200-141GB", 139 * 2**30, 4.8e12, 989e12),
    )
}


def decoding_speed(
    architecture: Architecture,
    gpu: Gpu,
    gpus_per_engine: int,
    *,
    sequences_max: int,
    prompt_tokens: int,
    context_tokens: float,
    shared_prompts: int = 1,
) -> Decoding:
    """How fast an engine decodes: weights and caches through memory, tokens through arithmetic.

    Args:
        architecture: The model.
        gpu: The kind of GPU.
        gpus_per_engine: Over which the model is cut (tensor parallel).
        sequences_max: Sequences that an engine takes at one time.
        prompt_tokens: Mean length of a prompt.
        context_tokens: Mean number of tokens that a sequence has in its cache meanwhile.
        shared_prompts: Answers to one prompt: a group reads it once (prefix cache).
    """
    bandwidth = gpu.bandwidth_bytes_per_s * gpus_per_engine * BANDWIDTH_SHARE
    arithmetic = gpu.flops * gpus_per_engine * COMPUTE_SHARE
    token_flops = 2 * architecture.parameters
    cache_bytes = architecture.cache_bytes(int(context_tokens), WEIGHT_BYTES)
    return Decoding(
        base_s=architecture.parameters * WEIGHT_BYTES / bandwidth + DECODING_OVERHEAD_S,
        per_sequence_s=cache_bytes / bandwidth + token_flops / arithmetic,
        sequences_max=sequences_max,
        prefill_s=token_flops * prompt_tokens / arithmetic / shared_prompts,
    )


def update_time_s(
    architecture: Architecture, gpu: Gpu, gpus: int, tokens: float, *, forwards: int = 1
) -> float:
    """How long an update takes.

    Forward and backward are 6 operations per parameter and token, the forward again of gradient
    checkpointing 2, each forward for log-probabilities 2 (attention's own part is left out: below
    a tenth at these lengths).

    Args:
        architecture: The model.
        gpu: The kind of GPU.
        gpus: How many train.
        tokens: Of all prompts and answers of the step.
        forwards: Passes beside the update's own: old log-probabilities, a reference model.
    """
    flops = (8 + 2 * forwards) * architecture.parameters * tokens
    return flops / (gpu.flops * gpus * COMPUTE_SHARE)


def sync_time_s(architecture: Architecture) -> float:
    """How long the new weights take to the engines: TRL sends the float32 masters as they are."""
    return architecture.parameters * MASTER_BYTES / NETWORK_BYTES_PER_S
