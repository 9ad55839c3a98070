"""Drawing the samples of one checkpoint: which are missing, from which seeds, into which file.

A sample's seed follows from the run's seed, its problem and its number, and from nothing else: a
run that was killed, or that is asked for more samples later, draws what one run would have drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cupel_trainer.errors import RecordsError
from cupel_trainer.evaluate.record_file import appending, read_lines
from cupel_trainer.evaluate.records import Sample, SamplesHeader

SAMPLES_MAX = 1000
"""Most samples per problem."""
CHUNK = 16
"""Samples of one problem that are drawn before the next problem's turn comes, at least.

A run that is stopped early has about as many samples of each problem, and an engine meets a prompt
again while it still remembers it.
"""
SEEDS = 2**31
"""Seeds are below this: every engine and endpoint takes them."""


@dataclass(frozen=True, slots=True)
class Task:
    """One sample that is wanted.

    Args:
        problem: The problem's id.
        sample: Its number within the problem, from 0.
        seed: From which it is drawn.
    """

    problem: str
    sample: int
    seed: int


class Policy(Protocol):
    """How a setting makes samples; each setting has one."""

    @property
    def together(self) -> int:
        """How many tasks are computed as one; see `Engine.together`."""

    def answer(self, tasks: Sequence[Task]) -> Iterator[Sequence[Sample]]:
        """Makes the sample of each task, by one completion or a whole episode.

        Yields:
            Samples as they are finished, in any order, some at a time.

        Raises:
            TrainerError: The model failed for good.
        """


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Args:
        held: Samples in the file.
        wanted: Samples that will be in it.
        tokens: Completion tokens drawn by this run.
        cut: Samples drawn by this run that the length limit ended.
    """

    held: int
    wanted: int
    tokens: int
    cut: int


def sample_seed(run_seed: int, problem: str, sample: int) -> int:
    """The seed of a sample: different within a problem, for any number of samples up to 2**31.

    Args:
        run_seed: The run's.
        problem: The problem's id.
        sample: The sample's number.
    """
    first = int.from_bytes(hashlib.sha256(f"{run_seed} {problem}".encode()).digest()[:8])
    return (first + sample) % SEEDS


def draw_samples(
    out: Path,
    header: SamplesHeader,
    problems: Sequence[str],
    count: int,
    open_policy: Callable[[], AbstractContextManager[Policy]],
    show: Callable[[Progress], None],
) -> Progress:
    """Draws what a file of samples lacks.

    Args:
        out: The file; it is made if need be.
        header: What its first line must say.
        problems: The problems' ids.
        count: Samples per problem.
        open_policy: Loads the model; not called where nothing is missing.
        show: Is told of the progress, at first before the model is loaded.

    Returns:
        How it ended.

    Raises:
        TrainerError: It is another run's file, or the model failed; what was drawn is kept.
    """
    ignored = {"problems"}
    if header.checkpoint.digest:  # a folder that was moved is the same checkpoint
        ignored.add("checkpoint.path")
    with appending(out, header, ignored=frozenset(ignored)) as file:
        held = _read_held(out)
        wanted = {(problem, number) for problem in problems for number in range(count)}
        missing = wanted - held
        progress = Progress(len(wanted) - len(missing), len(wanted), 0, 0)
        show(progress)
        if not missing:
            return progress
        with open_policy() as policy:
            tasks = _ordered(problems, count, header.sampling.seed, policy.together)
            for samples in policy.answer(_whole_batches(tasks, missing, policy.together)):
                fresh = [each for each in samples if (each.problem, each.sample) in missing]
                file.append(fresh)
                missing.difference_update((each.problem, each.sample) for each in fresh)
                progress = Progress(
                    len(wanted) - len(missing),
                    len(wanted),
                    progress.tokens + sum(each.completion_tokens for each in samples),
                    progress.cut + sum(each.finish_reason == "length" for each in fresh),
                )
                show(progress)
    return progress


def _ordered(problems: Sequence[str], count: int, run_seed: int, together: int) -> list[Task]:
    """All tasks of a run, in the order in which they are drawn."""
    chunk = max(CHUNK, together)
    return [
        Task(problem, number, sample_seed(run_seed, problem, number))
        for start in range(0, count, chunk)
        for problem in problems
        for number in range(start, min(start + chunk, count))
    ]


def _whole_batches(
    tasks: Sequence[Task], missing: set[tuple[str, int]], together: int
) -> list[Task]:
    """The tasks that are missing, and those that were computed together with them.

    What is computed together decides the rounding, and rounding can decide a token: batches are
    made anew as they would have been.
    """
    batches = (tasks[start : start + together] for start in range(0, len(tasks), together))
    return [
        task
        for batch in batches
        if any((each.problem, each.sample) in missing for each in batch)
        for task in batch
    ]


def _read_held(path: Path) -> set[tuple[str, int]]:
    lines: dict[tuple[str, int], int] = {}
    for line in read_lines(path, Sample):
        key = line.record.problem, line.record.sample
        if key in lines:
            raise RecordsError(
                f"{path}: lines {lines[key]} and {line.number} are both sample {key[1]} of "
                f"problem {key[0]!r}"
            )
        lines[key] = line.number
    return set(lines)
