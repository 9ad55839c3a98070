"""What runs inside vLLM's workers: an extension of their class, named when the engine starts.

Importing this module also registers the transport through shared memory in the worker, before the
worker looks its transport up: `worker_extension_cls` is the one hook that needs no installed
plugin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cupel_trainer.engine import shared_memory  # noqa: F401  # registers the transport
from cupel_trainer.engine.served import model_differences, served_checkpoint
from cupel_trainer.errors import TrainerError

UNFINISHED = (
    "Cupel: a swap of weights was begun and not finished, the weights are mixed: "
    "swap again, or restart the engine"
)


class SwapWorker:
    """Methods that `collective_rpc` calls before and after the weight-transfer protocol's own.

    Between the two the worker refuses to run the model. So whatever breaks off a swap, and whoever
    lets the engine go on afterwards, mixed weights never answer: the engine stops with an error.
    """

    # Of vLLM's worker, which has no types where types are checked.
    vllm_config: Any
    model_runner: Any
    device: Any

    def check_swap(
        self, tensors: Sequence[tuple[str, Sequence[int]]], config: Mapping[str, object]
    ) -> dict[str, list[str]]:
        """Checks what is to come against the engine's model; changes nothing.

        Args:
            tensors: Name and whole shape of each.
            config: The model's config.json.

        Returns:
            `refused`: why the engine cannot load them, one line per reason; empty if it can.
        """
        mine = self.vllm_config.model_config
        try:
            served = served_checkpoint(mine.model, mine.revision)
        except TrainerError as error:
            return {"refused": [str(error)]}
        shapes = {name: tuple(shape) for name, shape in tensors}
        return {"refused": model_differences(served, shapes, config)}

    def begin_swap(self, swap_id: str) -> dict[str, list[str]]:
        """From here on the worker refuses to run the model, until this very swap ends.

        Args:
            swap_id: Of this swap alone: one that it takes over from cannot end it.
        """
        if "execute_model" in self.__dict__:
            self._close_broken_update()
        self._swap_id = swap_id
        # On the instance: vLLM forbids extensions to replace a method of its class, and a hook in
        # the model would not run where a CUDA graph is replayed.
        self.execute_model = self._refuse_to_execute
        return {}

    def end_swap(self, swap_id: str) -> dict[str, list[str]]:
        """Lets the model run again; call it only when every tensor was loaded.

        Raises:
            RuntimeError: Another swap has begun since.
        """
        if swap_id != self._swap_id:
            raise RuntimeError("Cupel: another swap of weights has taken over")
        if self.device.type == "cpu":
            _repack_output_embeddings(self.model_runner.get_model())
        self.__dict__.pop("execute_model", None)
        return {}

    def _refuse_to_execute(self, scheduled: Any, *rest: object) -> object:  # Any: of vLLM's
        # A step without tokens only forgets requests whose clients went away.
        if scheduled.total_num_scheduled_tokens:
            raise RuntimeError(UNFINISHED)
        return type(self).execute_model(self, scheduled, *rest)

    def _close_broken_update(self) -> None:
        """Brings layers that still await weights back into their shape, for the next update."""
        try:
            self.finish_weight_update()  # type: ignore[attr-defined]  # of vLLM's worker
        except RuntimeError:  # vLLM had closed it, at the error that broke it off
            self.start_weight_update()  # type: ignore[attr-defined]  # as above
            self.finish_weight_update()  # type: ignore[attr-defined]  # as above


def _repack_output_embeddings(model: Any) -> None:  # Any: a model of vLLM's
    """Packs output embeddings anew: on the CPU they multiply by a packed copy of their weight.

    A tied embedding gets its weight through the input embedding, and vLLM then packs only that.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)
