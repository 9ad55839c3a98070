"""A vLLM server beside a trainer: it gets the weights, and draws every episode by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cupel_trainer.train.recipe import Recipe, VerifySync
from cupel_trainer.train.rollout import Sampler
from cupel_trainer.train.vllm_server import OneEpisode, VllmServer, compare, probe_ids

if TYPE_CHECKING:
    from cupel_trainer.train.trl_trainer import CupelTrainer


class Served:
    """A trainer's vLLM server.

    Args:
        recipe: The run.
        trainer: Has the weights.

    Raises:
        EngineError: No server answers.
    """

    def __init__(self, recipe: Recipe, trainer: CupelTrainer) -> None:
        rollouts = recipe.rollouts
        self._recipe = recipe
        self._trainer = trainer
        self._server = VllmServer.at(
            rollouts.url, connections=rollouts.in_flight, timeout_s=rollouts.turn_timeout_s
        )
        self._seed = 0
        self._handed_step: int | None = None
        self.error: float | None = None
        """Of the last hand-over, in the main process; None where it was not compared."""

    def begin(self, seed: int) -> None:
        """Begins a step: hands the weights over, if they are new; every process takes part.

        Args:
            seed: Of the step's draws in this process.

        Raises:
            EngineError: The server did not take them, or has others.
        """
        self._seed = seed
        step = self._trainer.state.global_step
        if step == self._handed_step:
            return
        self._trainer.hand_over()
        is_first = self._handed_step is None
        self._handed_step = step
        wanted = self._recipe.rollouts.verify_sync
        compared = wanted is VerifySync.EVERY or (wanted is VerifySync.FIRST and is_first)
        self.error = self._compare() if compared else None

    def alone(self, number: int) -> Sampler:
        """What draws one episode's turns, with a seed of its own.

        Args:
            number: Of the episode within the step.
        """
        return OneEpisode(self._server, self._recipe.sampling, self._seed, number)

    def close(self) -> None:
        """Closes the connections."""
        self._server.close()

    def _compare(self) -> float | None:
        import torch

        trainer = self._trainer
        model: Any = trainer.model_wrapped  # wrapped by whatever shards it
        tokenizer: Any = trainer.processing_class
        ids = probe_ids(len(tokenizer))
        training = model.training
        model.eval()
        with torch.no_grad():  # sharded weights need every process
            inputs = torch.tensor([ids], device=trainer.accelerator.device)
            scores = model(input_ids=inputs).logits[0, :-1].float().log_softmax(-1)
        model.train(training)
        if not trainer.accelerator.is_main_process:
            return None
        own = scores.gather(1, inputs[0, 1:, None])[:, 0].tolist()
        return compare(own, self._server.log_probabilities(ids))
