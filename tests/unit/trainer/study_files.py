"""Files of verdicts for tests: one letter per sample."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from cupel.schema import FAILURE_CLASS, TleKind, Verdict
from cupel_trainer.evaluate.counting import EndlessAs
from cupel_trainer.evaluate.frontier import Bootstrap, StudyFigures, study_figures
from cupel_trainer.evaluate.records import CheckpointRef, JudgedSample, Setting, VerdictsHeader
from cupel_trainer.evaluate.verdict_table import VerdictTable, join_files, read_verdicts_file


class Judged(TypedDict, total=False):
    """What a letter stands for, beside the verdict."""

    complete: bool
    first_failing_tier: int | None
    tle_kind: TleKind | None
    endless: bool | None


LETTERS: dict[str, tuple[Verdict, Judged]] = {
    "A": (Verdict.AC, {}),
    "W": (Verdict.WA, {"first_failing_tier": 1}),
    "C": (Verdict.CE, {}),
    "T": (Verdict.TLE, {"first_failing_tier": 2, "tle_kind": TleKind.CPU}),
    "M": (Verdict.MLE, {"first_failing_tier": 2}),
    "F": (Verdict.TLE, {"first_failing_tier": 1, "tle_kind": TleKind.CPU, "endless": False}),
    "E": (Verdict.TLE, {"first_failing_tier": 1, "tle_kind": TleKind.CPU, "endless": True}),
    "I": (Verdict.TLE, {"first_failing_tier": 2, "tle_kind": TleKind.IDLE}),
    "U": (Verdict.TLE, {"first_failing_tier": 1, "tle_kind": TleKind.CPU}),
    "P": (Verdict.WA, {"first_failing_tier": 1, "complete": False}),
    "J": (Verdict.JE, {"complete": False}),
}
"""A accepted; W, C correctness; T, M optimization; F finite, E endless, I idle, U unprobed;
P partly judged; J judging error."""


def judged(
    letter: str, problem: str = "p", sample: int = 0, *, difficulty: str = "", date: str = ""
) -> JudgedSample:
    """One judged sample."""
    verdict, facts = LETTERS[letter]
    return JudgedSample(
        problem=problem,
        sample=sample,
        verdict=verdict,
        failure_class=FAILURE_CLASS[verdict],
        complete=facts.get("complete", True),
        first_failing_tier=facts.get("first_failing_tier"),
        tle_kind=facts.get("tle_kind"),
        endless=facts.get("endless"),
        completion_tokens=100,
        difficulty=difficulty,
        date=date,
    )


def header(
    name: str,
    alpha: float | None = None,
    *,
    setting: Setting = Setting.REASONING,
    problem_set: str = "set",
) -> VerdictsHeader:
    """The first line of a file."""
    checkpoint = CheckpointRef(name=name, path=f"merged/{name}", alpha=alpha, digest="d" * 64)
    return VerdictsHeader(checkpoint=checkpoint, setting=setting, problem_set=problem_set)


def write_verdicts(
    path: Path,
    verdicts: Mapping[str, str],
    head: VerdictsHeader,
    *,
    difficulties: Mapping[str, str] | None = None,
    dates: Mapping[str, str] | None = None,
) -> Path:
    """Writes a file of verdicts.

    Args:
        path: Where.
        verdicts: Letters by problem: one per sample.
        head: The first line.
        difficulties: By problem.
        dates: By problem.
    """
    lines = [head.model_dump_json()]
    for problem, letters in verdicts.items():
        lines += [
            judged(
                letter,
                problem,
                sample,
                difficulty=(difficulties or {}).get(problem, ""),
                date=(dates or {}).get(problem, ""),
            ).model_dump_json()
            for sample, letter in enumerate(letters)
        ]
    path.write_text("\n".join(lines) + "\n")
    return path


BOOTSTRAP = Bootstrap(resamples=200, seed=0, level=0.95)


def study_table(
    folder: Path,
    verdicts: Mapping[float | str, Mapping[str, str]],
    difficulties: Mapping[str, str] | None = None,
) -> VerdictTable:
    """A table from letters by checkpoint (its alpha, or its name) and problem."""
    files = []
    for key, letters in verdicts.items():
        alpha = None if isinstance(key, str) else key
        path = folder / f"{key}.jsonl"
        write_verdicts(path, letters, header(str(key), alpha), difficulties=difficulties)
        files.append(read_verdicts_file(path))
    return join_files(files)


def figures(table: VerdictTable, endless: EndlessAs = EndlessAs.OPTIMIZATION) -> StudyFigures:
    return study_figures(table, endless, BOOTSTRAP)
