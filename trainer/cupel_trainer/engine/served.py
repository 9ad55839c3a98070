"""Which tensors an engine was started with, and whether a stream brings the same.

The engine has shown that it can load the checkpoint it was started from. A stream of tensors of the
same names and shapes loads as well; any other is refused, before a weight changes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from cupel_trainer.errors import EngineError

INDEX = "model.safetensors.index.json"
SHOWN = 12
"""Differences that are shown of each kind."""


def served_shapes(model: str, revision: str | None = None) -> dict[str, tuple[int, ...]]:
    """The tensors of the checkpoint that an engine was started from.

    Args:
        model: A folder, or a model's name on the hub; then its files in the hub's cache are read.
        revision: Of the hub's model.

    Returns:
        Each tensor's shape, by its name.

    Raises:
        EngineError: There are no safetensors files to be read.
    """
    from safetensors import SafetensorError, safe_open

    folder = _folder(model, revision)
    index = folder / INDEX
    try:
        if index.exists():
            names = set(json.loads(index.read_text())["weight_map"].values())
            files = sorted(folder / name for name in names)
        else:
            files = sorted(folder.glob("*.safetensors"))
        shapes: dict[str, tuple[int, ...]] = {}
        for file in files:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118  # it is no mapping
                    shapes[name] = tuple(opened.get_slice(name).get_shape())
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise EngineError(
            f"{model}: cannot tell which tensors the engine holds: {error}"
        ) from error
    if not shapes:
        raise EngineError(
            f"{model}: holds no safetensors files, so that it cannot be checked which tensors the "
            "engine takes: start the engine from the low or high checkpoint's folder"
        )
    return shapes


def differences(
    served: Mapping[str, tuple[int, ...]], offered: Mapping[str, tuple[int, ...]], *, tied: bool
) -> list[str]:
    """How the tensors on offer differ from those that the engine was started with.

    Args:
        served: Shapes by name, of the engine's checkpoint.
        offered: Shapes by name, of the stream.
        tied: Whether the model's output embedding is its input embedding; then engines pass over
            `lm_head.weight`, which may be stored or not.

    Returns:
        One line each; none if the engine can load what is offered.
    """
    optional = {"lm_head.weight"} if tied else set()
    lines = []
    for what, names in (
        ("is missing", [name for name in served if name not in offered]),
        ("is not in the engine's model", [name for name in offered if name not in served]),
    ):
        wrong = [f"tensor {name} {what}" for name in names if name not in optional]
        lines += _shortened(wrong)
    lines += _shortened(
        [
            f"tensor {name}: shape {list(shape)}, the engine has {list(served[name])}"
            for name, shape in offered.items()
            if name in served and served[name] != shape
        ]
    )
    return lines


def _folder(model: str, revision: str | None) -> Path:
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(model, revision=revision, local_files_only=True))
    except (OSError, HFValidationError) as error:
        raise EngineError(f"{model}: not a folder, and not in the hub's cache here") from error


def _shortened(lines: list[str]) -> list[str]:
    if len(lines) <= SHOWN:
        return lines
    return [*lines[:SHOWN], f"... and {len(lines) - SHOWN} more of the same kind"]
