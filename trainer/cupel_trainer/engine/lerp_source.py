"""A stream of weights as vLLM's weight-transfer protocol takes them.

Imports vLLM: import this module only where an engine is at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from vllm.distributed.weight_transfer import ParamMeta, WeightSource

from cupel_trainer.engine.weight_stream import WeightStream
from cupel_trainer.errors import EngineError


class LerpSource(WeightSource):  # type: ignore[misc]  # vLLM is not there when types are checked
    """theta(alpha), tensor by tensor: any of vLLM's weight-transfer engines can move it.

    Each pass over it gives the weights at the alpha that it holds when the pass begins.

    Args:
        stream: The weights.
        alpha: Which ones, until another is set.
        device: Where tensors are put before they are handed on: `cuda` for vLLM's NCCL and IPC
            engines, which send from there; where they are if None.
        on_bytes: Called with the size of each tensor that is handed on.
    """

    def __init__(
        self,
        stream: WeightStream,
        *,
        alpha: float = 0.0,
        device: str | None = None,
        on_bytes: Callable[[int], None] | None = None,
    ) -> None:
        self.alpha = alpha
        self._stream = stream
        self._device = device
        self._on_bytes = on_bytes
        self._specs = {spec.name: spec for spec in stream.specs}

    def metadata(self) -> list[ParamMeta]:
        """Names, dtypes and shapes of what iteration gives, in its order."""
        return [ParamMeta(spec.name, spec.dtype, spec.shape) for spec in self._specs.values()]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Gives every tensor once, each as `metadata` says.

        Raises:
            EngineError: The stream gives other tensors than it promised.
            TrainerError: What the stream raises.
        """
        promised = iter(self._specs.values())
        for name, tensor in self._stream.tensors(self.alpha):
            spec = next(promised, None)
            if spec is None:
                raise EngineError(f"tensor {name} comes after the last that was promised")
            found = (name, tensor.dtype, tuple(tensor.shape))
            if found != (spec.name, spec.dtype, spec.shape):
                wanted = f"{spec.name} ({spec.dtype}, {list(spec.shape)})"
                got = f"{name} ({tensor.dtype}, {list(tensor.shape)})"
                raise EngineError(f"tensor {wanted} was promised, {got} came")
            yield name, tensor if self._device is None else tensor.to(self._device)
            if self._on_bytes is not None:
                self._on_bytes(tensor.nbytes)
        if (spec := next(promised, None)) is not None:
            raise EngineError(f"tensor {spec.name} was promised and did not come")
