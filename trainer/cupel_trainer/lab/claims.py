"""What the paper reports, what each report is measured by here, and what came out over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from cupel_trainer.evaluate.bootstrap import Interval
from cupel_trainer.lab.figures import SeedFigures


class Expected(Enum):
    """What the paper says of a measure."""

    UP = "above zero"
    DOWN = "below zero"
    FLAT = "about zero"
    OPEN = "not said"


@dataclass(frozen=True, slots=True)
class Claim:
    """A report of the paper, as a number of a seed.

    Args:
        key: In `SeedFigures.claims`.
        group: What it belongs to.
        text: What the number is.
        expected: What the paper would have it be.
    """

    key: str
    group: str
    text: str
    expected: Expected


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a claim.

    Args:
        claim: Which.
        values: Of each seed.
        interval: Mean over seeds and its interval by Student's t; None with a single seed.
        verdict: In words.
    """

    claim: Claim
    values: tuple[float, ...]
    interval: Interval | None
    verdict: str

    @property
    def mean(self) -> float:
        """Over seeds."""
        return sum(self.values) / len(self.values)


def _shift(prefix: str, group: str) -> tuple[Claim, ...]:
    return (
        Claim(
            f"{prefix}/span/optimization",
            group,
            "optimization failures, from low to high coverage",
            Expected.DOWN,
        ),
        Claim(
            f"{prefix}/span/correctness",
            group,
            "correctness failures, from low to high coverage",
            Expected.UP,
        ),
        Claim(f"{prefix}/span/solve", group, "solve rate, from low to high", Expected.FLAT),
    )


def _way(prefix: str, way: str, group: str, where: str, sign: int) -> tuple[Claim, ...]:
    falls, rises = (Expected.DOWN, Expected.UP) if sign > 0 else (Expected.UP, Expected.DOWN)
    return (
        Claim(f"{prefix}/{way}/optimization", group, f"optimization failures, {where}", falls),
        Claim(f"{prefix}/{way}/correctness", group, f"correctness failures, {where}", rises),
    )


_HARD = "reasoning/hard"
_BETWEEN, _BEYOND = "Interpolation (hard problems)", "Extrapolation (hard problems)"
_COMPLEMENT = "Complementary problems (hard, beyond luck)"
_ENSEMBLE = "Ensembles (hard, chosen on half of the problems, scored on the other)"

CLAIMS = (
    *_shift(_HARD, "Coverage on hard problems"),
    *_way(_HARD, "first", _BETWEEN, "from alpha 0 to 0.5", 1),
    *_way(_HARD, "second", _BETWEEN, "from alpha 0.5 to 1", 1),
    *_way(_HARD, "above", _BEYOND, "from alpha 1 to the highest", 1),
    *_way(_HARD, "below", _BEYOND, "from alpha 0 to the lowest", -1),
    Claim(f"{_HARD}/above/solve", _BEYOND, "solve rate, from alpha 1 up", Expected.OPEN),
    Claim(f"{_HARD}/below/solve", _BEYOND, "solve rate, from alpha 0 down", Expected.OPEN),
    Claim("complement/low_not_high", _COMPLEMENT, "solved by low and not by high", Expected.UP),
    Claim("complement/high_not_low", _COMPLEMENT, "solved by high and not by low", Expected.UP),
    Claim(
        "complement/extrapolated_only",
        "Complementary problems (hard, with all samples)",
        "solved only beyond the two ends",
        Expected.OPEN,
    ),
    Claim("ensemble/over_single", _ENSEMBLE, "ensemble over the best single one", Expected.UP),
    Claim(
        "ensemble/over_within",
        _ENSEMBLE,
        "ensemble over the best one without extrapolations",
        Expected.UP,
    ),
    Claim("ensemble/over_ends", _ENSEMBLE, "ensemble over that of the two ends", Expected.UP),
    Claim("alpha/over_end", _ENSEMBLE, "solve rate: best alpha over best end", Expected.OPEN),
    Claim(
        "reasoning/easy/span/optimization",
        "Coverage on easy problems",
        "optimization failures, from low to high coverage",
        Expected.DOWN,
    ),
    Claim(
        "reasoning/easy/span/solve",
        "Coverage on easy problems",
        "solve rate, from low to high coverage",
        Expected.OPEN,
    ),
    *_shift("tools/hard", "Setting tools (hard problems)"),
    *_way("tools/hard", "above", "Setting tools (hard problems)", "from alpha 1 up", 1),
    *_way("tools/hard", "below", "Setting tools (hard problems)", "from alpha 0 down", -1),
    *_shift("agentic/hard", "Setting agentic (hard problems)"),
    *_way("agentic/hard", "above", "Setting agentic (hard problems)", "from alpha 1 up", 1),
    *_way("agentic/hard", "below", "Setting agentic (hard problems)", "from alpha 0 down", -1),
)

_T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179),
    *(2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093),
)
"""The 97.5% point of Student's t with 1, 2, ... degrees of freedom."""


def results(seeds: Sequence[SeedFigures]) -> tuple[Result, ...]:
    """What came of each claim.

    Args:
        seeds: At least one.
    """
    return tuple(_result(claim, seeds) for claim in CLAIMS if claim.key in seeds[0].claims)


def mean_interval(values: Sequence[float]) -> Interval | None:
    """The mean of independent values with its 95% interval by Student's t; None of a single one."""
    count = len(values)
    if count < 2:
        return None
    mean = sum(values) / count
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    half = _T_975[min(count - 1, len(_T_975)) - 1] * spread / math.sqrt(count)
    return Interval(mean, mean - half, mean + half)


def _result(claim: Claim, seeds: Sequence[SeedFigures]) -> Result:
    values = tuple(each.claims[claim.key] for each in seeds)
    interval = mean_interval(values)
    return Result(claim, values, interval, _verdict(claim.expected, interval))


def _verdict(expected: Expected, interval: Interval | None) -> str:
    if interval is None:
        return "one seed: no interval"
    above, below = interval.low > 0, interval.high < 0
    match expected:
        case Expected.UP:
            return "appears" if above else "the opposite" if below else "not shown"
        case Expected.DOWN:
            return "appears" if below else "the opposite" if above else "not shown"
        case Expected.FLAT:
            return "rises" if above else "falls" if below else "no change shown"
        case Expected.OPEN:
            return "above zero" if above else "below zero" if below else "no change shown"
