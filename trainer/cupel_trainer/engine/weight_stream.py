"""What a swap needs of the weights: a model's tensors at any alpha."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


class TensorSpec(Protocol):
    """What a tensor of the model is."""

    @property
    def name(self) -> str:
        """As in a checkpoint of the hub's layout."""

    @property
    def dtype(self) -> torch.dtype:
        """In which it comes; the engine casts it to its own."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole tensor, not of a shard."""


class WeightStream(Protocol):
    """Weights on a line through checkpoints: `cupel_trainer.merge.stream.Lerp` is one."""

    @property
    def specs(self) -> Sequence[TensorSpec]:
        """All tensors, in the order in which they come; the same at every alpha."""

    def tensors(self, alpha: float) -> Iterator[tuple[str, torch.Tensor]]:
        """The weights at one alpha: each tensor's name and a tensor that the caller may keep."""

    def digest(self, alpha: float) -> str:
        """The SHA-256 that names the weights at one alpha."""
