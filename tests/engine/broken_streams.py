"""Streams of weights that break off, stop, or promise another model."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from cupel_trainer.engine import ServerEngine, WeightStream, WeightSwapper
from cupel_trainer.merge.stream import Lerp, TensorSpec


@dataclass
class Stream:
    """Another stream's weights."""

    of: WeightStream

    @property
    def config(self) -> Mapping[str, object]:
        return self.of.config

    @property
    def specs(self) -> Sequence[TensorSpec]:
        return self.of.specs

    def tensors(self, alpha: float) -> Iterator[tuple[str, torch.Tensor]]:
        return self.of.tensors(alpha)

    def digest(self, alpha: float) -> str:
        return self.of.digest(alpha)


@dataclass
class BreaksOff(Stream):
    """Raises after some tensors, until it is mended."""

    after: int = 0
    broken: bool = True

    def tensors(self, alpha: float) -> Iterator[tuple[str, torch.Tensor]]:
        for count, pair in enumerate(self.of.tensors(alpha)):
            if self.broken and count == self.after:
                raise OSError("the disk is gone")
            yield pair


@dataclass
class Promises(Stream):
    """Says other names, shapes or settings than the engine's model has."""

    without: str = ""
    reshaped: dict[str, tuple[int, ...]] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    settings: dict[str, object] = field(default_factory=dict)

    @property
    def config(self) -> Mapping[str, object]:
        return {**self.of.config, **self.settings}

    @property
    def specs(self) -> Sequence[TensorSpec]:
        return tuple(
            replace(
                spec,
                name=self.renamed.get(spec.name, spec.name),
                shape=self.reshaped.get(spec.name, spec.shape),
            )
            for spec in self.of.specs
            if spec.name != self.without
        )


@dataclass
class Stops(Stream):
    """Says so on standard output in the middle, and sleeps."""

    def tensors(self, alpha: float) -> Iterator[tuple[str, torch.Tensor]]:
        for count, pair in enumerate(self.of.tensors(alpha)):
            if count == len(self.specs) // 2:
                print("in the middle", flush=True)  # noqa: T201  # the test waits for it
                time.sleep(600)
            yield pair


def main() -> None:
    """Begins a swap of a server and stays in its middle, to be killed there."""
    from cupel_trainer.engine.shared_memory import SharedMemoryTrainerInitInfo

    low, high, url = sys.argv[1:]
    small = SharedMemoryTrainerInitInfo(rank=0, chunk_bytes=1)
    lerp = Lerp(str(Path(low)), str(Path(high)))
    WeightSwapper(ServerEngine(url), Stops(lerp), transport=small).swap(1.3)


if __name__ == "__main__":
    main()
