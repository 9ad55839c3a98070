"""Files of verdicts as arrays: checkpoints by problems.

A judging error (JE) says nothing about its sample: it is counted apart and is not part of n.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from cupel_trainer.errors import RecordsError, StudyError
from cupel_trainer.evaluate.counting import Count, count_as
from cupel_trainer.evaluate.pass_at_k import CountArray
from cupel_trainer.evaluate.records import CheckpointRef, JudgedSample, VerdictsHeader


@dataclass(frozen=True, slots=True)
class VerdictsFile:
    """One file of verdicts, read.

    Args:
        path: Where it is.
        sha256: Of its bytes.
        header: Its first line.
        problems: Its problems, in the order of their first lines.
        difficulties: Of each problem; empty if the set says none.
        dates: Of each problem, as YYYY-MM-DD; empty if the set says none.
        counts: Samples by problem and `Count`, (P, 7).
        tokens: Completion tokens of the scored samples by problem, (P,).
        torn: Whether a torn last line was dropped.
    """

    path: Path
    sha256: str
    header: VerdictsHeader
    problems: tuple[str, ...]
    difficulties: tuple[str, ...]
    dates: tuple[str, ...]
    counts: CountArray
    tokens: CountArray
    torn: bool


@dataclass(frozen=True, slots=True)
class VerdictTable:
    """The verdicts of a study: M checkpoints by P problems, the same problems for all.

    Args:
        headers: Of each checkpoint, by rising alpha; those without alpha last, by name.
        problems: Names of the problems.
        difficulties: Of each problem; empty if the set says none.
        dates: Of each problem, as YYYY-MM-DD; empty if the set says none.
        counts: Samples by checkpoint, problem and `Count`, (M, P, 7).
        tokens: Completion tokens of the scored samples, (M, P).
        files: Path and SHA-256 of each checkpoint's file.
        warnings: What a reader of the figures must know.
    """

    headers: tuple[VerdictsHeader, ...]
    problems: tuple[str, ...]
    difficulties: tuple[str, ...]
    dates: tuple[str, ...]
    counts: CountArray
    tokens: CountArray
    files: tuple[tuple[Path, str], ...]
    warnings: tuple[str, ...] = ()

    @property
    def checkpoints(self) -> tuple[CheckpointRef, ...]:
        """The checkpoints, in the order of the first axis."""
        return tuple(header.checkpoint for header in self.headers)

    @property
    def names(self) -> tuple[str, ...]:
        """The checkpoints' names."""
        return tuple(header.checkpoint.name for header in self.headers)

    @property
    def accepted(self) -> CountArray:
        """c: accepted samples, (M, P)."""
        accepted: CountArray = self.counts[..., Count.ACCEPTED]
        return accepted

    @property
    def samples(self) -> CountArray:
        """n: scored samples, judging errors left out, (M, P)."""
        scored: CountArray = self.counts[..., : Count.JUDGING_ERROR].sum(axis=-1)
        return scored

    @property
    def draws_max(self) -> CountArray:
        """The draws that each checkpoint has samples for, (M,): its median of n.

        A few problems may have lost samples to judging errors; see `pass_at_k.miss_table` for
        what they count as.
        """
        medians: CountArray = np.floor(np.median(self.samples, axis=1)).astype(np.int64)
        return medians

    def select(self, chosen: NDArray[np.bool_]) -> VerdictTable:
        """The same study on some of its problems.

        Args:
            chosen: Which problems, (P,).
        """
        (kept,) = np.nonzero(chosen)
        return replace(
            self,
            problems=tuple(self.problems[index] for index in kept),
            difficulties=tuple(self.difficulties[index] for index in kept),
            dates=tuple(self.dates[index] for index in kept),
            counts=self.counts[:, kept],
            tokens=self.tokens[:, kept],
        )


def read_verdicts_file(path: Path) -> VerdictsFile:
    """Reads one file of verdicts.

    Of lines that name the same sample the last counts. A last line without its line feed was torn
    by a kill, and is dropped.

    Args:
        path: The file.

    Returns:
        Its counts.

    Raises:
        RecordsError: It cannot be read, is not a file of verdicts, holds no verdict, or has a line
            that is none.
    """
    digest = hashlib.sha256()
    judged: dict[tuple[str, int], tuple[Count, int]] = {}
    facts: dict[str, tuple[str, str]] = {}
    torn = False
    try:
        with path.open("rb") as file:
            first = file.readline()
            digest.update(first)
            header = _read_header(path, first)
            for number, line in enumerate(file, start=2):
                digest.update(line)
                if not line.endswith(b"\n"):
                    torn = True
                    break
                try:
                    sample = JudgedSample.model_validate_json(line)
                    counted = count_as(sample)
                except ValueError as error:
                    raise RecordsError(
                        f"{path}, line {number} is not a verdict: {_first_reason(error)}"
                    ) from error
                judged[sample.problem, sample.sample] = (counted, sample.completion_tokens)
                facts[sample.problem] = (sample.difficulty, sample.date)
    except OSError as error:
        raise RecordsError(f"{path} cannot be read: {error.strerror}") from error
    if not judged:
        raise RecordsError(f"{path} holds no verdict yet; `cupel evaluate` writes them")
    rows = {problem: row for row, problem in enumerate(facts)}
    counts = np.zeros((len(rows), len(Count)), dtype=np.int64)
    tokens = np.zeros(len(rows), dtype=np.int64)
    for (problem, _), (counted, completion_tokens) in judged.items():
        counts[rows[problem], counted] += 1
        if counted is not Count.JUDGING_ERROR:
            tokens[rows[problem]] += completion_tokens
    return VerdictsFile(
        path=path,
        sha256=digest.hexdigest(),
        header=header,
        problems=tuple(facts),
        difficulties=tuple(difficulty for difficulty, _ in facts.values()),
        dates=tuple(date for _, date in facts.values()),
        counts=counts,
        tokens=tokens,
        torn=torn,
    )


def _read_header(path: Path, line: bytes) -> VerdictsHeader:
    try:
        return VerdictsHeader.model_validate_json(line)
    except ValidationError as error:
        raise RecordsError(
            f"{path} does not begin with the header of a file of verdicts "
            f"(`cupel evaluate` writes one): {_first_reason(error)}"
        ) from error


def _first_reason(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]


def join_files(files: Sequence[VerdictsFile]) -> VerdictTable:
    """Puts files of one study side by side.

    Only problems that every checkpoint has a scored sample of are kept, so that all figures speak
    about the same problems.

    Args:
        files: One per checkpoint.

    Returns:
        The table.

    Raises:
        StudyError: The files are not of one study, or have no problem in common.
    """
    if not files:
        raise StudyError("name at least one file of verdicts")
    _check_one_study(files)
    ordered = sorted(files, key=_place)
    rows = [{problem: row for row, problem in enumerate(file.problems)} for file in ordered]
    scored = [
        {problem for problem, row in index.items() if file.counts[row, : Count.JUDGING_ERROR].any()}
        for file, index in zip(ordered, rows, strict=True)
    ]
    common = sorted(set.intersection(*scored))
    if not common:
        raise StudyError(
            "no problem has a scored sample of every checkpoint: evaluate them on one problem set"
        )
    first = ordered[0]
    taken = [[index[problem] for problem in common] for index in rows]
    return VerdictTable(
        headers=tuple(file.header for file in ordered),
        problems=tuple(common),
        difficulties=tuple(first.difficulties[row] for row in taken[0]),
        dates=tuple(first.dates[row] for row in taken[0]),
        counts=np.stack([file.counts[row] for file, row in zip(ordered, taken, strict=True)]),
        tokens=np.stack([file.tokens[row] for file, row in zip(ordered, taken, strict=True)]),
        files=tuple((file.path, file.sha256) for file in ordered),
        warnings=tuple(_warnings(ordered, scored, common)),
    )


def _place(file: VerdictsFile) -> tuple[bool, float, str]:
    checkpoint = file.header.checkpoint
    return checkpoint.alpha is None, checkpoint.alpha or 0.0, checkpoint.name


def _check_one_study(files: Sequence[VerdictsFile]) -> None:
    first = files[0]
    seen: dict[str, Path] = {}
    facts: dict[str, tuple[str, str]] = {}
    for file in files:
        for what, ours, theirs in (
            ("problem set", first.header.problem_set, file.header.problem_set),
            ("setting", first.header.setting.value, file.header.setting.value),
        ):
            if ours != theirs:
                raise StudyError(
                    f"{file.path} is of another study than {first.path}: its {what} is "
                    f"{theirs or 'not named'}, not {ours or 'unnamed'}. Give the files of one "
                    "study, all evaluated on one problem set in one setting"
                )
        name = file.header.checkpoint.name
        if name in seen:
            raise StudyError(
                f"{seen[name]} and {file.path} are both of checkpoint {name!r}: names must be "
                "unique within a study"
            )
        seen[name] = file.path
        for problem, difficulty, date in zip(
            file.problems, file.difficulties, file.dates, strict=True
        ):
            known = facts.setdefault(problem, (difficulty, date))
            if known != (difficulty, date):
                raise StudyError(
                    f"{file.path} says of problem {problem!r} that it is "
                    f"{difficulty or 'of no difficulty'}, of {date or 'no date'}; another file "
                    f"says {known[0] or 'no difficulty'}, {known[1] or 'no date'}: evaluate all "
                    "checkpoints on one version of the problem set"
                )


def _warnings(
    files: Sequence[VerdictsFile], scored: Sequence[set[str]], common: Sequence[str]
) -> list[str]:
    warnings = [
        f"{file.path}: the last line was torn, and is dropped; evaluate again to resume it"
        for file in files
        if file.torn
    ]
    every = set().union(*(file.problems for file in files))
    if len(common) < len(every):
        lacking = [
            f"{file.header.checkpoint.name} lacks {len(every - problems)}"
            for file, problems in zip(files, scored, strict=True)
            if every - problems
        ]
        warnings.append(
            f"{len(every) - len(common)} of {len(every)} problems are left out, because not every "
            f"checkpoint has a scored sample of them ({', '.join(lacking)})"
        )
    draws = {
        file.header.sampling.model_dump_json(exclude={"seed", "engine"}): file for file in files
    }
    if len(draws) > 1:
        one, other, *_ = draws.values()
        warnings.append(
            "the checkpoints were not sampled alike (temperature, top-p, length, prompt, budget): "
            f"{one.header.checkpoint.name} and {other.header.checkpoint.name} differ"
        )
    return warnings
