"""Which checkpoint an engine was started from, and whether a stream brings the same model.

The engine has shown that it can load that checkpoint. Tensors of the same names and shapes, for a
config that says the same, load as well; any others are refused before a weight changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cupel_trainer.errors import EngineError
from cupel_trainer.merge.agreement import SHOWN, config_differences, is_tied
from cupel_trainer.merge.checkpoint import Checkpoint, open_checkpoint


def served_checkpoint(model: str, revision: str | None = None) -> Checkpoint:
    """The checkpoint that an engine was started from.

    Args:
        model: A folder, or a model's name on the hub; then its files in the hub's cache are read.
        revision: Of the hub's model.

    Returns:
        The checkpoint; no tensor is read.

    Raises:
        EngineError: It is not here.
        CheckpointError: It is no checkpoint of safetensors.
    """
    if Path(model).is_dir():
        return open_checkpoint(model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return open_checkpoint(snapshot_download(model, revision=revision, local_files_only=True))
    except (OSError, HFValidationError) as error:
        raise EngineError(
            f"{model}: neither a folder nor in the hub's cache, so that it cannot be told which "
            "tensors the engine takes: start it from the low or the high checkpoint's folder"
        ) from error


def model_differences(
    served: Checkpoint, shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, object]
) -> list[str]:
    """How a stream's model differs from the engine's.

    Args:
        served: The engine's checkpoint.
        shapes: Of the stream's tensors, by name.
        config: Of the stream's model, as config.json has it.

    Returns:
        One line each; none if the engine can load the stream.
    """
    # With tied embeddings engines pass over lm_head.weight, which may be stored or not.
    optional = {"lm_head.weight"} if is_tied(served) else set()
    missing = served.tensors.keys() - shapes.keys() - optional
    unknown = shapes.keys() - served.tensors.keys() - optional
    return [
        *_shortened([f"tensor {name} is missing" for name in sorted(missing)]),
        *_shortened([f"tensor {name} is not in the engine's model" for name in sorted(unknown)]),
        *_shortened(
            [
                f"tensor {name}: shape {list(shape)}, the engine has {list(there.shape)}"
                for name, shape in shapes.items()
                if (there := served.tensors.get(name)) is not None and there.shape != shape
            ]
        ),
        *_shortened(
            [
                f"config.json: {key} is {config.get(key)!r}, the engine has {value!r}"
                for key, value in config_differences(config, served.config).items()
            ]
        ),
    ]


def _shortened(lines: list[str]) -> list[str]:
    if len(lines) <= SHOWN:
        return lines
    return [*lines[:SHOWN], f"... and {len(lines) - SHOWN} more of the same kind"]
