"""Swaps a running engine to other weights on the line between two checkpoints."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from cupel_trainer.engine.control import RunningEngine
from cupel_trainer.engine.weight_stream import WeightStream
from cupel_trainer.errors import EngineError, MergeRefused

if TYPE_CHECKING:
    from vllm.distributed.weight_transfer.base import TrainerInitInfo

SHARED_MEMORY = "cupel_shared_memory"
WORKER_EXTENSION = "cupel_trainer.engine.swap_worker.SwapWorker"
UNFINISHED_VERSION = "unfinished"
"""The weight version of an engine while it is swapped, and after a swap that broke off."""


@dataclass(frozen=True, slots=True)
class Swap:
    """A swap that was done."""

    alpha: float
    weight_version: str
    """SHA-256 of the weights that the engine now holds, as a merge's manifest has it."""
    previous_version: str
    tensors: int
    size_bytes: int
    wall_s: float
    """From the moment when no request was in flight to when requests were let in again."""


def engine_options(transport: str = SHARED_MEMORY) -> dict[str, object]:
    """What an engine must be started with so that it can be swapped: `LLM(model, **options)`.

    For a server the same, in its words: `--worker-extension-cls` and `--weight-transfer-config`.

    Args:
        transport: `cupel_shared_memory` from the same machine, with or without GPUs; `nccl` or
            `ipc` for vLLM's own between GPUs.
    """
    return {
        "worker_extension_cls": WORKER_EXTENSION,
        "weight_transfer_config": {"backend": transport},
    }


class WeightSwapper:
    """Brings an engine to any alpha, again and again.

    Args:
        engine: Started with `engine_options()`.
        stream: The weights, of the same model as the engine's.
        transport: How weights get to the engine: a `TrainerInitInfo` of vLLM's, such as
            `NCCLTrainerInitInfo`; through shared memory if None.
        device: Where the transport takes tensors from: `cuda` for NCCL and IPC.
        on_bytes: Called with the size of each tensor that is handed on.

    Raises:
        EngineError: vLLM is not installed here, or the engine cannot be reached or does not agree.
    """

    def __init__(
        self,
        engine: RunningEngine,
        stream: WeightStream,
        *,
        transport: TrainerInitInfo | None = None,
        device: str | None = None,
        on_bytes: Callable[[int], None] | None = None,
    ) -> None:
        try:
            from vllm.distributed.weight_transfer import WeightTransferTrainerFactory

            from cupel_trainer.engine.lerp_source import LerpSource
            from cupel_trainer.engine.shared_memory import SharedMemoryTrainerInitInfo
        except ImportError as error:
            raise EngineError(f"vLLM cannot be imported here ({error}): install it") from error
        self._engine = engine
        self._stream = stream
        self._source = LerpSource(stream, device=device, on_bytes=on_bytes)
        try:
            self._sender = WeightTransferTrainerFactory.trainer_init(
                transport or SharedMemoryTrainerInitInfo(rank=0),
                client=engine,
                source=self._source,
            )
        except Exception as error:
            raise EngineError(
                f"the engine does not take weights: {error}\nStart it with what "
                "cupel_trainer.engine.engine_options() says, for the transport that is used here."
            ) from error

    @property
    def size_bytes(self) -> int:
        """What one swap hands to the engine."""
        return sum(math.prod(spec.shape) * spec.dtype.itemsize for spec in self._stream.specs)

    def swap(self, alpha: float) -> Swap:
        """Brings the engine to theta(alpha) = low + alpha * (high - low).

        No request is in flight meanwhile, and nothing that old weights computed is used afterwards.

        Args:
            alpha: 0 is low, 1 is high; any other finite number interpolates or extrapolates.

        Returns:
            What was done; the engine's weight version is the weights' SHA-256.

        Raises:
            MergeRefused: The stream is of another model than the engine's; the engine goes on as
                it was.
            EngineError: The engine cannot be reached or does not obey. If the swap had begun, the
                engine holds mixed weights and answers nothing until a later swap is done or it is
                restarted; the text says so.
        """
        if not math.isfinite(alpha):
            raise EngineError(f"alpha {alpha}: give a finite number")
        engine = self._engine
        previous = engine.weight_version()
        self._check()
        engine.pause()
        started = time.perf_counter()
        swap_id = secrets.token_hex(8)
        try:
            engine.call_workers("begin_swap", swap_id=swap_id)
            engine.set_weight_version(UNFINISHED_VERSION)
            self._source.alpha = alpha
            self._sender.send_weights()
            digest = self._stream.digest(alpha)
            engine.call_workers("end_swap", swap_id=swap_id)
            engine.set_weight_version(digest)
            engine.resume()
        except Exception as error:
            raise EngineError(
                f"the swap to alpha {alpha:g} broke off: {error}\nUnless another swap took over, "
                "the engine holds mixed weights and answers nothing now. "
                "Swap it again once the cause is gone, or restart it."
            ) from error
        return Swap(
            alpha=alpha,
            weight_version=digest,
            previous_version=previous,
            tensors=len(self._stream.specs),
            size_bytes=self.size_bytes,
            wall_s=time.perf_counter() - started,
        )

    def close(self) -> None:
        """Gives back what the transport holds in this process; `with` does it, too."""
        self._sender.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self) -> None:
        tensors = [(spec.name, list(spec.shape)) for spec in self._stream.specs]
        try:
            answers = self._engine.call_workers(
                "check_swap", tensors=tensors, config=dict(self._stream.config)
            )
        except Exception as error:
            raise EngineError(
                f"the engine cannot be swapped: {error}\nStart it with what "
                "cupel_trainer.engine.engine_options() says."
            ) from error
        refused = dict.fromkeys(line for answer in answers for line in answer["refused"])
        if refused:
            raise MergeRefused(
                "the engine serves another model; start it from the low or the high checkpoint's "
                "folder:\n  " + "\n  ".join(refused)
            )
