"""Step time against judge hosts: how many keep a step from waiting for verdicts.

A simulation, not a measurement: `cupel_trainer.plan` says how. What it replays is measured where
there is something to replay (`--replay`: files of verdicts, with every sample's length and CPU
times); else lengths are assumed, and verdict times drawn from those that `verdict_times.py`
measured. Times of GPUs come from their data sheets.

For each recipe and each way to overlap judging with drawing: the fewest hosts and boxes that keep
the wait below 5 % of a step (`..._hosts`), or, where no number of them does, the wait that is left
(`..._least_wait`); and the step and its wait with 1, 2, 4, ... hosts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from cupel_trainer.errors import TrainerError
from cupel_trainer.plan.architecture import read_architecture
from cupel_trainer.plan.judge_hosts import hosts_needed, mean_step, slots_needed
from cupel_trainer.plan.recipe_shape import recipe_workload, run_shape
from cupel_trainer.plan.run_plan import step_shape
from cupel_trainer.plan.simulation import Overlap
from cupel_trainer.train.recipe_file import read_recipe
from report import Figure, show

RECIPES = Path(__file__).parent.parent / "examples" / "recipes"


def measure(file: Path, arguments: argparse.Namespace) -> Iterator[Figure]:
    recipe = read_recipe(file, arguments.set)
    architecture = read_architecture(recipe.model.path)
    shape = run_shape(recipe, architecture)
    workload = recipe_workload(recipe, arguments.replay)
    step = step_shape(architecture, shape, workload)
    name = file.stem.replace(".", "_").replace("-", "_")
    for way in [Overlap(each) for each in arguments.overlap or list(Overlap)]:
        waits: dict[str, float] = {}
        for hosts in arguments.hosts:
            slots = hosts * shape.slots_per_host
            found = mean_step(step, workload, slots, way, steps=arguments.steps)
            waits |= {f"step_{hosts}_hosts_s": found.step_s}
            waits |= {f"wait_{hosts}_hosts_ratio": found.judge_wait_share}
        fewest = slots_needed(step, workload, way, steps=arguments.steps)
        if fewest is None:
            # No number of boxes is enough: what is left is the slowest programs, one by one.
            least = mean_step(step, workload, shape.completions, way, steps=arguments.steps)
            yield Figure(
                f"{name}_{way}_least_wait", least.judge_wait_share, "x", arguments.steps, waits
            )
            continue
        waits |= {"boxes": fewest.slots, "step_s": fewest.step_s, "wait_s": fewest.judge_wait_s}
        needed = hosts_needed(fewest.slots, shape.slots_per_host)
        yield Figure(f"{name}_{way}_hosts", needed, "hosts", arguments.steps, waits)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "recipes",
        nargs="*",
        type=Path,
        default=[RECIPES / "qwen2.5-7b.toml", RECIPES / "cwm-32b.toml"],
        help="recipes; default: those of the examples",
    )
    parser.add_argument(
        "--replay", nargs="+", type=Path, default=[], help="files of verdicts to replay"
    )
    parser.add_argument("--set", action="append", default=[], help="as of `cupel train`")
    parser.add_argument(
        "--overlap", action="append", choices=[*Overlap], help="only this; default: each"
    )
    parser.add_argument(
        "--hosts", nargs="+", type=int, default=[1, 2, 4, 8], help="default: 1 2 4 8"
    )
    parser.add_argument("--steps", type=int, default=20, help="steps simulated per figure")
    parser.add_argument("--json", action="store_true", help="one JSON object per figure and line")
    arguments = parser.parse_args()
    try:
        figures = [figure for file in arguments.recipes for figure in measure(file, arguments)]
    except TrainerError as error:
        print(f"step: {error}", file=sys.stderr)
        return 2
    show("judge wait of a step, simulated", figures, as_json=arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
