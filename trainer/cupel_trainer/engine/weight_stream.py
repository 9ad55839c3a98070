"""What a swap needs of the weights: a model's tensors at any alpha."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

    from cupel_trainer.merge.stream import TensorSpec


class WeightStream(Protocol):
    """Weights on a line through checkpoints: `cupel_trainer.merge.stream.Lerp` is one."""

    @property
    def config(self) -> Mapping[str, object]:
        """The model's config.json."""

    @property
    def specs(self) -> Sequence[TensorSpec]:
        """All tensors, in the order in which they come; the same at every alpha."""

    def tensors(self, alpha: float) -> Iterator[tuple[str, torch.Tensor]]:
        """The weights at one alpha: each tensor's name and a tensor that the caller may keep."""

    def digest(self, alpha: float) -> str:
        """The SHA-256 that names the weights at one alpha."""
