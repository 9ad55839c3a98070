"""What a merged checkpoint was made of: the file `cupel_merge.json` in its folder.

It holds no time and no machine: the same inputs and the same formula give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cupel_trainer.errors import CheckpointError
from cupel_trainer.merge.checkpoint import MANIFEST, Checkpoint
from cupel_trainer.merge.places import Place


class Document(BaseModel):
    """Part of a manifest: frozen, unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class InputRecord(Document):
    """One of the checkpoints that were averaged."""

    location: str
    digest: str = Field(description="SHA-256 over its tensors: see `tensors_digest`.")
    tensors: dict[str, str] = Field(description="SHA-256 of each tensor's bytes, by name.")


class Manifest(Document):
    """What a merged checkpoint is, and how to check it."""

    kind: Literal["cupel.merge"] = "cupel.merge"
    version: Literal[1] = 1
    name: str
    method: str
    formula: str
    parameters: dict[str, object]
    recipe: dict[str, object] = Field(description="The recipe of this output alone, as JSON.")
    alpha: float | None = Field(description="Its place between the ends; null for other methods.")
    dtype: str | None = Field(description="Dtype of its floats, if not that of the inputs.")
    digest: str = Field(description="SHA-256 over formula, parameters, dtype, inputs' digests.")
    inputs: tuple[InputRecord, ...]
    tensors: dict[str, str] = Field(description="SHA-256 of each tensor's bytes, by name.")
    headers: dict[str, str] = Field(description="SHA-256 of each weight file's header.")
    files: dict[str, str] = Field(description="SHA-256 of each other file of the folder.")
    versions: dict[str, str]

    def content(self) -> bytes:
        """The file's content."""
        return self.model_dump_json(indent=1).encode() + b"\n"


def read_manifest(place: Place) -> Manifest:
    """The manifest in a folder.

    Raises:
        CheckpointError: There is none, or it is not valid.
    """
    if MANIFEST not in place.sizes_bytes():
        raise CheckpointError(
            f"{place.location}: no {MANIFEST} in it, so it is not a merge of ours"
        )
    try:
        return Manifest.model_validate_json(place.read_whole(MANIFEST))
    except ValidationError as error:
        raise CheckpointError(f"{place.location}/{MANIFEST}: {error}") from error


def tensors_digest(checkpoint: Checkpoint, hashes: Mapping[str, str]) -> str:
    """One SHA-256 for a checkpoint's weights, whatever files they are spread over.

    Args:
        checkpoint: For the tensors' dtypes and shapes.
        hashes: The SHA-256 of each tensor's bytes, by name.
    """
    return _digest(
        [
            [name, checkpoint.tensors[name].dtype, checkpoint.tensors[name].shape, hashes[name]]
            for name in sorted(checkpoint.tensors)
        ]
    )


def merge_digest(
    formula: str, parameters: Mapping[str, object], dtype: str | None, inputs: Sequence[str]
) -> str:
    """What names a merge before it is computed: the weights follow from it alone.

    Args:
        formula: The method's formula.
        parameters: The output's parameters.
        dtype: Dtype of its floats, if not that of the inputs.
        inputs: The inputs' digests, in their order.
    """
    return _digest([formula, parameters, dtype, list(inputs)])


def versions() -> dict[str, str]:
    """What computed it."""
    return {name: version(name) for name in ("cupel", "torch", "numpy")}


def _digest(document: object) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
