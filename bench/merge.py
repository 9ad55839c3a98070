"""What a sweep of eight alphas costs: against `cp` of the same bytes, and against mergekit.

Two synthetic sharded bfloat16 checkpoints are made first. Then, one after another on one disk:
`cupel merge`, which reads both and writes eight; `cp`, which reads both and writes eight copies,
and `sync`, because ours are on the disk when it ends; and, if the Python of an environment with
mergekit is given, `mergekit-yaml` once per alpha. The page cache is dropped before each where that
is allowed. Of the first 100,000 elements of each tensor, the bench counts those that are not the
bfloat16 next to what float64 says, and takes the norm of the error over that of the step.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from safetensors import safe_open

from merge_checkpoints import ONE_AND_A_HALF_BILLION, SMALL, write_checkpoint
from report import Figure, show

ALPHAS = (-0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
STEP = 3e-4
"""Standard deviation of the difference between the ends; the weights' is 0.02."""
SHARD_BYTES = 1_000_000_000
ELEMENTS_CHECKED = 100_000


class BenchError(Exception):
    """A command failed: the figures would mean nothing."""


@dataclass(frozen=True, slots=True)
class Ran:
    """One command: its wall time, the processor time and the largest memory of its process."""

    wall_s: float
    cpu_s: float
    memory_bytes: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--size", choices=("1.5B", "small"), default="1.5B")
    parser.add_argument("--folder", type=Path, help="where to work; needs 36 GB for 1.5B")
    parser.add_argument("--mergekit-python", type=Path, help="an environment's bin/python")
    parser.add_argument("--json", action="store_true", help="one JSON object per figure and line")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="cupel-merge-"))
        )
        figures = measure(folder, arguments.size, arguments.mergekit_python)
    show("a sweep of eight alphas", figures, as_json=arguments.json)


def measure(folder: Path, size: str, mergekit_python: Path | None) -> list[Figure]:
    """Runs all sides.

    Args:
        folder: Where to work; checkpoints that lie there already are used again.
        size: `1.5B` or `small`.
        mergekit_python: The Python of an environment with mergekit, or None.

    Returns:
        The figures.

    Raises:
        BenchError: A command failed.
    """
    console = Console(stderr=True)
    shape = ONE_AND_A_HALF_BILLION if size == "1.5B" else SMALL
    ends = [folder / f"{size}-low", folder / f"{size}-high"]
    for end, step in zip(ends, (0.0, STEP), strict=True):
        if not end.exists():
            console.print(f"making {end}")
            options = {"step": step, "shard_bytes": SHARD_BYTES, "dtype": torch.bfloat16}
            write_checkpoint(end, shape, **options)  # type: ignore[arg-type]  # of three types
    out = folder / "out"
    console.print("cupel merge")
    swept = _run([sys.executable, "-m", "cupel.cli", *_sweep(ends, out)])
    ours = [_rounding(ends, out / f"alpha_{alpha:g}", alpha) for alpha in ALPHAS]
    shutil.rmtree(out)
    console.print("cp")
    copied, synced_s = _copy(ends, out)
    figures = [
        Figure(
            "sweep_over_cp_ratio",
            swept.wall_s / (copied.wall_s + synced_s),
            "x",
            1,
            {
                "sweep_s": swept.wall_s,
                "cp_s": copied.wall_s,
                "sync_s": synced_s,
                "over_cp_without_sync": swept.wall_s / copied.wall_s,
                "sweep_cpu_s": swept.cpu_s,
            },
        ),
        Figure("sweep_memory_bytes", swept.memory_bytes, "B", 1),
        _figure("sweep_misrounded_share", ours),
    ]
    if mergekit_python is not None:
        theirs_s, theirs = _mergekit(mergekit_python, ends, out, console)
        figures += [
            Figure(
                "mergekit_over_sweep_ratio", theirs_s / swept.wall_s, "x", 1, {"wall_s": theirs_s}
            ),
            _figure("mergekit_misrounded_share", theirs),
        ]
    return figures


def _figure(name: str, roundings: Sequence[Rounding]) -> Figure:
    worst = max(each.misrounded for each in roundings)
    details = {
        f"error_over_step_at_{alpha:g}": each.error_over_step
        for alpha, each in zip(ALPHAS, roundings, strict=True)
    }
    return Figure(name, worst, "x", len(roundings), details)


def _sweep(ends: Sequence[Path], out: Path) -> list[str]:
    alphas = ",".join(f"{alpha:g}" for alpha in ALPHAS)
    return ["merge", *map(str, ends), f"--alphas={alphas}", "--out", str(out)]


def _run(command: Sequence[str]) -> Ran:
    _drop_caches()
    started = time.monotonic()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise BenchError(f"{' '.join(command)}: {said.read().decode()[-2000:]}")
    return Ran(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def _copy(ends: Sequence[Path], out: Path) -> tuple[Ran, float]:
    out.mkdir()
    copies = " && ".join(f"cp -r '{ends[0]}' '{out}/{number}'" for number in range(len(ALPHAS)))
    # cp reads the first end; the other one is read, too, as the sweep does.
    ran = _run(["sh", "-c", f"cat '{ends[1]}'/*.safetensors >/dev/null && {copies}"])
    started = time.monotonic()
    os.sync()
    synced_s = time.monotonic() - started
    shutil.rmtree(out)
    return ran, synced_s


def _mergekit(
    python: Path, ends: Sequence[Path], out: Path, console: Console
) -> tuple[float, list[Rounding]]:
    """Wall seconds of all alphas, and how well each is rounded."""
    wall_s = 0.0
    roundings = []
    config = out.with_name("mergekit.yml")
    for alpha in ALPHAS:
        console.print(f"mergekit, alpha {alpha:g}")
        models = [
            {"model": str(end), "parameters": {"weight": weight}}
            for end, weight in zip(ends, (1 - alpha, alpha), strict=True)
        ]
        recipe = {
            "merge_method": "linear",
            "models": models,
            "parameters": {"normalize": False},
            "dtype": "bfloat16",
        }
        config.write_text(json.dumps(recipe))  # JSON is YAML
        script = str(python.with_name("mergekit-yaml"))
        options = ["--no-copy-tokenizer", "--no-write-model-card", "--out-shard-size", "1B"]
        wall_s += _run([script, str(config), str(out), *options]).wall_s
        started = time.monotonic()
        os.sync()
        wall_s += time.monotonic() - started
        roundings.append(_rounding(ends, out, alpha))
        shutil.rmtree(out)
    return wall_s, roundings


@dataclass(frozen=True, slots=True)
class Rounding:
    """How well an output is rounded.

    `misrounded` is the share of elements that are not the nearest bfloat16, `error_over_step` the
    norm of merged - theta over that of theta - low.
    """

    misrounded: float
    error_over_step: float


def _rounding(ends: Sequence[Path], merged: Path, alpha: float) -> Rounding:
    low, high, out = (_Checkpoint(folder) for folder in (*ends, merged))
    error = step = 0.0
    wrong = elements = 0
    for name in low.names:
        first, last, got = (each.beginning(name) for each in (low, high, out))
        moved = alpha * (last - first)
        theta = first + moved
        error += float(((got - theta) ** 2).sum())
        step += float((moved**2).sum())
        wrong += int((got != _nearest_bfloat16(theta)).sum())
        elements += got.numel()
    return Rounding(wrong / elements, math.sqrt(error / step) if step else 0.0)


def _nearest_bfloat16(values: torch.Tensor) -> torch.Tensor:
    """Rounds float64 to eight significant bits by hand, ties to even: not by what is measured."""
    bits = values.view(torch.int64)
    dropped = 52 - 7
    half = (1 << (dropped - 1)) - 1 + ((bits >> dropped) & 1)
    return ((bits + half) >> dropped << dropped).view(torch.float64)


class _Checkpoint:
    def __init__(self, folder: Path) -> None:
        self._file_of: dict[str, Path] = {}
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                self._file_of |= dict.fromkeys(file.keys(), path)
        self.names = sorted(self._file_of)

    def beginning(self, name: str) -> torch.Tensor:
        with safe_open(self._file_of[name], "pt") as file:
            part = file.get_slice(name)
            rows = max(1, ELEMENTS_CHECKED // max(1, math.prod(part.get_shape()[1:])))
            tensor: torch.Tensor = part[:rows]
        return tensor.double()


def _drop_caches() -> None:
    os.sync()
    with contextlib.suppress(OSError):  # only root may
        Path("/proc/sys/vm/drop_caches").write_text("3")


if __name__ == "__main__":
    main()
