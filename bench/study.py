"""From stored verdicts to pictures: `cupel frontier` and `cupel ensemble` on a synthetic study.

The study is drawn from a model of latent skill, not measured: 9 checkpoints along alpha, 100
problems, 250 samples each. A sample is a careful attempt or a fast one, and fast ones become more
frequent with alpha. On hard problems fast attempts are mostly wrong, careful ones right but often
too slow, so alpha trades optimization failures for correctness failures; beyond the ends programs
break now and then. Each problem favours one way or the other, and each checkpoint some problems,
which is why checkpoints complement each other.

Timed are the two commands, as a user runs them, from start to exit. Making the files is not.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from cupel.schema import FAILURE_CLASS, Language, TleKind, Verdict
from cupel_trainer.evaluate.records import (
    CheckpointRef,
    JudgedSample,
    Sampling,
    TierResult,
    VerdictsHeader,
)
from report import Figure, show

ALPHAS = (-0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
DIFFICULTIES = ("easy", "medium", "hard")
TESTS_PER_TIER = 10
TIERS = 4


@dataclass(frozen=True, slots=True)
class Task:
    """A synthetic problem.

    Args:
        name: Its name.
        difficulty: Easy, medium or hard.
        date: When it was published.
        careful_right: Log-odds that a careful attempt is right.
        fast_right: Log-odds that a fast attempt is right.
        careful_slow: Log-odds that a right, careful program is too slow.
    """

    name: str
    difficulty: str
    date: str
    careful_right: float
    fast_right: float
    careful_slow: float


def draw_tasks(count: int, random: np.random.Generator) -> list[Task]:
    tasks = []
    for index in range(count):
        level = index % len(DIFFICULTIES)
        careful_right = random.normal((2.5, 1.5, 0.5)[level], 1.5)
        # Some problems want the fast way alone: half of its luck is independent of the other's.
        shared = careful_right - (2.5, 1.5, 0.5)[level]
        tasks.append(
            Task(
                name=f"task-{index:04d}",
                difficulty=DIFFICULTIES[level],
                date=f"2024-{1 + index % 12:02d}-{1 + index % 28:02d}",
                careful_right=careful_right,
                fast_right=random.normal((1.8, -0.3, -4.8)[level], 2.2) + 0.5 * shared,
                careful_slow=random.normal((-2.0, 0.5, 4.0)[level], 2.2),
            )
        )
    return tasks


def chance(log_odds: float) -> float:
    return float(1 / (1 + np.exp(-log_odds)))


def draw_verdicts(
    task: Task, alpha: float, samples: int, random: np.random.Generator
) -> list[JudgedSample]:
    fast = chance(4.0 * (alpha - 0.5))
    broken = 0.01 + 0.08 * max(0.0, abs(alpha - 0.5) - 0.5)
    favour = random.normal(0, 0.8)
    right_careful = chance(task.careful_right + favour)
    right_fast = chance(task.fast_right + favour)
    slow = chance(task.careful_slow)
    accepted = (1 - fast) * right_careful * (1 - slow) + fast * right_fast
    too_slow = (1 - fast) * right_careful * slow
    endless = 0.02 * (1 - broken)
    whole = (1 - broken) * 0.98
    chances = np.array(
        [
            whole * accepted,  # AC
            whole * too_slow * 0.9,  # TLE
            whole * too_slow * 0.1,  # MLE
            endless,  # TLE that does not end
            whole * (1 - accepted - too_slow),  # WA
            broken,  # CE
        ]
    )
    drawn = random.choice(len(chances), size=samples, p=chances / chances.sum())
    judging_error = random.random(samples) < 0.0005
    tokens = random.integers(200, 1800, size=samples)
    return [
        judged(task, index, 6 if judging_error[index] else int(drawn[index]), int(tokens[index]))
        for index in range(samples)
    ]


def judged(task: Task, sample: int, kind: int, tokens: int) -> JudgedSample:
    verdict = (
        Verdict.AC, Verdict.TLE, Verdict.MLE, Verdict.TLE, Verdict.WA, Verdict.CE, Verdict.JE,
    )[kind]  # fmt: skip
    failing = (None, 3, 4, 1, 2, None, None)[kind]
    tiers = tuple(
        TierResult(
            tests=TESTS_PER_TIER,
            passed=0 if failing is not None and tier >= failing else TESTS_PER_TIER,
            headroom=0.1 * tier,
        )
        for tier in range(1, TIERS + 1)
    )
    return JudgedSample(
        problem=task.name,
        sample=sample,
        verdict=verdict,
        failure_class=FAILURE_CLASS[verdict],
        complete=verdict is not Verdict.JE,
        language=Language.CPP,
        tiers=() if verdict in (Verdict.CE, Verdict.JE) else tiers,
        first_failing_tier=failing,
        tle_kind=TleKind.CPU if verdict is Verdict.TLE else None,
        endless=True if kind == 3 else None,
        cpu_s=0.4,
        memory_bytes=20_000_000,
        completion_tokens=tokens,
        difficulty=task.difficulty,
        date=task.date,
    )


def write_study(
    folder: Path, *, problems: int, samples: int, seed: int, alphas: tuple[float, ...] = ALPHAS
) -> list[Path]:
    """Writes one file of verdicts per alpha.

    Args:
        folder: Where; it must exist.
        problems: Number of problems, a third of each difficulty.
        samples: Samples per problem and checkpoint.
        seed: Of everything that is drawn.
        alphas: One checkpoint each.

    Returns:
        The files, by alpha.
    """
    tasks = draw_tasks(problems, np.random.default_rng(seed))
    paths = []
    for row, alpha in enumerate(track(alphas, "writing verdicts", console=Console(stderr=True))):
        random = np.random.default_rng((seed, row))
        header = VerdictsHeader(
            checkpoint=CheckpointRef(
                name=f"alpha{alpha:+.2f}", path=f"merged/alpha{alpha:+.2f}", alpha=alpha
            ),
            sampling=Sampling(seed=seed),
            problem_set="synthetic",
            service="synthetic: drawn, not judged",
        )
        path = folder / f"alpha{alpha:+.2f}.jsonl"
        with path.open("w") as file:
            file.write(header.model_dump_json() + "\n")
            for task in tasks:
                for line in draw_verdicts(task, alpha, samples, random):
                    file.write(line.model_dump_json() + "\n")
        paths.append(path)
    return paths


def time_command(*words: str | Path) -> float:
    """Runs a command of `cupel` and returns its wall time in seconds."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "cupel.cli", *map(str, words)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("--samples", type=int, default=250, help="per problem and checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="keep the study and its figures in this folder")
    parser.add_argument("--json", action="store_true", help="one JSON object per figure and line")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder: Path = arguments.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        files = write_study(
            folder, problems=arguments.problems, samples=arguments.samples, seed=arguments.seed
        )
        frontier_s = time_command("frontier", *files, "--out", folder / "frontier", "--force")
        ensemble_s = time_command(
            "ensemble", *files, "--budget", str(arguments.samples),
            "--out", folder / "plan.json", "--force",
        )  # fmt: skip
    judged_samples = len(files) * arguments.problems * arguments.samples
    show(
        f"{judged_samples} stored verdicts to figures",
        (
            Figure(
                "study_s",
                frontier_s + ensemble_s,
                "s",
                1,
                {
                    "frontier_s": frontier_s,
                    "ensemble_s": ensemble_s,
                    "verdicts": judged_samples,
                },
            ),
        ),
        as_json=arguments.json,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
