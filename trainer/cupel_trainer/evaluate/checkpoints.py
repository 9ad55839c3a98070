"""What a checkpoint is called in a study, and its place between the ends."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from cupel_trainer.errors import CheckpointError
from cupel_trainer.evaluate.record_file import first_fault
from cupel_trainer.evaluate.records import CheckpointRef

MANIFEST = "cupel_merge.json"
"""What `cupel merge` writes into the folder of each checkpoint that it makes."""


_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


class _Merge(BaseModel):
    """What is wanted of a merge's manifest; it holds more."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    name: str = ""
    alpha: float | None = None
    digest: str = ""


def describe_checkpoint(
    checkpoint: str, *, name: str = "", alpha: float | None = None, base_url: str = ""
) -> CheckpointRef:
    """Says which checkpoint samples are from.

    Args:
        checkpoint: Its folder, its name on a hub, or that of a served model.
        name: What it is called; by default as its merge manifest says, else the folder's name.
        alpha: Its place between the ends; by default as its merge manifest says.
        base_url: Where it is served, if it is.

    Raises:
        CheckpointError: Its merge manifest cannot be read.
    """
    folder = Path(checkpoint)
    local = folder.is_dir()
    merge = _read_merge(folder) if local else _Merge()
    loaded_path = str(folder.resolve()) if local else checkpoint
    by_default = merge.name or (folder.resolve().name if local else checkpoint)
    return CheckpointRef(
        name=name or by_default,
        path=served_path(base_url, checkpoint) if base_url else loaded_path,
        alpha=merge.alpha if alpha is None else alpha,
        digest=merge.digest,
    )


def served_path(base_url: str, model: str) -> str:
    """How a served model is written as a path: the endpoint's URL, the model as its fragment."""
    return f"{base_url}#{model}"


def split_served_path(path: str) -> tuple[str, str]:
    """The endpoint's URL and the model of a served model's path; the reverse of `served_path`."""
    base_url, _, model = path.partition("#")
    return base_url, model


def check_loadable(ref: CheckpointRef) -> None:
    """Makes sure, before anything is written or loaded, that there is a checkpoint, and the same.

    Raises:
        CheckpointError: There is no such folder, and it is no name on a hub; or its folder holds
            another checkpoint than the digest says.
    """
    folder = Path(ref.path)
    if not folder.is_dir() and not _HUB_NAME.fullmatch(ref.path):
        raise CheckpointError(f"{ref.path}: no such folder, nor a model's name as `owner/model`")
    if ref.digest and folder.is_dir() and _read_merge(folder).digest != ref.digest:
        raise CheckpointError(
            f"{folder} holds another checkpoint than {ref.name!r}, whose digest is {ref.digest}: "
            "restore it, or evaluate the new one"
        )


def _read_merge(folder: Path) -> _Merge:
    path = folder / MANIFEST
    try:
        return _Merge.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return _Merge()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise CheckpointError(f"{path} is no manifest of a merge: {first_fault(error)}") from error
