"""TRL's GRPO below Cupel's steps. The only module that knows TRL, and its private names.

TRL 1.16 has no public way to draw turns with whatever engine it was configured for, to know its
vLLM client's class, or to decide where checkpoints go; each private name says so on its line. The
trainer's range in pyproject.toml is that narrow for this reason.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Before TRL reads it: `rollout_func` is experimental, which is why the version is pinned.
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from accelerate.utils import gather_object  # type: ignore[import-untyped]  # it has no types
from datasets import Dataset  # type: ignore[import-untyped]  # it has no types
from transformers import PrinterCallback, ProgressCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from cupel_trainer.train.checkpoint_folder import seal
from cupel_trainer.train.order import Order
from cupel_trainer.train.recipe import Dtype, Recipe, RolloutKind, Schedule
from cupel_trainer.train.rollout import Handle, Ids, Turn, draw_seed
from cupel_trainer.train.session import Place, Session
from cupel_trainer.train.step_record import StepRecord

_NO_REWARD = "All reward functions returned None"
_METRICS_MADE_HERE = ("reward", "rewards/", "completions/", "step_time", "profiling/", "num_tokens")


def make_config(recipe: Recipe, scratch: Path) -> GRPOConfig:
    """What TRL is told.

    Args:
        recipe: The run.
        scratch: Where it may write what is not whole yet.
    """
    optimiser, parallelism = recipe.optimiser, recipe.parallelism
    updates = optimiser.updates_per_batch
    own = recipe.completions_per_step // parallelism.processes
    schedule = optimiser.schedule.value
    if optimiser.schedule is Schedule.CONSTANT and optimiser.warmup_steps:
        schedule = "constant_with_warmup"
    return GRPOConfig(
        output_dir=str(scratch),
        seed=recipe.seed,
        max_steps=optimiser.steps * updates,
        per_device_train_batch_size=recipe.micro_batch,
        gradient_accumulation_steps=own // recipe.micro_batch,
        num_iterations=updates,
        num_generations=recipe.sampling.group_size,
        max_completion_length=recipe.sampling.max_tokens,
        temperature=recipe.sampling.temperature,
        top_p=recipe.sampling.top_p,
        learning_rate=optimiser.learning_rate,
        lr_scheduler_type=schedule,
        warmup_steps=optimiser.warmup_steps * updates,
        adam_beta1=optimiser.betas[0],
        adam_beta2=optimiser.betas[1],
        adam_epsilon=optimiser.epsilon,
        weight_decay=optimiser.weight_decay,
        max_grad_norm=optimiser.max_gradient_norm,
        beta=optimiser.kl_beta,
        epsilon=optimiser.clip_low,
        epsilon_high=optimiser.clip_high,
        loss_type=optimiser.loss.value,
        scale_rewards="group" if optimiser.scale_rewards else "none",
        mask_truncated_completions=optimiser.mask_truncated,
        bf16=recipe.precision.compute is Dtype.BFLOAT16,
        use_cpu=recipe.precision.device == "cpu",
        activation_checkpointing=parallelism.gradient_checkpointing,  # its name from 5.24 on
        model_init_kwargs=None,
        shuffle_dataset=False,  # the order is ours
        remove_unused_columns=False,
        save_strategy="steps",
        save_steps=recipe.checkpoints.every_steps * updates,
        logging_steps=updates,
        logging_nan_inf_filter=False,
        report_to="none",  # log.jsonl, TensorBoard and the rest are ours
        disable_tqdm=True,
        **_engine(recipe),
    )


def _engine(recipe: Recipe) -> dict[str, Any]:  # Any: arguments of several types
    rollouts = recipe.rollouts
    match rollouts.kind:
        case RolloutKind.TRANSFORMERS:
            return {}
        case RolloutKind.VLLM_SERVER:
            return {
                "use_vllm": True,
                "vllm_mode": "server",
                "vllm_server_base_url": rollouts.url,
                "vllm_server_timeout": rollouts.timeout_s,
            }
        case RolloutKind.VLLM_COLOCATE:
            return {
                "use_vllm": True,
                "vllm_mode": "colocate",
                "vllm_gpu_memory_utilization": rollouts.memory_fraction,
                "vllm_tensor_parallel_size": rollouts.tensor_parallel,
                "vllm_enable_sleep_mode": rollouts.sleep,
                "vllm_max_model_length": recipe.sampling.max_context_tokens,
            }


class CupelTrainer(GRPOTrainer):
    """GRPO whose completions, rewards, records and checkpoints are a `Session`'s.

    Args:
        recipe: The run.
        config: Of `make_config` for the same recipe.
        model: What is trained, in float32.
        tokenizer: Its tokenizer.
        order: The problems of each step.
        session: What happens in each step.
        checkpoints: The folder of whole checkpoints.
        emit: Is told the record of each step, in the main process.
        vllm_client: Speaks with the vLLM server, in place of TRL's own class.
    """

    # Any: neither transformers nor vLLM has types that mypy --strict can use.
    def __init__(
        self,
        recipe: Recipe,
        config: GRPOConfig,
        model: Any,
        tokenizer: Any,
        order: Order,
        session: Session,
        checkpoints: Path,
        emit: Callable[[StepRecord], None],
        vllm_client: type[Any] | None = None,
    ) -> None:
        self._recipe = recipe
        self._scratch = Path(str(config.output_dir))
        self._session = session
        self._checkpoints = checkpoints
        self._emit = emit
        ids = [problem for step in order for problem in step]
        with _vllm_client(vllm_client):
            super().__init__(
                model=model,
                reward_funcs=self._rewards,
                args=config,
                train_dataset=Dataset.from_dict({"prompt": ids}),
                processing_class=tokenizer,
                rollout_func=self._roll_out,
            )
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        logging.getLogger("trl.trainer.grpo_trainer").addFilter(_is_news)

    @property
    def place(self) -> Place:
        """Which process of how many this is."""
        return Place(self.accelerator.process_index, self.accelerator.num_processes)

    def run(self, checkpoint: Path | None) -> None:
        """Trains to the last step.

        Args:
            checkpoint: To go on from; None begins.
        """
        with warnings.catch_warnings():
            # TRL 1.16 uses names that transformers 5.24 has renamed: nothing that a user could do.
            warnings.filterwarnings(
                "ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning
            )
            self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    def draw(self, contexts: Sequence[Ids]) -> list[Turn]:
        """Draws one turn after each context, with the engine that TRL was configured for."""
        # Private: the one way that takes tokens and works for every engine and sharding.
        generate: Any = self._generate_single_turn
        ids, logprobs = generate([list(each) for each in contexts], None, {}, 1)
        return [
            Turn(turn, logprobs[place] if logprobs else None, turn[-1] in self.eos_token_ids)
            for place, turn in enumerate(ids)
        ]

    def any_active(self, active: bool) -> bool:
        """Whether any process has episodes under way."""
        if self.accelerator.num_processes == 1:
            return active
        flag = torch.tensor([int(active)], device=self.accelerator.device)
        return bool(self.accelerator.gather(flag).any())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Makes the record of a step out of what TRL logs after it."""
        super().log(logs, start_time)
        if "loss" not in logs:  # the summary after the last step
            return
        said = {
            name: value
            for name, value in logs.items()
            if not name.startswith(_METRICS_MADE_HERE)
            and (value is None or isinstance(value, int | float))
        }
        step = self.state.global_step // self._recipe.optimiser.updates_per_batch
        record = self._session.record(step, said, _gather)
        if self.accelerator.is_main_process:
            self._emit(record)

    def create_model_card(self, *_: object, **__: object) -> None:
        """Writes none: `run.json` says how the weights came about."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        save: Any = super()._save_checkpoint  # private: what is saved is whole only after it
        save(model, trial)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            step = self.state.global_step // self._recipe.optimiser.updates_per_batch
            made = self._scratch / f"checkpoint-{self.state.global_step}"
            seal(
                made, self._checkpoints, step, self._session.state(), self._recipe.checkpoints.keep
            )
        self.accelerator.wait_for_everyone()

    def _roll_out(self, prompts: list[str], _: GRPOTrainer) -> dict[str, Any]:
        step = self.state.global_step // self._recipe.optimiser.updates_per_batch
        # Each step draws from a seed of its own: a resumed run draws what the whole one would.
        torch.manual_seed(draw_seed(self._recipe.seed, step, self.place.process))
        return dict(self._session.draw(prompts, self, step, self.place))

    def _rewards(self, handle: list[Handle], **_: object) -> list[float | None]:
        return self._session.rewards(handle, _gather)


def _gather(items: list[object]) -> list[object]:
    gathered: list[object] = gather_object(items)
    return gathered


def _is_news(record: logging.LogRecord) -> bool:
    """TRL would print the completions that were masked; their number is in our record."""
    return not record.getMessage().startswith(_NO_REWARD)


@contextmanager
def _vllm_client(client: type[Any] | None) -> Iterator[None]:
    """Has TRL make its vLLM client of another class."""
    if client is None:
        yield
        return
    # Private: TRL 1.16 names the class in this module and takes no other.
    import trl.generation.vllm_generation

    module: Any = trl.generation.vllm_generation
    own = module.VLLMClient
    module.VLLMClient = client
    try:
        yield
    finally:
        module.VLLMClient = own
