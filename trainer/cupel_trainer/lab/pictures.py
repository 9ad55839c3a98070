"""Pictures of the lab: thin lines are seeds, the thick line is their mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from cupel_trainer.evaluate import picture_style as look
from cupel_trainer.evaluate.frontier import Rate, place_of
from cupel_trainer.evaluate.records import CheckpointRef, Setting
from cupel_trainer.lab.family.skeleton import Part
from cupel_trainer.lab.figures import Curve, SeedFigures

PANEL_INCHES = (3.1, 2.7)
_THIN, _FAINT = 0.6, 0.45


def draw_rates(seeds: Sequence[SeedFigures], part: Part) -> Figure:
    """The three rates over alpha, a panel per setting."""
    settings = list(Setting)
    figure = look.new_figure(PANEL_INCHES[0] * len(settings), PANEL_INCHES[1] + 0.4)
    for axes, setting in zip(figure.subplots(1, len(settings), sharey=True), settings, strict=True):
        curves = [seed.curves[setting][part] for seed in seeds]
        _rates(axes, curves)
        axes.set_title(
            f"{setting.value}: {curves[0].problems} problems, {curves[0].samples} samples each"
        )
        axes.set_xlabel("alpha (0: low coverage, 1: high coverage)")
    figure.axes[0].set_ylabel("share of samples")
    figure.axes[0].set_ylim(0, None)
    look.percent(figure.axes[0].yaxis)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3)
    return figure


def _rates(axes: Axes, curves: Sequence[Curve]) -> None:
    alphas = curves[0].alphas
    margin = 0.03 * (alphas[-1] - alphas[0])
    axes.set_xlim(alphas[0] - margin, alphas[-1] + margin)
    left, right = axes.get_xlim()
    for start, end in ((left, 0.0), (1.0, right)):
        axes.axvspan(start, max(start, end), color="#efefef", linewidth=0, zorder=0)
    for rate, line in look.RATE_LINES.items():
        values = np.array([curve.rates[rate] for curve in curves])  # (seeds, alphas)
        if len(curves) > 1:
            axes.plot(alphas, values.T, line.dash, color=line.colour, lw=_THIN, alpha=_FAINT)
        axes.plot(
            alphas, values.mean(axis=0), line.dash, color=line.colour, marker=line.shape,
            markersize=4, label=line.label, clip_on=False, zorder=3,
        )  # fmt: skip
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def draw_plane(seeds: Sequence[SeedFigures], part: Part) -> Figure:
    """Correctness against optimization failures, a point per alpha: the frontier."""
    figure = look.new_figure(4.2, 3.8)
    axes = figure.subplots()
    curves = [seed.curves[Setting.REASONING][part] for seed in seeds]
    slow = np.array([curve.rates[Rate.OPTIMIZATION] for curve in curves])
    wrong = np.array([curve.rates[Rate.CORRECTNESS] for curve in curves])
    if len(curves) > 1:
        axes.plot(slow.T, wrong.T, "-", color=look.GREY, lw=_THIN, alpha=_FAINT)
    across, up = slow.mean(axis=0), wrong.mean(axis=0)
    axes.plot(across, up, "-", color=look.BLACK)
    alphas = curves[0].alphas
    for alpha, x, y in zip(alphas, across, up, strict=True):
        place = place_of(CheckpointRef(name="-", alpha=alpha))
        axes.add_line(look.mark_of(place, alpha).at([x], [y]))
    axes.margins(0.12)
    look.percent(axes.xaxis, axes.yaxis)
    axes.set_xlabel("optimization failures")
    axes.set_ylabel("correctness failures")
    points = list(zip(across.tolist(), up.tolist(), strict=True))
    texts = [f"{alpha:g}".replace("-", "\N{MINUS SIGN}") for alpha in alphas]
    look.place_labels(figure, axes, points, texts, list(range(len(points))))
    return figure


def draw_training(seeds: Sequence[SeedFigures]) -> Figure:
    """Solve rate of the two RL runs, each at its own coverage."""
    figure = look.new_figure(4.2, 3.0)
    axes = figure.subplots()
    for name, colour, dash in (("low", look.BLUE, "-"), ("high", look.ORANGE, "--")):
        values = np.array([seed.rl[name].solve_rate for seed in seeds])
        steps = range(1, values.shape[1] + 1)
        if len(seeds) > 1:
            axes.plot(steps, values.T, dash, color=colour, lw=_THIN, alpha=_FAINT)
        axes.plot(steps, values.mean(axis=0), dash, color=colour, label=f"{name} coverage")
    axes.set_ylim(0, 1)
    look.percent(axes.yaxis)
    axes.set_xlabel("RL step")
    axes.set_ylabel("solved, at the run's own coverage")
    axes.legend(loc="lower right")
    return figure
