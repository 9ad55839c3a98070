"""What a merge method is: coefficients per tensor, and what they may depend on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from cupel_trainer.merge.kernel import Block, Rule
from cupel_trainer.merge.layout import TensorEntry

Blocks = Callable[[], Iterator[Block]]
"""Reads a tensor from its beginning, block after block; each call reads it once more."""


class Method(Protocol):
    """Says how each tensor of each output is blended from the inputs.

    Methods inherit from it. What is no stub here holds for those whose coefficients do not depend
    on what the tensors hold. Whatever a method computes must not depend on how long stretches are,
    which worker has a tensor, or where a killed merge was: on whole tensors and on `Block.offset`
    only.
    """

    @property
    def formula(self) -> str:
        """The method in one line, for manifests."""

    def parameters(self, output: int) -> dict[str, object]:
        """All that determines an output beside the inputs, as JSON; part of its digest."""

    def rule(self, output: int, tensor: TensorEntry, observed: object) -> Rule:
        """The coefficients of one tensor in one output."""

    @property
    def reads_ahead(self) -> bool:
        """Whether `observe` must see the whole tensor before the first block is blended."""
        return False

    def observe(self, tensor: TensorEntry, blocks: Blocks) -> object:
        """What `rule` and `deltas` must know of the whole tensor; called if `reads_ahead`."""
        return None

    def deltas(self, tensor: TensorEntry, block: Block, observed: object) -> Block:
        """The block with its deltas as they enter the blend of every output.

        They may be fewer than the inputs' deltas: the rule's first coefficients are theirs.
        """
        return block

    def copied(self, output: int, tensors: Iterable[TensorEntry]) -> int | None:
        """The input that an output equals byte for byte, whatever the tensors hold, if any.

        Here: the one that every tensor's rule selects. To be said anew by methods that read ahead
        or change deltas.
        """
        found: set[int] = set()
        for entry in tensors:
            rule = self.rule(output, entry, None)
            ones = [index + 1 for index, value in enumerate(rule.coefficients) if value == 1.0]
            if (
                rule.scale != 1.0
                or len(ones) > 1
                or any(value not in (0.0, 1.0) for value in rule.coefficients)
            ):
                return None
            found.add(ones[0] if ones else 0)
        return found.pop() if len(found) == 1 else None
