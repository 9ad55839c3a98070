"""An ensemble for a budget of samples: chosen, valued on problems it did not see, and planned."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cupel_trainer.errors import StudyError
from cupel_trainer.evaluate.allocation import Misses, best_single, best_split, misses_of
from cupel_trainer.evaluate.allocation_bound import upper_bound
from cupel_trainer.evaluate.bootstrap import Interval
from cupel_trainer.evaluate.cross_fit import CrossFit, cross_fit
from cupel_trainer.evaluate.findings import FEW_PROBLEMS, few_problems
from cupel_trainer.evaluate.frontier import Bootstrap
from cupel_trainer.evaluate.pass_at_k import CountArray
from cupel_trainer.evaluate.plan import Estimate, HeldOut, Plan, PlanInput, PlanMember
from cupel_trainer.evaluate.verdict_table import VerdictTable


def plan_ensemble(
    table: VerdictTable,
    budget: int,
    members: int | None,
    *,
    halvings: int,
    bootstrap: Bootstrap,
    selection: str = "",
    on_half: Callable[[], None] = lambda: None,
) -> Plan:
    """Chooses the best split of a budget, and says what choosing so is worth.

    The plan's split is chosen on all problems; what it is worth on others is measured by halves
    (see `cross_fit`), each of which chose from half as many problems, and so a little worse.

    Args:
        table: The verdicts.
        budget: Samples per problem: K.
        members: 2 or 3, or None for any number; see `allocation.best_split`.
        halvings: How many times the problems are halved.
        bootstrap: How intervals are made; its seed is that of the halvings, too.
        selection: Which problems of the set the table holds, in words.
        on_half: Called after each half.

    Returns:
        The plan.

    Raises:
        StudyError: No checkpoint has enough samples, or there are too few problems or checkpoints.
    """
    if len(table.names) < 2:
        raise StudyError("an ensemble needs the verdicts of at least two checkpoints")
    misses = misses_of(table, budget)
    single = best_single(misses)
    if single is None:
        raise StudyError(
            f"no checkpoint has {budget} scored samples per problem, so there is none to compare "
            f"an ensemble with: take --budget {int(table.draws_max.max())} or less, or sample more"
        )
    split = best_split(misses, members)
    fit = cross_fit(
        misses,
        table.difficulties,
        members,
        halvings=halvings,
        seed=bootstrap.seed,
        on_half=on_half,
    )
    held_out = _held_out(fit, split, halvings, bootstrap)
    return Plan(
        budget=budget,
        members=tuple(
            PlanMember(
                checkpoint=table.checkpoints[row],
                samples=int(split[row]),
                sampling=table.headers[row].sampling,
            )
            for row in np.flatnonzero(split)
        ),
        setting=table.headers[0].setting,
        problem_set=table.headers[0].problem_set,
        selection=selection,
        method="greedy" if members is None else "exact",
        members_max=members,
        chosen_pass=misses.value(split),
        upper_bound=upper_bound(misses),
        single=table.checkpoints[single],
        single_pass=float(1.0 - misses.table[single, -1].mean()),
        held_out=held_out,
        seed=bootstrap.seed,
        inputs=tuple(
            PlanInput(path=str(path), checkpoint=name, sha256=digest)
            for name, (path, digest) in zip(table.names, table.files, strict=True)
        ),
        warnings=(*table.warnings, *_warnings(table, misses, split, single, held_out)),
    )


def _held_out(fit: CrossFit, split: CountArray, halvings: int, bootstrap: Bootstrap) -> HeldOut:
    ensemble, single, difference = (
        _estimate(interval)
        for interval in bootstrap.intervals(
            np.stack([fit.ensemble, fit.single, fit.ensemble - fit.single])
        )
    )
    shared = np.minimum(fit.splits, split).sum(axis=1) / split.sum()
    return HeldOut(
        ensemble=ensemble,
        single=single,
        difference=difference,
        level=bootstrap.level,
        splits=halvings,
        problems=len(fit.ensemble),
        agreement=float(shared.mean()),
    )


def _estimate(interval: Interval) -> Estimate:
    return Estimate(value=interval.value, low=interval.low, high=interval.high)


def _warnings(
    table: VerdictTable, misses: Misses, split: CountArray, single: int, held_out: HeldOut
) -> list[str]:
    warnings = [
        f"{table.names[row]} has only {cap} scored samples per problem, fewer than the budget: it "
        "can be a member, but was not considered as the single checkpoint"
        for row, cap in enumerate(misses.caps)
        if cap < misses.budget
    ]
    needed = {int(row): int(split[row]) for row in np.flatnonzero(split)}
    needed[single] = misses.budget
    for row, draws in sorted(needed.items()):
        lacking = table.samples[row] < draws
        if lacking.any():
            fewest = int(table.samples[row][lacking].min())
            warnings.append(
                f"{table.names[row]} needs {draws} samples, and has fewer (down to {fewest}) of "
                f"{int(lacking.sum())} problems, where its value is a lower bound"
            )
    if held_out.difference.low <= 0 <= held_out.difference.high:
        warnings.append(
            "the interval of the difference includes zero: these verdicts do not show that the "
            "ensemble and the best single checkpoint differ"
        )
    if held_out.problems < FEW_PROBLEMS:
        warnings.append(few_problems(held_out.problems))
    return warnings
