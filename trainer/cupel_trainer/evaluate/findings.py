"""What the numbers of a study say, in plain words, and no more than they say.

A change is called one only where the interval of the paired difference excludes zero. Intervals
are of one comparison each: nothing is corrected for how many there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cupel_trainer.evaluate.bootstrap import Interval
from cupel_trainer.evaluate.frontier import (
    Place,
    Rate,
    SplitFigures,
    Step,
    StudyFigures,
    place_of,
)
from cupel_trainer.evaluate.plan import Estimate
from cupel_trainer.evaluate.records import CheckpointRef

FEW_PROBLEMS = 30
"""With fewer problems the bootstrap's intervals are called rough."""
NAMED_MAX = 3
"""Most steps that a sentence names."""
MINUS = "\N{MINUS SIGN}"


def called(checkpoint: CheckpointRef) -> str:
    """How a sentence names a checkpoint: by alpha, else by name."""
    if checkpoint.alpha is None:
        return checkpoint.name
    return f"alpha {checkpoint.alpha:g}".replace("-", MINUS)


def percent(interval: Interval | Estimate) -> str:
    """Such as `38.3% (31.9 to 45.2)`."""
    return f"{100 * interval.value:.1f}% ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def points(interval: Interval | Estimate) -> str:
    """Such as `+3.2 points (+1.0 to +5.4)`."""
    value, low, high = (
        f"{100 * each:+.1f}".replace("-", MINUS).replace(f"{MINUS}0.0", "+0.0")
        for each in (interval.value, interval.low, interval.high)
    )
    return f"{value} points ({low} to {high})"


def few_problems(problems: int) -> str:
    """A warning."""
    return (
        f"Intervals from {_plural(problems, 'problem')} are rough, and mostly too narrow: "
        f"{FEW_PROBLEMS} are few already."
    )


def listed(items: Sequence[str]) -> str:
    """Such as `a, b and c`."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def bears_comparison(problems: int, level: float) -> bool:
    """Whether there are enough problems for a difference to be told from none at all.

    Were all P differences of one sign, a sign test would still give 2 * 0.5^P: with less than six
    problems more than the 5% that a 95% interval leaves. Intervals from so few exclude zero
    too easily.
    """
    return 2 * 0.5**problems <= 1 - level


def split_findings(split: SplitFigures, level: float) -> tuple[str, ...]:
    """What the numbers of a split say, one sentence or two per finding.

    Args:
        split: The split.
        level: Of its intervals.
    """
    if not bears_comparison(split.problems, level):
        few = f"{_plural(split.problems, 'problem')} cannot tell checkpoints apart: see the tables."
        return (few[0].upper() + few[1:], _passes(split), _solved(split))
    findings = [_peak(split)]
    if len(split.steps) > 1:
        findings += [
            _course(split.steps, Rate.OPTIMIZATION, "Optimization failures", falls=True),
            _course(split.steps, Rate.CORRECTNESS, "Correctness failures", falls=False),
        ]
    if split.span is not None:
        findings.append(_span(split.span))
    findings += [_beyond(step) for step in split.beyond]
    findings += [_passes(split), _solved(split)]
    return tuple(findings)


def _peak(split: SplitFigures) -> str:
    best = split.checkpoints[split.best]
    said = (
        f"The solve rate is highest at {called(best.checkpoint)}: "
        f"{percent(best.rates[Rate.SOLVE])}."
    )
    others = [row for row in range(len(split.checkpoints)) if row != split.best]
    close = [row for row in others if not split.leads[row].excludes_zero]
    if not others:
        return said
    if not close:
        return f"{said} Its lead over each other checkpoint has an interval above zero."
    names = [called(split.checkpoints[row].checkpoint) for row in close]
    if len(close) == len(others):
        return f"{said} These verdicts do not tell it apart from any other checkpoint."
    return f"{said} These verdicts do not tell it apart from {listed(names)}."


def _course(steps: Sequence[Step], rate: Rate, name: str, *, falls: bool) -> str:
    """Whether a rate goes one way over all steps of alpha."""
    verb, other = ("fall", "rise") if falls else ("rise", "fall")
    changes = [step.changes[rate] for step in steps]
    with_it = [change.value < 0 if falls else change.value > 0 for change in changes]
    clear = sum(
        good and change.excludes_zero for good, change in zip(with_it, changes, strict=True)
    )
    whole = f"from {called(steps[0].before)} to {called(steps[-1].after)}"
    if all(with_it):
        said = f"{name} {verb} at every step of alpha {whole}"
        return f"{said}; {clear} of {len(steps)} steps have an interval that excludes zero."
    against = [
        f"from {called(step.before)} to {called(step.after)} by {points(change)}"
        for step, change, good in zip(steps, changes, with_it, strict=True)
        if not good
    ]
    if len(against) == len(steps):
        return f"{name} {verb} at no step of alpha {whole}."
    kept = len(steps) - len(against)
    if len(against) > NAMED_MAX:
        against = [f"{len(against)} times"]
    return (
        f"{name} do not {verb} at every step: they {verb} at {kept} of {len(steps)}, and {other} "
        f"or stay {listed(against)}."
    )


def _span(span: Step) -> str:
    slow, wrong = span.changes[Rate.OPTIMIZATION], span.changes[Rate.CORRECTNESS]
    solve = span.changes[Rate.SOLVE]
    said = (
        f"From {called(span.before)} to {called(span.after)}, paired by problem: optimization "
        f"failures {points(slow)}, correctness failures {points(wrong)}, solve rate "
        f"{points(solve)}."
    )
    if slow.high < 0 < wrong.low:
        said += " The one is traded for the other"
        said += "; " if solve.excludes_zero else ", and "
        if solve.excludes_zero:
            return said + f"the solve rate {'rises' if solve.value > 0 else 'falls'} as well."
        return said + "no change of the solve rate is shown."
    return said


def _beyond(step: Step) -> str:
    slow, wrong = step.changes[Rate.OPTIMIZATION], step.changes[Rate.CORRECTNESS]
    solve = step.changes[Rate.SOLVE]
    return (
        f"Beyond the end, from {called(step.before)} out to {called(step.after)}: optimization "
        f"failures {points(slow)}, correctness failures {points(wrong)}, solve rate "
        f"{points(solve)}."
    )


def _passes(split: SplitFigures) -> str:
    draws = list(split.checkpoints[0].passes)
    said = []
    for k in dict.fromkeys((draws[0], draws[-1])):
        top = max(figures.passes[k].value for figures in split.checkpoints)
        best = [each for each in split.checkpoints if each.passes[k].value == top]
        where = called(best[0].checkpoint) if len(best) == 1 else f"{len(best)} checkpoints alike"
        said.append(f"the highest pass@{k} is {percent(best[0].passes[k])}, at {where}")
    text = "; ".join(said)
    return f"{text[0].upper()}{text[1:]}."


def _solved(split: SplitFigures) -> str:
    solved = split.table.accepted > 0
    by = solved.sum(axis=0)
    extrapolated = np.array(
        [place_of(each) is Place.EXTRAPOLATION for each in split.table.checkpoints]
    )
    best = int(solved.sum(axis=1).max())
    said = (
        f"With all samples, {int((by > 0).sum())} of {split.problems} problems are solved by at "
        f"least one checkpoint, {best} by the one that solves most"
    )
    if len(solved) > 1:
        said += f", {_number((by == 1).sum())} by a single one alone"
    if extrapolated.any() and not extrapolated.all():
        beyond = solved[extrapolated].any(axis=0) & ~solved[~extrapolated].any(axis=0)
        said += f", {_number(beyond.sum())} by extrapolations only"
    return f"{said}."


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _number(count: int) -> str:
    return str(count) if count else "none"


def study_notes(study: StudyFigures) -> tuple[str, ...]:
    """What a reader must know before trusting the figures."""
    whole = study.splits[0]
    figures = whole.checkpoints
    notes = list(study.table.warnings)
    lost = sum(each.judging_errors for each in figures)
    if lost:
        notes.append(
            f"{_plural(lost, 'judging error')} (JE): Cupel's own fault, scored nowhere. "
            "`cupel evaluate` judges such samples again."
        )
    unclassified = sum(each.unclassified for each in figures)
    if unclassified:
        notes.append(
            f"{_plural(unclassified, 'failed sample')} not judged to the end: counted as not "
            "solved, and as a rate of their own instead of either failure. So both failure rates "
            "are lower bounds, and the plane's lines of equal solve rate read too high by that "
            "rate. Judge with stop `never`."
        )
    if whole.short:
        notes.append(
            f"{_plural(whole.short, 'pair')} of checkpoint and problem with fewer than "
            f"{study.draws[-1]} scored samples: where k is larger than their number, pass@k is a "
            "lower bound."
        )
    unprobed = sum(each.unprobed for each in figures)
    if unprobed:
        notes.append(
            f"{_plural(unprobed, 'time-out')} in the smallest tier, not probed for an endless "
            "loop: optimization failures either way."
        )
    notes.append(_sensitivity(study))
    if whole.problems < FEW_PROBLEMS:
        notes.append(few_problems(whole.problems))
    return tuple(notes)


def _sensitivity(study: StudyFigures) -> str:
    whole = study.splits[0]
    loops = sum(each.endless for each in whole.checkpoints)
    if not loops:
        return "No time-out is known to be an endless loop or an idle wait."
    moved = [
        abs(figures.rates[Rate.OPTIMIZATION].value - other[Rate.OPTIMIZATION].value)
        for figures, other in zip(whole.checkpoints, whole.other_rates, strict=True)
    ]
    most = int(np.argmax(moved))
    where = called(whole.checkpoints[most].checkpoint)
    return (
        f"{_plural(loops, 'time-out')} known to be endless loops or idle waits, counted as "
        f"{study.endless.value} failures. As {study.other_endless.value} failures they would move "
        f"the rates by at most {100 * moved[most]:.1f} points, at {where}."
    )
