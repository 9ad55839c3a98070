"""run.json: what a run was made of, and the proof that two runs began at the same place."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cupel.schema import Info
from cupel_trainer.errors import TrainingError
from cupel_trainer.train.recipe import Recipe
from cupel_trainer.whole_files import write_whole

NAME = "run.json"
_LIBRARIES = ("cupel", "torch", "transformers", "trl", "accelerate", "vllm", "deepspeed")
_MAY_CHANGE = ("service", "logging", "checkpoints")
"""Sections that decide how a run is made, but not what comes out."""


class RunManifest(BaseModel):
    """What a run was made of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["cupel.run"] = "cupel.run"
    version: Literal[1] = 1
    recipe: Recipe
    weights: str = Field(description="SHA-256 of the initial weights: names, dtypes, shapes, bytes")
    order: str = Field(description="SHA-256 of the ids of the problems of each step.")
    problem_set: str = Field(description="SHA-256 of what the policy is asked.")
    problem_tests: str = Field(description="SHA-256 of the problems' contents, tests included.")
    prompts: str = Field(description="SHA-256 of the prompts.")
    versions: dict[str, str]
    service: Info | None = None
    status: Literal["running", "finished"] = "running"
    steps: int = Field(0, description="Steps that are done.")
    masters: str = Field("", description="SHA-256 of the weights that the run ended with.")


def versions() -> dict[str, str]:
    """Of what decides about numbers."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def read_manifest(run: Path) -> RunManifest:
    """The manifest of a run.

    Raises:
        TrainingError: There is none, or it is not one of this version.
    """
    file = run / NAME
    try:
        return RunManifest.model_validate_json(file.read_bytes())
    except OSError as error:
        raise TrainingError(f"{run} holds no run: {file} cannot be read ({error.strerror})") from (
            error
        )
    except ValidationError as error:
        raise TrainingError(f"{file} is not the manifest of a run of this version") from error


def write_manifest(run: Path, manifest: RunManifest) -> None:
    """Writes the manifest of a run, whole."""
    write_whole(run / NAME, manifest.model_dump_json(indent=1).encode() + b"\n")


def compare_runs(one: Path | RunManifest, other: Path | RunManifest) -> None:
    """Sees to it that two runs, of low and high coverage, can be merged.

    Args:
        one: A run's folder or manifest.
        other: The other's.

    Raises:
        TrainingError: They began with other weights, or saw other problems or another order.
    """
    first = one if isinstance(one, RunManifest) else read_manifest(one)
    second = other if isinstance(other, RunManifest) else read_manifest(other)
    differences = [
        (first.weights, second.weights, "initial weights", "model.path, model.random_seed"),
        (first.problem_set, second.problem_set, "problems", "problems.set"),
        (first.problem_tests, second.problem_tests, "hidden tests", "problems.set"),
        (first.prompts, second.prompts, "prompts", "problems.template, problems.language"),
        (
            first.order,
            second.order,
            "order of problems",
            "problems.order_seed, optimiser.steps, optimiser.prompts_per_step",
        ),
    ]
    said = [
        f"the {what} differ ({one_digest[:12]} and {other_digest[:12]}; see {fields})"
        for one_digest, other_digest, what, fields in differences
        if one_digest != other_digest
    ]
    if said:
        raise TrainingError("the runs do not start the same: " + "; ".join(said))


def check_continues(old: RunManifest, new: RunManifest) -> None:
    """Sees to it that a run goes on as it began.

    Only the service, logging and checkpoints may change, and with a constant learning rate the
    number of steps may grow.

    Raises:
        TrainingError: Something else has changed; the text names it.
    """
    before, after = _comparable(old.recipe), _comparable(new.recipe)
    changed = [
        name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)
    ]
    fewer = new.recipe.optimiser.steps < old.steps
    longer = new.recipe.optimiser.steps != old.recipe.optimiser.steps
    if fewer or (longer and new.recipe.optimiser.schedule.value != "constant"):
        changed.append("optimiser.steps")
    if changed:
        raise TrainingError(
            "this folder holds a run of another recipe; what differs: "
            + ", ".join(changed)
            + ". Name another --out, or put the recipe back"
        )
    for one, other, what in (
        (old.weights, new.weights, "initial weights"),
        (old.problem_set, new.problem_set, "problems"),
        (old.problem_tests, new.problem_tests, "hidden tests"),
        (old.prompts, new.prompts, "prompts"),
    ):
        if one != other:
            raise TrainingError(
                f"the {what} have changed since this run began: put them back, or name another "
                "--out"
            )


def _comparable(recipe: Recipe) -> dict[str, object]:
    fields = recipe.model_dump(mode="json", exclude=set(_MAY_CHANGE))
    flat = dict(_flat(fields, ""))
    flat.pop("optimiser.steps")
    return flat


def _flat(fields: Mapping[str, object], prefix: str) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for name, value in fields.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{name}.")
        else:
            found.append((prefix + name, json.dumps(value)))
    return found
