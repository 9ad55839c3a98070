"""What a training run needs, before it is begun: memory, tokens, judging, hosts, files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cupel_trainer.plan.architecture import Architecture
from cupel_trainer.plan.hardware import (
    Gpu,
    decoding_speed,
    sync_time_s,
    update_time_s,
)
from cupel_trainer.plan.judge_hosts import MeanStep, StepShape, slots_needed
from cupel_trainer.plan.memory import (
    COMPUTE_BYTES,
    MASTER_BYTES,
    MOMENTS_BYTES,
    ServingMemory,
    TrainingMemory,
    serving_memory,
    training_memory,
)
from cupel_trainer.plan.simulation import Overlap
from cupel_trainer.plan.workload import Workload


@dataclass(frozen=True, slots=True)
class RunShape:
    """A training run as far as its cost goes.

    Args:
        gpu: Kind of all GPUs.
        training_gpus: Over which the training state is cut.
        replicas: Copies of the training state, each on its GPUs: 1 where it is cut over all.
        engines: Engines for rollouts.
        gpus_per_engine: Tensor parallel size of each.
        engine_share: Of a GPU's memory that an engine may take.
        colocated: Engines live on the GPUs that train, and give their memory back meanwhile.
        engine_sequences: Sequences that an engine takes at one time.
        completions: Per step.
        group: Completions per prompt.
        overlap: When this run's trainer hands an answer to the judge.
        chunks: Into how many the rollouts of a step are cut.
        micro_batch: Sequences per training GPU and pass.
        checkpointing: Gradient checkpointing.
        forwards: Passes beside the update's own: old log-probabilities, a reference model.
        prompt_tokens_max: The longest prompt.
        prompt_tokens: The mean one.
        completion_tokens_max: The longest answer, all turns together.
        steps: Of the run.
        checkpoints_kept: At one time.
        slots_per_host: Boxes of a judge host.
        merge_alphas: Points of a sweep between and beyond two such runs.
    """

    gpu: Gpu
    training_gpus: int
    replicas: int
    engines: int
    gpus_per_engine: int
    engine_share: float
    colocated: bool
    engine_sequences: int
    completions: int
    group: int
    overlap: Overlap
    chunks: int
    micro_batch: int
    checkpointing: bool
    forwards: int
    prompt_tokens_max: int
    prompt_tokens: int
    completion_tokens_max: int
    steps: int
    checkpoints_kept: int
    slots_per_host: int
    merge_alphas: int


@dataclass(frozen=True, slots=True)
class JudgeLoad:
    """What one step asks of the judge, in the mean.

    Args:
        programs: Submissions.
        tests: Tests that are run.
        slot_s: Seconds of all boxes together.
    """

    programs: int
    tests: float
    slot_s: float


@dataclass(frozen=True, slots=True)
class Volumes:
    """Files, in bytes.

    Args:
        checkpoint: One that a run resumes from: float32 masters and Adam's moments.
        checkpoints: All that are kept.
        masters: What is merged afterwards: float32.
        merge_read: By a sweep over two ends, which are read once.
        merge_written: Merged checkpoints in bfloat16.
        sync: Weights to the engines, once a step: TRL sends the float32 masters.
    """

    checkpoint: int
    checkpoints: int
    masters: int
    merge_read: int
    merge_written: int
    sync: int


@dataclass(frozen=True, slots=True)
class RunPlan:
    """The plan of a run.

    Args:
        architecture: The model.
        shape: The run.
        workload: What its answers are taken to be like.
        training: Of one GPU that trains.
        serving: Of one GPU of an engine.
        tokens: Per step, prompts and answers.
        judge: Per step.
        volumes: Files.
        steps: For each way to overlap judging with generation, the step with as many boxes as keep
            the wait below the bar; None if no number does.
        refusals: Why it does not fit; empty if it does.
    """

    architecture: Architecture
    shape: RunShape
    workload: Workload
    training: TrainingMemory
    serving: ServingMemory
    tokens: float
    judge: JudgeLoad
    volumes: Volumes
    steps: Mapping[Overlap, MeanStep | None]
    refusals: tuple[str, ...]


def step_shape(architecture: Architecture, shape: RunShape, workload: Workload) -> StepShape:
    """A run's step as the simulation takes it.

    Args:
        architecture: The model.
        shape: The run.
        workload: What answers are like.
    """
    decoding = decoding_speed(
        architecture,
        shape.gpu,
        shape.gpus_per_engine,
        sequences_max=_sequences(architecture, shape, workload),
        prompt_tokens=shape.prompt_tokens,
        context_tokens=shape.prompt_tokens + workload.mean_tokens / 2,
        shared_prompts=shape.group,
    )
    tokens = shape.completions * (shape.prompt_tokens + workload.mean_tokens)
    gpus = shape.training_gpus * shape.replicas
    update_s = update_time_s(architecture, shape.gpu, gpus, tokens, forwards=shape.forwards)
    if not shape.colocated:
        update_s += sync_time_s(architecture)
    return StepShape(shape.completions, shape.chunks, decoding, shape.engines, update_s)


def plan_run(
    architecture: Architecture, shape: RunShape, workload: Workload, *, steps: int = 10
) -> RunPlan:
    """Plans a run.

    Args:
        architecture: The model.
        shape: The run.
        workload: What answers and their judging are like.
        steps: Simulated per number of boxes.
    """
    training = training_memory(
        architecture,
        gpus=shape.training_gpus,
        sequences=shape.micro_batch,
        prompt_tokens=shape.prompt_tokens_max,
        completion_tokens=shape.completion_tokens_max,
        checkpointing=shape.checkpointing,
    )
    serving = _serving(architecture, shape)
    refusals = _refusals(architecture, shape, training, serving)
    found: dict[Overlap, MeanStep | None] = {}
    if serving.sequences:
        step = step_shape(architecture, shape, workload)
        found = {way: slots_needed(step, workload, way, steps=steps) for way in Overlap}
    return RunPlan(
        architecture=architecture,
        shape=shape,
        workload=workload,
        training=training,
        serving=serving,
        tokens=shape.completions * (shape.prompt_tokens + workload.mean_tokens),
        judge=JudgeLoad(
            programs=shape.completions,
            tests=shape.completions * workload.mean_tests,
            slot_s=shape.completions * workload.mean_judging_s,
        ),
        volumes=_volumes(architecture, shape),
        steps=found,
        refusals=refusals,
    )


def _serving(architecture: Architecture, shape: RunShape) -> ServingMemory:
    return serving_memory(
        architecture,
        gpu_bytes=shape.gpu.memory_bytes,
        gpus=shape.gpus_per_engine,
        share=shape.engine_share,
        context_tokens=shape.prompt_tokens_max + shape.completion_tokens_max,
    )


def _sequences(architecture: Architecture, shape: RunShape, workload: Workload) -> int:
    """Sequences that an engine decodes at one time: as many as its cache holds at mean length."""
    serving = _serving(architecture, shape)
    mean_tokens = int(shape.prompt_tokens + workload.mean_tokens)
    mean_bytes = -(-architecture.cache_bytes(mean_tokens, COMPUTE_BYTES) // shape.gpus_per_engine)
    return max(1, min(shape.engine_sequences, serving.cache // mean_bytes))


def _refusals(
    architecture: Architecture, shape: RunShape, training: TrainingMemory, serving: ServingMemory
) -> tuple[str, ...]:
    found = []
    room = shape.gpu.memory_bytes
    if training.total > room:
        found.append(
            f"training needs {training.total / 2**30:.1f} GiB per GPU, a {shape.gpu.name} has "
            f"{room / 2**30:.0f}: take more GPUs, a smaller micro-batch or shorter answers"
        )
    if shape.colocated:
        state = training.masters + training.gradients + training.moments
        both = state + int(room * shape.engine_share)
        if both > room:
            found.append(
                f"engine and training state need {both / 2**30:.1f} GiB together on one GPU: "
                "lower the engine's share, or serve rollouts from GPUs of their own"
            )
    if not serving.sequences:
        found.append(
            f"an engine on {shape.gpus_per_engine} GPU has no room for one sequence of "
            f"{shape.prompt_tokens_max + shape.completion_tokens_max} tokens beside its weights: "
            "cut it over more GPUs"
        )
    tokens = shape.prompt_tokens_max + shape.completion_tokens_max
    if tokens > architecture.context:
        found.append(
            f"prompt and answer may have {tokens} tokens, the model was made for "
            f"{architecture.context}"
        )
    return tuple(found)


def _volumes(architecture: Architecture, shape: RunShape) -> Volumes:
    masters = architecture.parameters * MASTER_BYTES
    checkpoint = architecture.parameters * (MASTER_BYTES + MOMENTS_BYTES)
    return Volumes(
        checkpoint=checkpoint,
        checkpoints=checkpoint * shape.checkpoints_kept,
        masters=masters,
        merge_read=2 * masters,
        merge_written=shape.merge_alphas * architecture.parameters * COMPUTE_BYTES,
        sync=architecture.parameters * MASTER_BYTES,
    )
