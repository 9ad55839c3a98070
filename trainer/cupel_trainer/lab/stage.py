"""Stages of the lab: each in a folder of its own, done once, and known to be done by a marker."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cupel_trainer.errors import OutputError
from cupel_trainer.whole_files import write_whole

DONE = "done.json"
"""A stage's marker: where it is, everything else of the stage is."""

Show = Callable[[str, float], None]
"""Is told what a stage is at, and how much of it is done, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of the experiment.

    Args:
        name: Of its folder, too.
        title: For people.
        share: Of the whole time, about: for the estimate of what remains.
        run: Does it, into the folder; does what is missing if it was killed.
    """

    name: str
    title: str
    share: float
    run: Callable[[Path, Show], None]


@dataclass(frozen=True, slots=True)
class Done:
    """A stage that is done.

    Args:
        name: The stage.
        wall_s: How long it took; of a stage that was killed, its last part.
    """

    name: str
    wall_s: float


def claim(folder: Path, identity: dict[str, object]) -> None:
    """Makes an experiment's folder, or checks that it is the same experiment's.

    Args:
        folder: The folder.
        identity: What makes the experiment: recipe and seed.

    Raises:
        OutputError: It holds another experiment.
    """
    path = folder / "lab.json"
    text = json.dumps(identity, indent=2, sort_keys=True) + "\n"
    if path.exists():
        if path.read_text("utf-8") != text:
            raise OutputError(
                f"{folder} holds a lab of another recipe or seed: name another folder with --out"
            )
        return
    write_whole(path, text.encode())


def run_stages(
    folder: Path, stages: Sequence[Stage], show: Callable[[Stage, str, float], None]
) -> tuple[Done, ...]:
    """Runs the stages that are not done.

    Args:
        folder: The experiment's.
        stages: In order.
        show: Is told of each stage what it is at, and how much of it is done.
    """
    done = []
    for stage in stages:
        its = folder / stage.name
        held = read_done(its)
        if held is None:
            its.mkdir(parents=True, exist_ok=True)
            began_s = time.monotonic()

            def tell(text: str, part: float, stage: Stage = stage) -> None:
                show(stage, text, part)

            tell("", 0.0)
            stage.run(its, tell)
            held = Done(stage.name, time.monotonic() - began_s)
            content = {"stage": held.name, "wall_s": round(held.wall_s, 2)}
            write_whole(its / DONE, (json.dumps(content) + "\n").encode())
        show(stage, "done", 1.0)
        done.append(held)
    return tuple(done)


def read_done(folder: Path) -> Done | None:
    """What a stage's marker says; None if there is none."""
    try:
        content = json.loads((folder / DONE).read_text("utf-8"))
    except FileNotFoundError:
        return None
    return Done(str(content["stage"]), float(content["wall_s"]))
