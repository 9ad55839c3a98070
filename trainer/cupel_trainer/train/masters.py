"""The float32 weights that a run ends with, as a checkpoint for `cupel merge` and transformers."""

from __future__ import annotations

import shutil
from pathlib import Path

from cupel_trainer.errors import OutputError
from cupel_trainer.train.checkpoint_folder import MANIFEST, sync_tree
from cupel_trainer.whole_files import sync_folder

_ZERO_PREFIX = "global_step"
_TRAINING = (
    *("optimizer", "scheduler", "rng_state", "trainer_state", "training_args", "scaler"),
    *(_ZERO_PREFIX, "zero_to_fp32", "latest", "pytorch_model_fsdp", MANIFEST, "README"),
)


def export_masters(checkpoint: Path, masters: Path) -> None:
    """Copies a checkpoint's weights, config and tokenizer; the folder appears when it is whole.

    Args:
        checkpoint: A whole checkpoint of a run.
        masters: The folder to make; one that is there already is replaced.

    Raises:
        OutputError: It cannot be written, or the weights are not float32.
    """
    making = masters.with_name(f".{masters.name}.making")
    try:
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        sharded = any(path.name.startswith(_ZERO_PREFIX) for path in checkpoint.iterdir())
        for path in sorted(checkpoint.iterdir()):
            weights = path.name.startswith("model") and ".safetensors" in path.name
            if path.is_file() and not path.name.startswith(_TRAINING) and not (sharded and weights):
                shutil.copyfile(path, making / path.name)
        if sharded:  # DeepSpeed's own model files are of the compute precision
            _consolidate(checkpoint, making)
        _check(making)
        sync_tree(making)
        shutil.rmtree(masters, ignore_errors=True)
        making.rename(masters)
        sync_folder(masters.parent)
    except OSError as error:
        raise OutputError(f"{masters} cannot be written: {error}") from error


def _consolidate(checkpoint: Path, out: Path) -> None:
    from deepspeed.utils.zero_to_fp32 import (  # type: ignore[import-not-found,unused-ignore]  # no part of our environment: DeepSpeed needs a GPU
        convert_zero_checkpoint_to_fp32_state_dict,
    )

    convert_zero_checkpoint_to_fp32_state_dict(str(checkpoint), str(out), safe_serialization=True)


def _check(folder: Path) -> None:
    """That every tensor is float32: what was rounded before is lost to merging."""
    from safetensors import safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise OutputError(f"{folder} would hold no weights in safetensors files")
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (it is no dict)
                dtype = opened.get_slice(name).get_dtype()
                if dtype.startswith(("F", "BF")) and dtype != "F32":
                    raise OutputError(f"{file}: {name} is {dtype}, and masters must be F32")
