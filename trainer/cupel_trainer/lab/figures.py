"""What one seed came to, in numbers: rates by setting, part and alpha; what each claim needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import Field, ValidationError

from cupel_trainer.errors import RecordsError, StudyError
from cupel_trainer.evaluate.allocation import Misses, misses_of
from cupel_trainer.evaluate.complementarity import complementarity
from cupel_trainer.evaluate.counting import EndlessAs
from cupel_trainer.evaluate.cross_fit import cross_fit
from cupel_trainer.evaluate.frontier import Rate, problem_rates
from cupel_trainer.evaluate.pass_at_k import FloatArray
from cupel_trainer.evaluate.records import Record, Setting
from cupel_trainer.evaluate.splits import select_difficulty
from cupel_trainer.evaluate.verdict_table import VerdictTable, join_files, read_verdicts_file
from cupel_trainer.lab.family.skeleton import Part
from cupel_trainer.train.step_record import StepRecord

FIGURES = "figures.json"
MEMBERS_MAX = 3
HALVINGS = 20
SHOWN_RATES = (Rate.SOLVE, Rate.OPTIMIZATION, Rate.CORRECTNESS)


class Curve(Record):
    """Rates over alpha of one part in one setting, each a mean over problems."""

    problems: int
    samples: int = Field(description="Per problem.")
    alphas: tuple[float, ...]
    rates: dict[Rate, tuple[float, ...]]


class RlCurve(Record):
    """One RL run, step by step."""

    solve_rate: tuple[float, ...] = Field(description="At the coverage that it was trained at.")
    step_s: tuple[float, ...]
    judge_wait_s: tuple[float, ...] = Field(description="After generation had ended.")
    masked: int = Field(description="Completions without a verdict.")


class SeedFigures(Record):
    """The figures of one seed.

    Args:
        curves: By setting and part.
        claims: What each claim of `claims.CLAIMS` is measured by, by its key.
    """

    seed: int
    curves: dict[Setting, dict[Part, Curve]]
    rl: dict[str, RlCurve]
    claims: dict[str, float]
    members: dict[str, float] = Field(
        description="Mean share of the ensemble's budget, by checkpoint."
    )
    judging_errors: int
    wall_s: dict[str, float] = Field(description="Of each stage.")


def seed_figures(folder: Path, seed: int, budget: int, wall_s: Mapping[str, float]) -> SeedFigures:
    """Computes the figures of a seed from its verdicts.

    Args:
        folder: Of the seed.
        seed: Which.
        budget: Of the ensemble: samples per problem.
        wall_s: How long each stage took.
    """
    tables = {setting: read_table(folder / setting.value) for setting in Setting}
    curves = {
        setting: {part: _curve(select_difficulty(table, part.value)) for part in Part}
        for setting, table in tables.items()
    }
    claims: dict[str, float] = {}
    for setting in Setting:
        for part in Part:
            claims |= _changes(f"{setting.value}/{part.value}", curves[setting][part])
    hard = select_difficulty(tables[Setting.REASONING], Part.HARD.value)
    ensemble, members = _ensembles(hard, budget, seed)
    return SeedFigures(
        seed=seed,
        curves=curves,
        rl={name: _rl_curve(folder / name / "log.jsonl") for name in ("low", "high")},
        claims=claims | _complements(hard) | ensemble,
        members=members,
        judging_errors=sum(
            int((table.counts.sum(axis=-1) - table.samples).sum()) for table in tables.values()
        ),
        wall_s=dict(wall_s),
    )


def read_figures(path: Path) -> SeedFigures:
    """Reads what a seed came to.

    Raises:
        RecordsError: It cannot be read.
    """
    try:
        return SeedFigures.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise RecordsError(f"{path} holds no figures of this version: {error}") from error


def read_table(folder: Path) -> VerdictTable:
    """The verdicts of one setting."""
    paths = sorted((folder / "verdicts").glob("*.jsonl"))
    return join_files([read_verdicts_file(path) for path in paths])


def _curve(table: VerdictTable) -> Curve:
    rates = problem_rates(table, EndlessAs.OPTIMIZATION)
    return Curve(
        problems=len(table.problems),
        samples=int(table.draws_max.min()),
        alphas=tuple(each.alpha or 0.0 for each in table.checkpoints),
        rates={rate: tuple(rates[rate].mean(axis=1).tolist()) for rate in SHOWN_RATES},
    )


def _changes(prefix: str, curve: Curve) -> dict[str, float]:
    """Changes of each rate: between the ends, on both halves of the way, and beyond."""
    rows = {alpha: row for row, alpha in enumerate(curve.alphas)}
    ways = {"span": (0.0, 1.0), "below": (0.0, min(rows)), "above": (1.0, max(rows))}
    if 0.5 in rows:
        ways |= {"first": (0.0, 0.5), "second": (0.5, 1.0)}
    return {
        f"{prefix}/{way}/{rate.value}": values[rows[end]] - values[rows[start]]
        for rate, values in curve.rates.items()
        for way, (start, end) in ways.items()
        if start != end
    }


def _complements(table: VerdictTable) -> dict[str, float]:
    """Problems that one end solves and the other does not, beyond what luck does, as shares."""
    compared = complementarity(table)
    rows = {each.alpha: row for row, each in enumerate(table.checkpoints)}
    low, high = rows[0.0], rows[1.0]
    expected = compared.expected / len(table.problems)
    beyond = np.array([not 0 <= (each.alpha or 0.0) <= 1 for each in table.checkpoints])
    solved = table.accepted > 0
    only = solved[beyond].any(axis=0) & ~solved[~beyond].any(axis=0)
    return {
        "complement/low_not_high": float(expected[low, high] - expected[low, low]),
        "complement/high_not_low": float(expected[high, low] - expected[high, high]),
        "complement/extrapolated_only": float(only.mean()),
    }


def _ensembles(
    table: VerdictTable, budget: int, seed: int
) -> tuple[dict[str, float], dict[str, float]]:
    """What choosing is worth on problems that did not choose; see `cross_fit`."""
    alphas = np.array([each.alpha or 0.0 for each in table.checkpoints])
    within = (alphas >= 0) & (alphas <= 1)
    ends = (alphas == 0) | (alphas == 1)
    misses, once = misses_of(table, budget), misses_of(table, 1)

    def fit(misses: Misses, rows: np.ndarray) -> tuple[FloatArray, FloatArray, np.ndarray]:
        some = Misses(misses.table[rows], misses.caps[rows])
        found = cross_fit(some, table.difficulties, MEMBERS_MAX, halvings=HALVINGS, seed=seed)
        return found.ensemble, found.single, found.splits

    every = np.ones(len(alphas), dtype=bool)
    together, single, splits = fit(misses, every)
    inner, _, _ = fit(misses, within)
    pair, _, _ = fit(misses, ends)
    _, chosen, _ = fit(once, every)
    _, end, _ = fit(once, ends)
    shares = splits.mean(axis=0) / budget
    return {
        "ensemble/over_single": float((together - single).mean()),
        "ensemble/over_within": float((together - inner).mean()),
        "ensemble/over_ends": float((together - pair).mean()),
        "ensemble/pass": float(together.mean()),
        "ensemble/single_pass": float(single.mean()),
        "alpha/over_end": float((chosen - end).mean()),
    }, {name: float(share) for name, share in zip(table.names, shares, strict=True)}


def _rl_curve(path: Path) -> RlCurve:
    lines = path.read_text("utf-8").splitlines()
    records = [StepRecord.model_validate_json(line) for line in lines]
    if not records:
        raise StudyError(f"{path} holds no step")
    return RlCurve(
        solve_rate=tuple(each.solve_rate or 0.0 for each in records),
        step_s=tuple(each.step_s for each in records),
        judge_wait_s=tuple(each.judge_wait_s for each in records),
        masked=sum(each.judging_errors for each in records),
    )
