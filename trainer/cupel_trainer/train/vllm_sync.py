"""TRL's client of a vLLM server, with weights through shared memory instead of NCCL.

TRL hands new weights to a vLLM server over NCCL, which needs a GPU on both sides. Where the trainer
has none, this client takes TRL's place: it hands them over by the swap of `cupel_trainer.engine`,
on the same machine, in float32 as they are. While it does, no request is in flight, and the server
refuses to answer with mixed weights, whatever breaks off.

Imports vLLM and TRL: import this module only where both are at hand.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from trl.generation.vllm_client import VLLMClient

from cupel_trainer.engine import ServerEngine, WeightSwapper
from cupel_trainer.errors import EngineError
from cupel_trainer.merge.stream import TensorSpec

Metadata = Sequence[tuple[str, str, list[int]]]
"""Name, dtype and shape of every tensor, as TRL announces them."""


class LiveWeights:
    """The weights that a trainer hands over, once: a `WeightStream` whose line is one point.

    Args:
        metadata: All tensors, in the order in which they come.
        config: The model's config.json.
    """

    def __init__(self, metadata: Metadata, config: Mapping[str, object]) -> None:
        self.config = config
        self.specs = tuple(
            TensorSpec(name, getattr(torch, dtype), tuple(shape)) for name, dtype, shape in metadata
        )
        self._coming: Iterator[tuple[str, torch.Tensor]] = iter(())
        self._hash = hashlib.sha256()

    def take(self, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
        """What the next hand-over brings.

        Args:
            tensors: Each tensor's name and its values.
        """
        self._coming = tensors
        self._hash = hashlib.sha256()

    def tensors(self, alpha: float) -> Iterator[tuple[str, torch.Tensor]]:
        """The weights; they come only once, whatever alpha is."""
        for name, tensor in self._coming:
            here = tensor.detach().cpu().contiguous()
            self._hash.update(name.encode())
            self._hash.update(here.view(-1).view(torch.uint8).numpy().data)
            yield name, here

    def digest(self, alpha: float) -> str:
        """The SHA-256 of all names and bytes that came, in their order."""
        return self._hash.hexdigest()


class SharedMemoryClient(VLLMClient):
    """TRL's client, but for the way that weights take.

    Args:
        config: The config.json of the model that is trained.
        base_url: Where the server listens.
        group_port: Not used: there is no group of processes.
        connection_timeout: How long it is waited for, in seconds.

    Raises:
        ConnectionError: It does not answer in that time.
    """

    def __init__(
        self,
        config: Mapping[str, object],
        *,
        base_url: str,
        group_port: int = 0,
        connection_timeout: float = 0.0,
    ) -> None:
        super().__init__(base_url=base_url, connection_timeout=connection_timeout)
        self._config = config
        self._engine = ServerEngine(self.base_url)
        self._weights: LiveWeights | None = None
        self._swapper: WeightSwapper | None = None

    def init_communicator(self, device: object = None) -> None:
        """Nothing to do before the first weights come: there is no group of processes to form."""

    def update_named_params(
        self, metadata: Metadata, named_params: Iterator[tuple[str, torch.Tensor]]
    ) -> None:
        """Hands over all weights.

        Args:
            metadata: All tensors of the model, in their order.
            named_params: Their values, in the same order.

        Raises:
            EngineError: The server cannot be reached, or was not started for it; the text says how.
            MergeRefused: The server serves another model.
        """
        if self._swapper is None or self._weights is None:
            self._weights = LiveWeights(metadata, self._config)
            self._swapper = WeightSwapper(self._engine, self._weights)
        self._weights.take(named_params)
        self._swapper.swap(0.0)

    def reset_prefix_cache(self) -> None:
        """Done with every hand-over, before the first new weight arrives."""

    def close_communicator(self) -> None:
        """Gives back the shared memory and the connection."""
        if self._swapper is not None:
            self._swapper.close()
            self._swapper = None
        self._engine.close()


def shared_memory_client(model: str) -> Callable[..., SharedMemoryClient]:
    """What makes this client where TRL would make its own.

    Args:
        model: The folder that training starts from; the server must have been started from it.

    Raises:
        EngineError: The folder has no config.json.
    """
    try:
        config = json.loads((Path(model) / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError(
            f"{model}/config.json cannot be read ({error}): without a GPU, weights go to a vLLM "
            "server from a folder that both were started from"
        ) from error
    return partial(SharedMemoryClient, config)
