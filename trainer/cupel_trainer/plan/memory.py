"""Memory per GPU, counted: of a GPU that trains, and of one that serves rollouts.

Training is FSDP or ZeRO-3: every parameter's float32 master, its gradient and Adam's two moments
are cut over all GPUs; the decoder layer at work (and the one fetched ahead), the embeddings and the
output head lie there whole in bfloat16.
"""

from __future__ import annotations

from dataclasses import dataclass

from cupel_trainer.plan.architecture import Architecture

GIBIBYTE = 2**30
MASTER_BYTES = 4
GRADIENT_BYTES = 4
MOMENTS_BYTES = 8
COMPUTE_BYTES = 2
LAYERS_GATHERED = 2
"""The layer at work and the next one."""
LOGITS_BYTES = 10
"""Per answer token and vocabulary entry: bfloat16 logits and their gradient, a float32 softmax."""
TRAINING_RESERVE_BYTES = 4 * GIBIBYTE
"""CUDA context, NCCL buffers, fragments; an assumption."""
SERVING_RESERVE_BYTES = 3 * GIBIBYTE
"""vLLM's activations, CUDA graphs, buffers; an assumption."""


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """One GPU that trains, in bytes."""

    masters: int
    gradients: int
    moments: int
    gathered: int
    checkpoints: int
    layer_activations: int
    logits: int
    reserve: int = TRAINING_RESERVE_BYTES

    @property
    def total(self) -> int:
        """All of it."""
        state = self.masters + self.gradients + self.moments
        # A layer's activations are gone when the logits' gradient is there, and the other way
        # round: the larger counts.
        work = self.gathered + self.checkpoints + max(self.layer_activations, self.logits)
        return state + work + self.reserve


@dataclass(frozen=True, slots=True)
class ServingMemory:
    """One GPU of an engine, in bytes.

    Args:
        weights: Its part of the model.
        cache: What is left for keys and values.
        sequence: Keys and values of one sequence of full length, on this GPU.
        sequences: How many of those fit at one time; more run while they are shorter.
        reserve: See `SERVING_RESERVE_BYTES`.
    """

    weights: int
    cache: int
    sequence: int
    sequences: int
    reserve: int = SERVING_RESERVE_BYTES


def training_memory(
    architecture: Architecture,
    *,
    gpus: int,
    sequences: int,
    prompt_tokens: int,
    completion_tokens: int,
    checkpointing: bool = True,
) -> TrainingMemory:
    """Counts a GPU that trains.

    Args:
        architecture: The model.
        gpus: Over which the state is cut.
        sequences: Per GPU and pass (micro-batch).
        prompt_tokens: The longest prompt.
        completion_tokens: The longest answer.
        checkpointing: Keep one vector per token and layer, and compute the layer again.
    """
    tokens = sequences * (prompt_tokens + completion_tokens)
    layer = tokens * _layer_width(architecture) * COMPUTE_BYTES
    kept = architecture.layers * tokens * architecture.hidden * COMPUTE_BYTES
    return TrainingMemory(
        masters=_shard(architecture.parameters * MASTER_BYTES, gpus),
        gradients=_shard(architecture.parameters * GRADIENT_BYTES, gpus),
        moments=_shard(architecture.parameters * MOMENTS_BYTES, gpus),
        gathered=_gathered(architecture),
        checkpoints=kept if checkpointing else architecture.layers * layer,
        layer_activations=layer if checkpointing else 0,
        logits=sequences * completion_tokens * architecture.vocabulary * LOGITS_BYTES,
    )


def serving_memory(
    architecture: Architecture,
    *,
    gpu_bytes: int,
    gpus: int,
    share: float,
    context_tokens: int,
) -> ServingMemory:
    """Counts a GPU of an engine.

    Args:
        architecture: The model.
        gpu_bytes: The GPU's memory.
        gpus: Over which the model is cut (tensor parallel).
        share: Of the GPU's memory that the engine may take.
        context_tokens: The longest sequence, prompt and answer.
    """
    weights = _shard(architecture.parameters * COMPUTE_BYTES, gpus)
    sequence = _shard(architecture.cache_bytes(context_tokens, COMPUTE_BYTES), gpus)
    cache = int(gpu_bytes * share) - weights - SERVING_RESERVE_BYTES
    return ServingMemory(weights, max(0, cache), sequence, max(0, cache) // sequence)


def _gathered(architecture: Architecture) -> int:
    layers = min(LAYERS_GATHERED, architecture.layers) * architecture.block_parameters
    # Weights of both, and the gradient of the layer at work before it is cut.
    return COMPUTE_BYTES * (layers + architecture.root_parameters + architecture.block_parameters)


def _layer_width(architecture: Architecture) -> int:
    """Numbers per token that a layer's backward needs, with attention that keeps no scores.

    Residual twice, both norms' outputs, attention's and the feed-forward part's outputs; queries
    and keys before and after rotation, values, what attention gives; gate, up, their activation
    and product.
    """
    return (
        6 * architecture.hidden
        + 3 * architecture.query_width
        + 3 * architecture.key_value_width
        + 4 * architecture.intermediate
    )


def _shard(size_bytes: int, gpus: int) -> int:
    return -(-size_bytes // gpus)
