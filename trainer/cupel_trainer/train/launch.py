"""Many processes: the recipe's parallelism as a configuration of accelerate, and the start."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from cupel_trainer.errors import TrainingError
from cupel_trainer.train.recipe import Dtype, ParallelKind, Recipe
from cupel_trainer.whole_files import write_whole

NAME = "accelerate.json"

_LAUNCHED = "CUPEL_TRAIN_LAUNCHED"


def accelerate_config(recipe: Recipe) -> dict[str, object]:
    """What `accelerate launch --config_file` takes; it is JSON, which is YAML, too."""
    parallelism = recipe.parallelism
    cpu = recipe.precision.device == "cpu"
    many = "MULTI_CPU" if cpu else "MULTI_GPU"
    bfloat16 = recipe.precision.compute is Dtype.BFLOAT16
    config: dict[str, object] = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": {
            ParallelKind.NONE: many if parallelism.processes > 1 else "NO",
            ParallelKind.FSDP: "FSDP",
            ParallelKind.DEEPSPEED: "DEEPSPEED",
        }[parallelism.kind],
        "mixed_precision": "bf16" if bfloat16 else "no",
        "num_processes": parallelism.processes,
        "num_machines": parallelism.machines,
        "machine_rank": 0,
        "use_cpu": cpu,
    }
    if parallelism.kind is ParallelKind.FSDP:
        config["fsdp_config"] = {
            "fsdp_version": 2,
            "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "fsdp_reshard_after_forward": True,
            "fsdp_offload_params": parallelism.offload,
            # Whole float32 weights in each checkpoint: the masters are copied from there.
            "fsdp_state_dict_type": "FULL_STATE_DICT",
            "fsdp_cpu_ram_efficient_loading": False,  # every process proves the initial bytes
        }
    if parallelism.kind is ParallelKind.DEEPSPEED:
        config["deepspeed_config"] = {
            "zero_stage": parallelism.zero_stage,
            "zero3_init_flag": parallelism.zero_stage == 3,
            "zero3_save_16bit_model": parallelism.zero_stage == 3,
            "offload_optimizer_device": "cpu" if parallelism.offload else "none",
            "offload_param_device": "none",
            "gradient_clipping": recipe.optimiser.max_gradient_norm,
        }
    return config


def write_accelerate_config(recipe: Recipe, out: Path) -> Path:
    """Writes the configuration into a run's folder."""
    file = out / NAME
    write_whole(file, json.dumps(accelerate_config(recipe), indent=1).encode() + b"\n")
    return file


def needs_launch(recipe: Recipe) -> bool:
    """Whether the recipe wants processes that nobody has started.

    Raises:
        TrainingError: They were started, but do not know of each other: starting them once more
            would never end.
    """
    many = recipe.parallelism.processes > 1 or recipe.parallelism.kind is not ParallelKind.NONE
    if not many or "RANK" in os.environ:
        return False
    if os.environ.get(_LAUNCHED):
        raise TrainingError(
            "accelerate started this process, but did not say which of how many it is: see its "
            f"configuration, {NAME} in the run's folder"
        )
    return True


def launch_command(recipe: Recipe, out: Path, words: Sequence[str]) -> list[str]:
    """The command that starts `cupel WORDS` in every process of one machine."""
    start = [sys.executable, "-m"]
    if recipe.precision.device == "cpu":  # which accelerate starts by MPI only
        processes = f"--nproc_per_node={recipe.parallelism.processes}"
        start += ["torch.distributed.run", "--standalone", processes]
    else:
        file = write_accelerate_config(recipe, out)
        start += ["accelerate.commands.launch", "--config_file", str(file)]
    return [*start, "--module", "cupel.cli", *words]


def launch(command: Sequence[str]) -> NoReturn:
    """Becomes the command."""
    os.environ[_LAUNCHED] = "1"
    os.execv(command[0], list(command))  # noqa: S606 (it starts us again, often)
