"""What a merge method is: coefficients per tensor, and what they may depend on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from cupel_trainer.merge.kernel import Block, Rule
from cupel_trainer.merge.layout import TensorEntry

Blocks = Callable[[], Iterator[Block]]
"""Reads a tensor from its beginning, block after block; each call reads it once more."""


class Method(Protocol):
    """Says how each tensor of each output is blended from the inputs."""

    @property
    def formula(self) -> str:
        """The method in one line, for manifests."""

    def parameters(self, output: int) -> dict[str, object]:
        """All that determines an output beside the inputs, as JSON; part of its digest."""

    @property
    def reads_ahead(self) -> bool:
        """Whether `observe` must see the whole tensor before the first block is blended."""

    def observe(self, tensor: TensorEntry, blocks: Blocks) -> object:
        """What `rule` and `deltas` must know of the whole tensor; called if `reads_ahead`."""

    def rule(self, output: int, tensor: TensorEntry, observed: object) -> Rule:
        """The coefficients of one tensor in one output."""

    def deltas(self, output: int, tensor: TensorEntry, block: Block, observed: object) -> Block:
        """The block with its deltas as they enter the blend; mostly as it is."""
