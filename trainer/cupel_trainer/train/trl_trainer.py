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

from cupel_trainer.errors import EngineError, RecipeError
from cupel_trainer.train.checkpoint_folder import seal
from cupel_trainer.train.order import Order
from cupel_trainer.train.recipe import Dtype, Recipe, RolloutKind, Schedule
from cupel_trainer.train.rollout import Handle, Ids, Sampler, Turn, draw_seed
from cupel_trainer.train.served import Served
from cupel_trainer.train.session import Place, Session
from cupel_trainer.train.step_record import StepRecord

_NO_REWARD = "All reward functions returned None"
_METRICS_MADE_HERE = ("reward", "rewards/", "completions/", "step_time", "profiling/", "num_tokens")


def make_config(recipe: Recipe, scratch: Path) -> GRPOConfig:
    """What TRL is told.

    Args:
        recipe: The run.
        scratch: Where it may write what is not whole yet.

    Raises:
        RecipeError: This machine cannot do what the recipe says.
    """
    bfloat16 = recipe.precision.compute is Dtype.BFLOAT16
    if bfloat16 and recipe.precision.device == "auto" and not torch.accelerator.is_available():
        raise RecipeError(
            "precision.compute: bfloat16 wants an accelerator, and there is none: on a CPU say "
            'precision.compute = "float32" and precision.device = "cpu"'
        )
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
        bf16=bfloat16,
        use_cpu=recipe.precision.device == "cpu",
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
        **_checkpointing(recipe),
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


def _checkpointing(recipe: Recipe) -> dict[str, Any]:  # Any: as above
    # Its name from transformers 5.24 on, and before: environments with vLLM have older ones.
    names = ("activation_checkpointing", "gradient_checkpointing")
    name = next(each for each in names if each in GRPOConfig.__dataclass_fields__)
    return {name: recipe.parallelism.gradient_checkpointing}


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
        with _vllm_client(vllm_client or _own_client(recipe)):
            super().__init__(
                model=model,
                reward_funcs=self._rewards,
                args=config,
                train_dataset=Dataset.from_dict({"prompt": ids}),
                processing_class=tokenizer,
                rollout_func=self._roll_out,
            )
        self._served = Served(recipe, self) if _is_served(recipe) else None
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

    def hand_over(self) -> None:
        """Hands the weights to the vLLM server; every process takes part."""
        generation: Any = self.vllm_generation  # its methods have no types
        generation.sync_weights()
        # Private: TRL's own mark, so that it does not hand the same weights over once more.
        self._last_loaded_step = self.state.global_step

    def close(self) -> None:
        """Closes connections to a vLLM server, and what weights went through."""
        if self._served is None:
            return
        self._served.close()
        client = getattr(self.vllm_generation, "vllm_client", None)  # in the main process only
        if client is not None:
            client.close_communicator()
            client.session.close()

    def any_active(self, active: bool) -> bool:
        """Whether any process has episodes under way."""
        if self.accelerator.num_processes == 1:
            return active
        flag = torch.tensor([int(active)], device=self.accelerator.device)
        return bool(self.accelerator.gather(flag).any())

    def alone(self, number: int) -> Sampler | None:
        """What draws the turns of one episode by itself: a vLLM server does."""
        return None if self._served is None else self._served.alone(number)

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
        error = None if self._served is None else self._served.error
        record = self._session.record(step, said, _gather, error)
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
        seed = draw_seed(self._recipe.seed, step, self.place.process)
        torch.manual_seed(seed)
        if self._served is not None:
            self._served.begin(seed)
        return dict(self._session.draw(prompts, self, step, self.place))

    def _rewards(self, handle: list[Handle], **_: object) -> list[float | None]:
        return self._session.rewards(handle, _gather)


def _is_served(recipe: Recipe) -> bool:
    return recipe.rollouts.kind is RolloutKind.VLLM_SERVER


def _own_client(recipe: Recipe) -> Callable[..., Any] | None:
    """What takes weights to a server where TRL's client, which needs a GPU for it, cannot."""
    if not _is_served(recipe):
        return None
    if recipe.precision.device != "cpu" and torch.cuda.is_available():
        return None
    try:
        from cupel_trainer.train.vllm_sync import shared_memory_client
    except ImportError as error:
        raise EngineError(
            f"rollouts.kind = vllm-server needs vLLM where it trains, too ({error}): "
            "install the extra `vllm`"
        ) from error
    return shared_memory_client(recipe.model.path)


def _gather(items: list[object]) -> list[object]:
    gathered: list[object] = gather_object(items)
    return gathered


def _is_news(record: logging.LogRecord) -> bool:
    """TRL would print the completions that were masked; their number is in our record."""
    return not record.getMessage().startswith(_NO_REWARD)


@contextmanager
def _vllm_client(client: Callable[..., Any] | None) -> Iterator[None]:
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
