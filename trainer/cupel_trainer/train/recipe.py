"""A training run as one document: every field with its default, its bounds and the reason for it.

Where the paper (arXiv 2605.28751) does not publish a value, the default is Cupel's own choice and
not the paper's: coverage, group size, learning rate, clipping, steps.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cupel.schema import Language, RewardKind
from cupel_trainer.episodes.budget import Budget
from cupel_trainer.evaluate.records import Setting
from cupel_trainer.plan.assumptions import Assumptions
from cupel_trainer.train.coverage import Coverage


class Section(BaseModel):
    """A table of the recipe: frozen; a field that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Dtype(StrEnum):
    """Of numbers in the model."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Model(Section):
    """What is trained."""

    path: str = Field(
        min_length=1,
        description="A checkpoint's folder or name on a hub. Low and high coverage must name the "
        "same one: merging needs one initialisation.",
    )
    tokenizer: str = Field("", description="Where the tokenizer is, if not beside the weights.")
    random_seed: int | None = Field(
        None,
        ge=0,
        description="Random weights of this seed, by the config at `path`, in place of its own: "
        "for measuring and tests.",
    )
    attention: str = Field(
        "",
        description="transformers' attn_implementation, such as flash_attention_2; empty takes "
        "what fits the machine.",
    )
    trust_remote_code: bool = Field(
        False, description="Run Python that the checkpoint brings. Off: it is somebody else's."
    )
    chat: bool = Field(
        True,
        description="Ask by the tokenizer's chat template, where it has one; else as plain text.",
    )


class Problems(Section):
    """What is trained on, and in which order."""

    set: str = Field(
        min_length=1,
        description="A JSON Lines file, a folder of problem folders, `service`, `service:ID,ID`.",
    )
    order_seed: int = Field(
        0,
        ge=0,
        description="Shuffles each pass over the set. Low and high coverage must share it: then "
        "they see the same problems in the same order.",
    )
    language: Language | None = Field(
        Language.PYTHON,
        description="Asked for where a problem names none. Python: no compile step in the judge.",
    )
    any_language: bool = Field(
        False, description="The policy chooses its language where a problem names none."
    )
    difficulties: tuple[str, ...] = Field((), description="Only these, as the set says; () is all.")
    limit: int | None = Field(None, ge=1, description="The first so many; for trying a recipe.")
    template: Path | None = Field(
        None, description="A prompt template of your own, in Jinja; default that of the setting."
    )


class Service(Section):
    """Who judges."""

    url: str = Field(
        "",
        description="Of the Cupel service; empty takes CUPEL_URL, and without that runs one here.",
    )
    patience_s: float = Field(
        1800.0,
        ge=0,
        le=7 * 86400,
        description="How long training waits for a service that is away, before it stops (and can "
        "be resumed). Waiting is cheap next to training on a verdict that nobody gave.",
    )
    timeout_s: float = Field(
        3600.0, ge=1, le=86400, description="Longest silence of a service at work, in seconds."
    )
    batch: int = Field(
        64,
        ge=1,
        le=1000,
        description="Most completions in one request; those that wait are sent together.",
    )
    linger_s: float = Field(
        0.02,
        ge=0,
        le=10,
        description="How long a completion waits for company before it is sent, in seconds.",
    )
    judge_attempts: int = Field(
        3,
        ge=1,
        le=20,
        description="How often a completion is judged when the judge fails (JE); then it is "
        "masked, never scored.",
    )


class ExtraReward(Section):
    """A further reward from the same judgement: logged, not trained on."""

    kind: RewardKind = Field(RewardKind.ALL_OR_NOTHING, description="The function.")
    coverage: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="Tiers 1..n for an integer, a fraction of the tiers for a float."
    )


class Reward(Section):
    """From a judgement to a number."""

    kind: RewardKind = Field(
        RewardKind.ALL_OR_NOTHING,
        description="all_or_nothing is the paper's: solved at the coverage, or not.",
    )
    weights: tuple[float, ...] | None = Field(
        None, description="One per covered tier, for tier_weights only."
    )
    full_coverage: bool = Field(
        False,
        description="Judge the tiers above the coverage too, and log the solve rate there. Costs "
        "the low run the judge time of the high one.",
    )
    every_failure: bool = Field(
        False,
        description="Judge every test of the coverage: a failure is then classed by all of them, "
        "not by the first. Costs judge time where programs fail.",
    )
    extra: dict[str, ExtraReward] = Field({}, description="Further rewards to log, by name.")


class SettingChoice(Section):
    """How the policy is asked for programs."""

    kind: Setting = Field(
        Setting.REASONING, description="reasoning: one completion; tools: runs code; agentic: box."
    )
    budget: Budget = Field(Budget(), description="What an episode may use, in tools and agentic.")


class Sampling(Section):
    """How completions are drawn."""

    temperature: float = Field(
        1.0, gt=0, le=10, description="1: the policy's own distribution, which the gradient is of."
    )
    top_p: float = Field(1.0, gt=0, le=1, description="1: no tail is cut, for the same reason.")
    max_tokens: int = Field(
        2048, ge=1, le=1_000_000, description="Longest turn of the policy, in tokens."
    )
    max_context_tokens: int | None = Field(
        None,
        ge=2,
        description="Longest prompt with all that follows; default what the model takes. An "
        "episode that reaches it ends with what it has.",
    )
    group_size: int = Field(
        8,
        ge=2,
        le=1024,
        description="Completions per prompt; their mean is the baseline. More tell hard problems "
        "from impossible ones, and cost in proportion.",
    )


class LossType(StrEnum):
    """How token losses become one number; see TRL's GRPOConfig."""

    GRPO = "grpo"
    DR_GRPO = "dr_grpo"
    DAPO = "dapo"
    BNPO = "bnpo"


class Schedule(StrEnum):
    """How the learning rate goes after its warm-up."""

    CONSTANT = "constant"
    LINEAR = "linear"
    COSINE = "cosine"


class Optimiser(Section):
    """How weights move."""

    steps: int = Field(500, ge=1, le=10_000_000, description="Batches of prompts, in all.")
    prompts_per_step: int = Field(
        64, ge=1, le=65536, description="Prompts in a batch; times group_size completions."
    )
    updates_per_batch: int = Field(
        1, ge=1, le=64, description="Passes over a batch; 1 stays on policy."
    )
    learning_rate: float = Field(
        1e-6, gt=0, le=1, description="Of AdamW; 1e-6 is usual for RL on models of 1B to 32B."
    )
    schedule: Schedule = Field(
        Schedule.CONSTANT, description="constant: a run can be cut or continued at any step."
    )
    warmup_steps: int = Field(
        0, ge=0, description="Batches over which the learning rate rises to its value."
    )
    betas: tuple[float, float] = Field(
        (0.9, 0.95),
        description="AdamW's decay of the two moments; 0.95 forgets in 20 steps, as RL runs are "
        "short.",
    )
    epsilon: float = Field(1e-8, gt=0, le=1e-2, description="AdamW's, against division by zero.")
    weight_decay: float = Field(
        0.0, ge=0, le=1, description="0: it would move low and high the same way for no reward."
    )
    max_gradient_norm: float = Field(1.0, gt=0, description="Longer gradients are scaled down.")
    clip_low: float = Field(0.2, gt=0, lt=1, description="PPO's clip below 1.")
    clip_high: float = Field(
        0.2, gt=0, le=10, description="PPO's clip above 1; larger keeps entropy up (DAPO)."
    )
    kl_beta: float = Field(
        0.0, ge=0, le=100, description="Weight of the divergence from the start; 0 saves the model."
    )
    loss: LossType = Field(
        LossType.DAPO, description="dapo: each token counts the same, long or short completion."
    )
    scale_rewards: bool = Field(
        True, description="Divide by the group's standard deviation, as GRPO does."
    )
    mask_truncated: bool = Field(
        False, description="Leave completions that were cut at the length limit out of the loss."
    )

    @field_validator("betas")
    @classmethod
    def _betas_are_decays(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in value):
            raise ValueError("both must be at least 0 and below 1")
        return value


class Precision(Section):
    """Of numbers."""

    compute: Dtype = Field(
        Dtype.BFLOAT16,
        description="Of forward and backward, by autocast; the masters are float32 always, since "
        "at RL's learning rates most bfloat16 weights would not move. A CPU should use float32.",
    )
    device: str = Field(
        "auto", pattern="^(auto|cpu)$", description="auto takes accelerators; cpu leaves them."
    )


class ParallelKind(StrEnum):
    """What lies below on many accelerators."""

    NONE = "none"
    FSDP = "fsdp"
    DEEPSPEED = "deepspeed"


class Parallelism(Section):
    """Many accelerators: written out as a configuration of accelerate."""

    kind: ParallelKind = Field(ParallelKind.NONE, description="none: one process (or plain DDP).")
    zero_stage: int = Field(
        3, ge=1, le=3, description="deepspeed: 1 splits optimiser, 2 gradients, 3 weights too."
    )
    offload: bool = Field(
        False, description="Keep optimiser states in the host's memory: less on the card, slower."
    )
    gradient_checkpointing: bool = Field(
        True, description="Compute activations again in backward: memory for a third more time."
    )
    processes: int = Field(1, ge=1, le=65536, description="Accelerators that train, in all.")
    machines: int = Field(1, ge=1, le=8192, description="Hosts that they are in.")
    micro_batch: int | None = Field(
        None,
        ge=1,
        description="Completions in one forward and backward per accelerator; default as many as "
        "one step has. Less needs less memory; the gradient stays the same.",
    )


class RolloutKind(StrEnum):
    """What draws completions."""

    TRANSFORMERS = "transformers"
    VLLM_SERVER = "vllm-server"
    VLLM_COLOCATE = "vllm-colocate"


class VerifySync(StrEnum):
    """When the weights of a vLLM server are compared with the trainer's."""

    NEVER = "never"
    FIRST = "first"
    EVERY = "every"


class Rollouts(Section):
    """Where completions are drawn."""

    kind: RolloutKind = Field(
        RolloutKind.TRANSFORMERS, description="vllm-server is the one for models worth training."
    )
    url: str = Field("", description="vllm-server: such as http://127.0.0.1:8000.")
    chunk: int | None = Field(
        None,
        ge=1,
        description="Completions drawn at one time per process, in whole groups or not; judging "
        "of a chunk overlaps with drawing the next. Default a quarter of the batch, at least one "
        "group.",
    )
    memory_fraction: float = Field(
        0.3, gt=0, lt=1, description="vllm-colocate: of the card's memory, for the engine."
    )
    tensor_parallel: int = Field(1, ge=1, le=64, description="vllm-colocate: cards per engine.")
    sleep: bool = Field(True, description="vllm-colocate: the engine leaves its memory in updates.")
    timeout_s: float = Field(600.0, ge=1, description="vllm-server: longest wait for it to be up.")
    turn_timeout_s: float = Field(
        3600.0, ge=1, description="vllm-server: longest wait for one turn; others may be before it."
    )
    in_flight: int = Field(
        256,
        ge=1,
        le=4096,
        description="vllm-server: episodes under way at one time per process, each by itself: an "
        "answer is judged when it ends, and `chunk` does not matter.",
    )
    verify_sync: VerifySync = Field(
        VerifySync.FIRST,
        description="vllm-server: after the first hand-over of weights, or every one, compare "
        "its log-probabilities of a fixed sequence with the trainer's; costs one forward.",
    )

    @model_validator(mode="after")
    def _server_has_url(self) -> Self:
        if (self.kind is RolloutKind.VLLM_SERVER) != bool(self.url):
            raise ValueError("`url` belongs to kind vllm-server, which needs it")
        return self


class Checkpoints(Section):
    """Where a killed run goes on."""

    every_steps: int = Field(
        25, ge=1, description="Steps between checkpoints: what a crash costs at most."
    )
    keep: int = Field(2, ge=1, description="The newest so many stay; each is 12 bytes a weight.")


class Logging(Section):
    """Curves; log.jsonl is always written."""

    tensorboard: bool = Field(True, description="To the folder tensorboard/ of the run.")
    wandb: str = Field("", description="Project at Weights & Biases; empty: not sent there.")
    samples: int = Field(
        0, ge=0, le=1000, description="Completions per step kept in samples.jsonl, with rewards."
    )


class Fixing(Section):
    """Online fixing: failed samples become prompts (after the appendix of arXiv 2605.28751)."""

    enabled: bool = Field(False, description="Off: the paper's main runs do without.")
    share: float = Field(
        0.25,
        gt=0,
        lt=1,
        description="Of the next step's prompts, replaced by failures of this one. The batch keeps "
        "its size.",
    )


class Recipe(Section):
    """A training run."""

    seed: int = Field(
        0, ge=0, lt=2**31, description="Of sampling. Low and high may share it or not."
    )
    model: Model
    problems: Problems
    coverage: Coverage = Field(
        Coverage(fraction=1.0),
        description="Which tiers count: {level = 2}, {fraction = 0.5}, or by step: {schedule = "
        "[[0, 1], [100, 4]]}. The low run has a small one, the high run all.",
    )
    service: Service = Field(Service(), description="Who judges.")
    reward: Reward = Field(Reward(), description="From a judgement to a number.")
    setting: SettingChoice = Field(SettingChoice(), description="How the policy is asked.")
    sampling: Sampling = Field(Sampling(), description="How completions are drawn.")
    optimiser: Optimiser = Field(Optimiser(), description="How weights move.")
    precision: Precision = Field(Precision(), description="Of numbers.")
    parallelism: Parallelism = Field(Parallelism(), description="Many accelerators.")
    rollouts: Rollouts = Field(Rollouts(), description="Where completions are drawn.")
    checkpoints: Checkpoints = Field(Checkpoints(), description="Where a killed run goes on.")
    logging: Logging = Field(Logging(), description="Curves.")
    fixing: Fixing = Field(Fixing(), description="Online fixing.")
    plan: Assumptions = Field(
        Assumptions(), description="Machines and problems as `--plan` takes them to be."
    )

    @property
    def language(self) -> Language | None:
        """Asked for where a problem names none; None leaves the choice to the policy."""
        return None if self.problems.any_language else self.problems.language

    @property
    def completions_per_step(self) -> int:
        """Of all processes."""
        return self.optimiser.prompts_per_step * self.sampling.group_size

    @property
    def micro_batch(self) -> int:
        """Completions in one forward and backward, per process."""
        return self.parallelism.micro_batch or (
            self.completions_per_step // self.parallelism.processes
        )

    @property
    def chunk(self) -> int:
        """Completions drawn at one time, per process."""
        own = self.completions_per_step // self.parallelism.processes
        return self.rollouts.chunk or min(own, max(own // 4, self.sampling.group_size))

    @model_validator(mode="after")
    def _divides(self) -> Self:
        whole = self.completions_per_step
        processes = self.parallelism.processes
        if self.optimiser.prompts_per_step % processes:
            raise ValueError(
                f"parallelism.processes: {processes} processes cannot share the "
                f"{self.optimiser.prompts_per_step} prompts of a step evenly "
                "(optimiser.prompts_per_step)"
            )
        if (whole // processes) % self.micro_batch:
            raise ValueError(
                f"parallelism.micro_batch: must divide the {whole // processes} completions that "
                f"each process has in a step; {self.micro_batch} does not"
            )
        if self.reward.kind is RewardKind.TIER_WEIGHTS and self.reward.weights is None:
            raise ValueError("reward.weights: tier_weights needs one weight per covered tier")
        if self.reward.kind is not RewardKind.TIER_WEIGHTS and self.reward.weights is not None:
            raise ValueError("reward.weights: only for reward.kind = tier_weights")
        if self.model.random_seed is not None and self.optimiser.kl_beta > 0:
            raise ValueError("optimiser.kl_beta: must be 0 with model.random_seed")
        if self.fixing.enabled and self.optimiser.prompts_per_step < 2 * processes:
            raise ValueError(
                "fixing.enabled: needs two prompts per process at least "
                "(optimiser.prompts_per_step), one of which can be replaced"
            )
        if reserved := {"full", "tests"} & set(self.reward.extra):
            raise ValueError(f"reward.extra: the name {min(reserved)} is Cupel's own; take another")
        return self
