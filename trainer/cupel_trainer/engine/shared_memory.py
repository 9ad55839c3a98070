"""Weights to engines on the same machine, through shared memory; no GPU is needed for it.

Theory of operation. vLLM's own transports move tensors between GPUs. This one registers beside them
under the name `cupel_shared_memory` and runs the same four calls: `init_weight_transfer_engine`,
`start_weight_update`, `update_weights` once per chunk, `finish_weight_update`. The sender keeps one
anonymous file in memory (memfd). It writes a chunk's tensors into it, one after the other, and
sends the file's path in /proc with each tensor's name, dtype, shape and offset. The workers copy
the bytes out and load them with the model's own loaders, which cut, fuse and repack tensors as when
the engine started. When all workers have answered, the next chunk takes the same place. No file
has a name, so nothing is left behind when either side is killed.

Imports vLLM: import this module only where an engine is at hand.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from vllm.distributed.weight_transfer import (
    TrainerWeightTransferEngine,
    VLLMWeightSyncClient,
    WeightSource,
    WeightTransferEngine,
    WeightTransferEngineFactory,
    WeightTransferTrainerFactory,
)
from vllm.distributed.weight_transfer.base import (
    TrainerInitInfo,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)

BACKEND = "cupel_shared_memory"
CHUNK_BYTES = 256 * 1024 * 1024
"""A chunk is sent when it has grown to this; a larger tensor is a chunk of its own."""


@dataclass
class SharedMemoryInitInfo(WeightTransferInitInfo):  # type: ignore[misc]  # vLLM has no types here
    """Where the chunks will lie."""

    path: str


@dataclass
class SharedMemoryUpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc]  # as above
    """Where a chunk lies, and which tensors it holds: name, dtype, shape, offset in bytes."""

    path: str
    tensors: list[tuple[str, str, list[int], int]]


@dataclass
class SharedMemoryTrainerInitInfo(TrainerInitInfo):  # type: ignore[misc]  # as above
    """What the sender must know: how large a chunk is, and its rank (0 sends)."""

    backend: ClassVar[str] = BACKEND

    chunk_bytes: int = CHUNK_BYTES


class SharedMemoryEngine(WeightTransferEngine):  # type: ignore[misc]  # as above
    """The receiving side, in each of vLLM's workers."""

    init_info_cls = SharedMemoryInitInfo
    update_info_cls = SharedMemoryUpdateInfo

    def init_transfer_engine(self, init_info: SharedMemoryInitInfo) -> None:
        """Remembers the file and sees to it that it can be read, before any weight changes.

        Raises:
            ValueError: It cannot be read.
        """
        try:
            Path(init_info.path).open("rb").close()
        except OSError as error:
            raise ValueError(
                f"the sender's memory cannot be read ({error}): swap from the engine's own "
                "machine, as the same user and in the same container"
            ) from error
        self._path = init_info.path

    def start_weight_update(self) -> None:
        """Lets the model's layers await weights as a checkpoint has them."""
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:  # Any: vLLM's own signature
        """Loads one chunk; vLLM's version ends with a call that fails where there is no GPU."""
        if self.device.type == "cpu":
            self.receive_weights(self.parse_update_info(update_info))
        else:
            super().update_weights(update_info)

    def receive_weights(self, update_info: SharedMemoryUpdateInfo) -> None:
        """Copies one chunk's tensors out of shared memory and loads them into the model.

        Raises:
            ValueError: It comes from another sender than the one that announced itself last.
        """
        if update_info.path != self._path:
            raise ValueError("another sender has taken over")
        from vllm.model_executor.model_loader.mtp_validation import disable_mtp_completeness_check

        # A chunk holds a part of the model only: what is missing comes in the next.
        with disable_mtp_completeness_check():
            self.model.load_weights(_read(update_info))

    def finish_weight_update(self) -> None:
        """Puts the layers back to work, also those that got no weights."""
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Nothing to close."""


class SharedMemoryTrainerEngine(TrainerWeightTransferEngine):  # type: ignore[misc]  # as above
    """The sending side, in the process that has the weights."""

    init_info_cls = SharedMemoryTrainerInitInfo

    def __init__(
        self,
        *,
        client: VLLMWeightSyncClient,
        source: WeightSource,
        is_sender: bool,
        chunk_bytes: int,
    ) -> None:
        super().__init__(client=client, source=source, is_sender=is_sender)
        self._chunk_bytes = chunk_bytes
        self._file = os.fdopen(os.memfd_create(BACKEND), "wb")
        self._path = f"/proc/{os.getpid()}/fd/{self._file.fileno()}"

    @classmethod
    def trainer_init(
        cls,
        init_info: SharedMemoryTrainerInitInfo,
        *,
        client: VLLMWeightSyncClient,
        source: WeightSource | None = None,
    ) -> Self:
        """Makes the sender and tells the workers; called on every rank of the trainer."""
        if source is None:
            raise ValueError("weights through shared memory need a WeightSource")
        engine = cls(
            client=client,
            source=source,
            is_sender=init_info.is_sender,
            chunk_bytes=init_info.chunk_bytes,
        )
        if engine.is_sender:
            try:
                client.init_weight_transfer_engine({"path": engine._path})
            except BaseException:
                engine.shutdown()
                raise
        return engine

    def send_weights(self) -> None:
        """Runs one whole update: start, every chunk, finish."""
        if not self.is_sender:
            for _ in self.source:  # gathering a sharded tensor takes every rank
                pass
            return
        # Again, because another sender may have been at work since: its chunks are refused now.
        self.client.init_weight_transfer_engine({"path": self._path})
        self.client.start_weight_update()
        try:
            for tensors in self._write_chunks():
                self.client.update_weights({"path": self._path, "tensors": tensors})
        finally:
            self._file.seek(0)
            self._file.truncate()  # gives the memory back
        self.client.finish_weight_update()

    def shutdown(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write_chunks(self) -> Iterator[list[tuple[str, str, list[int], int]]]:
        """Yields each chunk's tensors when it lies in the file, which the next one overwrites."""
        tensors: list[tuple[str, str, list[int], int]] = []
        self._file.seek(0)
        for name, tensor in self.source:
            dtype = str(tensor.dtype).removeprefix("torch.")
            tensors.append((name, dtype, list(tensor.shape), self._file.tell()))
            self._file.write(_bytes_of(tensor.detach().cpu()))
            if self._file.tell() >= self._chunk_bytes:
                self._file.flush()
                yield tensors
                tensors = []
                self._file.seek(0)
        self._file.flush()
        if tensors:
            yield tensors


def _read(update_info: SharedMemoryUpdateInfo) -> Iterator[tuple[str, torch.Tensor]]:
    """Copies tensors out: vLLM keeps some until their layer is complete, in a later chunk."""
    with Path(update_info.path).open("rb") as file:
        for name, dtype_name, shape, offset in update_info.tensors:
            tensor = torch.empty(shape, dtype=getattr(torch, dtype_name))
            file.seek(offset)
            _read_into(file, name, _bytes_of(tensor))
            yield name, tensor


def _read_into(file: io.BufferedReader, name: str, place: memoryview) -> None:
    done = 0
    while done < len(place):  # one read takes at most 2 GiB
        count = file.readinto(place[done:])
        if not count:
            raise ValueError(f"tensor {name} was cut off in shared memory")
        done += count


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """A contiguous tensor's memory, also of dtypes that numpy does not know."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


# Once per process, when a worker or a sender imports this module: vLLM looks transports up by name.
WeightTransferEngineFactory.register_engine(BACKEND, SharedMemoryEngine)
WeightTransferTrainerFactory.register_engine(BACKEND, SharedMemoryTrainerEngine)
