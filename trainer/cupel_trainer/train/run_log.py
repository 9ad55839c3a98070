"""Where the records of steps go: log.jsonl always, TensorBoard and Weights & Biases if wanted."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cupel_trainer.errors import OutputError, TrainingError
from cupel_trainer.train.recipe import Recipe
from cupel_trainer.train.step_record import StepRecord
from cupel_trainer.whole_files import write_whole

LOG = "log.jsonl"
SAMPLES = "samples.jsonl"

Sample = Mapping[str, object]


class RunLog:
    """Appends records; what is after the checkpoint that a run goes on from is dropped first.

    Args:
        out: The run's folder.
        recipe: Which logs are wanted.
        step: Steps that are done: later lines are of steps that will be done again.
    """

    def __init__(self, out: Path, recipe: Recipe, step: int) -> None:
        self._out = out
        self._writers: list[Callable[[StepRecord], None]] = []
        self._closers: list[Callable[[], None]] = []
        for name in (LOG, SAMPLES):
            _cut(out / name, step)
        if recipe.logging.tensorboard:
            self._add_tensorboard(out / "tensorboard", step)
        if recipe.logging.wandb:
            self._add_wandb(recipe, out)

    def write(self, record: StepRecord, samples: Sequence[Sample] = ()) -> None:
        """Logs a step."""
        _append(self._out / LOG, [record.model_dump_json()])
        if samples:
            _append(
                self._out / SAMPLES,
                [json.dumps({"step": record.step, **each}, ensure_ascii=False) for each in samples],
            )
        for write in self._writers:
            write(record)

    def close(self) -> None:
        """Ends what is still being written."""
        for close in self._closers:
            close()

    def _add_tensorboard(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Any: the writer has no types.
        writer: Any = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

        def write(record: StepRecord) -> None:
            for name, value in scalars(record).items():
                writer.add_scalar(name, value, record.step)
            writer.flush()

        self._writers.append(write)
        self._closers.append(writer.close)

    def _add_wandb(self, recipe: Recipe, out: Path) -> None:
        try:
            import wandb  # type: ignore[import-not-found,unused-ignore]  # optional, and no part of our environment
        except ImportError as error:
            raise TrainingError(
                "logging.wandb is set, but wandb is not installed: pip install wandb, or leave it "
                "empty"
            ) from error
        name = out.resolve().name
        run: Any = wandb.init(
            project=recipe.logging.wandb,
            name=name,
            id=name,
            resume="allow",
            config=recipe.model_dump(mode="json"),
        )
        self._writers.append(lambda record: run.log(scalars(record), step=record.step))
        self._closers.append(run.finish)


@contextmanager
def run_log(out: Path, recipe: Recipe, step: int) -> Iterator[RunLog]:
    """A log that is closed when the block ends."""
    log = RunLog(out, recipe, step)
    try:
        yield log
    finally:
        log.close()


def read_log(out: Path) -> list[StepRecord]:
    """The records of a run, in the order of the steps; a torn last line is left out.

    Raises:
        TrainingError: A line is not a record.
    """
    records = []
    for number, line in enumerate(_whole_lines(out / LOG), start=1):
        try:
            records.append(StepRecord.model_validate_json(line))
        except ValidationError as error:
            raise TrainingError(f"{out / LOG}, line {number}: not a record of a step") from error
    return records


def scalars(record: StepRecord) -> dict[str, float]:
    """The numbers of a record by the names of their curves."""
    fields = record.model_dump()
    trainer, extra = fields.pop("trainer"), fields.pop("extra")
    fields.pop("step")
    named = (
        {f"cupel/{name}": value for name, value in fields.items()}
        | {f"cupel/extra/{name}": value for name, value in extra.items()}
        | {f"trl/{name}": value for name, value in trainer.items()}
    )
    return {name: float(value) for name, value in named.items() if value is not None}


def _append(path: Path, lines: Sequence[str]) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(line + "\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error


def _cut(path: Path, step: int) -> None:
    """Drops a torn last line, and the lines of later steps."""
    if not path.exists():
        return
    lines = _whole_lines(path)
    kept = [line for line in lines if json.loads(line)["step"] <= step]
    content = b"".join(line + b"\n" for line in kept)
    if content != path.read_bytes():
        write_whole(path, content)


def _whole_lines(path: Path) -> list[bytes]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    return [line for line in content[: content.rfind(b"\n") + 1].split(b"\n") if line]
