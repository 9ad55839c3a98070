"""The pictures of a study. Each function draws one, and says below what it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FixedLocator,
    NullFormatter,
    ScalarFormatter,
    StrMethodFormatter,
)

from cupel_trainer.evaluate import picture_style as look
from cupel_trainer.evaluate.bootstrap import Interval
from cupel_trainer.evaluate.complementarity import complementarity, solved_order
from cupel_trainer.evaluate.frontier import (
    CheckpointFigures,
    Place,
    Rate,
    SplitFigures,
    alpha_path,
    place_of,
)
from cupel_trainer.evaluate.splits import by_difficulty
from cupel_trainer.evaluate.verdict_table import VerdictTable

PANEL_INCHES = (3.5, 3.3)
LABELLED_MAX = 16
SPACING = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)


def _place(figures: CheckpointFigures) -> Place:
    return place_of(figures.checkpoint)


def draw_plane(split: SplitFigures) -> Figure:
    """Correctness-failure rate against optimization-failure rate, the path over alpha drawn.

    Lines of equal solve rate fall by one for one, because the rates sum to 1. Both axes have one
    scale, so that a step along such a line shows as one. Bars are intervals.
    """
    figure = look.new_figure(*PANEL_INCHES)
    axes = figure.subplots()
    slow = [each.rates[Rate.OPTIMIZATION] for each in split.checkpoints]
    wrong = [each.rates[Rate.CORRECTNESS] for each in split.checkpoints]
    points = [(x.value, y.value) for x, y in zip(slow, wrong, strict=True)]
    _square_limits(axes, slow, wrong)
    _iso_lines(axes, points)
    path = alpha_path(split.table)
    axes.plot(*np.array([points[row] for row in path] or [(np.nan, np.nan)]).T, color=look.GREY)
    for each, x, y in zip(split.checkpoints, slow, wrong, strict=True):
        mark = look.mark_of(_place(each), each.checkpoint.alpha)
        axes.plot([x.low, x.high], [y.value, y.value], color=look.PALE, linewidth=0.7, zorder=1)
        axes.plot([x.value, x.value], [y.low, y.high], color=look.PALE, linewidth=0.7, zorder=1)
        axes.add_line(mark.at([x.value], [y.value]))
    axes.set_xlabel("optimization-failure rate")
    axes.set_ylabel("correctness-failure rate")
    look.percent(axes.xaxis, axes.yaxis)
    _place_legend(figure, split)
    look.place_labels(
        figure, axes, points, [look.short_name(each.checkpoint) for each in split.checkpoints], path
    )
    return figure


def _square_limits(axes: Axes, across: Sequence[Interval], up: Sequence[Interval]) -> None:
    """Limits that hold all bars, with one scale for both axes."""
    low = np.array([min(each.low for each in across), min(each.low for each in up)])
    high = np.array([max(each.high for each in across), max(each.high for each in up)])
    span = max(float((high - low).max()), 0.02) * 1.1
    # Centred on the points, but hardly beyond what a rate can be.
    start = np.clip((low + high - span) / 2, -0.05 * span, max(1 - 0.95 * span, -0.05 * span))
    axes.set_xlim(start[0], start[0] + span)
    axes.set_ylim(start[1], start[1] + span)
    axes.set_aspect("equal")


def _iso_lines(axes: Axes, points: list[tuple[float, float]]) -> None:
    """Lines of equal solve rate; each has its rate at that end which is farther from all points."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    highest, lowest = 1 - left - bottom, 1 - right - top
    spacing = next((each for each in SPACING if (highest - lowest) / each <= 14), SPACING[-1])
    for number in range(int(np.ceil(lowest / spacing)), int(np.floor(highest / spacing)) + 1):
        solve = number * spacing
        if not 0 <= solve <= 1:
            continue
        ends = [max(left, 1 - solve - top), min(right, 1 - solve - bottom)]
        heights = [1 - solve - end for end in ends]
        dashes = (0, (4, 3))
        axes.plot(ends, heights, color=look.PALE, linewidth=0.6, linestyle=dashes, zorder=0)
        if ends[1] - ends[0] < (right - left) * 0.15:
            continue
        free = [
            min(np.hypot(end - x, height - y) for x, y in points)
            for end, height in zip(ends, heights, strict=True)
        ]
        far = int(free[1] > free[0])
        axes.annotate(
            f"{100 * solve:.3g}%", (ends[far], heights[far]), ((4, -4), (-4, 4))[far],
            textcoords="offset points", rotation=-45, rotation_mode="anchor", fontsize=6,
            color=look.GREY, ha=("left", "right")[far], va=("top", "bottom")[far], zorder=0,
        )  # fmt: skip


def _place_legend(figure: Figure, split: SplitFigures) -> None:
    handles, labels = [], []
    for place in Place:
        members = [each for each in split.checkpoints if _place(each) is place]
        if not members:
            continue
        mark = look.mark_of(place, members[-1].checkpoint.alpha)
        handles.append(mark.at([], []))
        labels.append(place.value)
    handles.append(Line2D([], [], color=look.PALE, linewidth=0.8, linestyle=(0, (4, 3))))
    labels.append("equal solve rate")
    figure.legend(
        handles, labels, loc="outside upper center", ncols=2, columnspacing=1.2, handletextpad=0.5
    )


def draw_rates(split: SplitFigures) -> Figure | None:
    """The three rates over alpha, with their intervals; grey ground marks extrapolations.

    Returns:
        None if fewer than two checkpoints have an alpha.
    """
    path = alpha_path(split.table)
    if len(path) < 2:
        return None
    figure = look.new_figure(*PANEL_INCHES)
    axes = figure.subplots()
    checkpoints = [split.checkpoints[row] for row in path]
    alphas = [each.checkpoint.alpha or 0.0 for each in checkpoints]
    margin = 0.03 * (alphas[-1] - alphas[0])
    axes.set_xlim(alphas[0] - margin, alphas[-1] + margin)
    left, right = axes.get_xlim()
    if alphas[0] < 0:
        axes.axvspan(left, min(0.0, right), color="#efefef", linewidth=0, zorder=0)
    if alphas[-1] > 1:
        axes.axvspan(max(1.0, left), right, color="#efefef", linewidth=0, zorder=0)
    for rate, line in look.RATE_LINES.items():
        values = [each.rates[rate] for each in checkpoints]
        axes.fill_between(
            alphas, [each.low for each in values], [each.high for each in values],
            color=line.colour, alpha=0.13, linewidth=0,
        )  # fmt: skip
        axes.plot(
            alphas, [each.value for each in values], line.dash, color=line.colour,
            marker=line.shape, markersize=4, label=line.label, clip_on=False, zorder=3,
        )  # fmt: skip
    axes.set_ylim(0, min(1.0, axes.get_ylim()[1]))
    look.percent(axes.yaxis)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel("alpha (0: low coverage, 1: high coverage)")
    axes.set_ylabel("share of samples")
    figure.legend(
        loc="outside upper center", ncols=3, columnspacing=1.0, handlelength=2.2, handletextpad=0.4
    )
    return figure


def draw_passes(split: SplitFigures) -> Figure:
    """pass@k over k, a line per checkpoint; dark to light by alpha, shapes by place."""
    path = alpha_path(split.table)
    names = [look.short_name(each.checkpoint) for each in split.checkpoints]
    legend_columns = 5 if max(len(name) for name in names) <= 8 else 2
    legend_rows = -(-len(names) // legend_columns)
    width, height = PANEL_INCHES
    figure = look.new_figure(width, height + 0.15 * max(0, legend_rows - 2))
    axes = figure.subplots()
    coloured = path or list(range(len(names)))
    shades = dict(zip(coloured, look.shades(len(coloured)), strict=True))
    for row, (each, name) in enumerate(zip(split.checkpoints, names, strict=True)):
        axes.plot(
            list(each.passes), [interval.value for interval in each.passes.values()],
            marker=look.mark_of(_place(each), each.checkpoint.alpha).shape, markersize=3,
            color=shades.get(row, look.GREY), linewidth=1.0, label=name,
            linestyle="--" if _place(each) is Place.EXTRAPOLATION else "-",
        )  # fmt: skip
    draws = list(split.checkpoints[0].passes)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(
        FixedLocator([k for k in draws if k == draws[-1] or draws[-1] / k > 1.4])
    )
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)
    look.percent(axes.yaxis)
    axes.set_xlabel("k (samples per problem)")
    axes.set_ylabel("pass@k")
    figure.legend(
        loc="outside upper center", ncols=legend_columns, columnspacing=1.0, handlelength=2.2,
        handletextpad=0.4, title="alpha" if path else None, title_fontsize=7,
    )  # fmt: skip
    return figure


def draw_map(table: VerdictTable) -> Figure:
    """What each checkpoint solves: a row per checkpoint, a column per problem.

    Dark is often, light is rarely, white is never. Within each difficulty: first what all solve,
    then what some solve, from the low end's to the high end's, last what none does.
    """
    rates = table.accepted / table.samples
    blocks = _blocks(table)
    order = [column for block in blocks for column in block.columns]
    figure = look.new_figure(7.0, max(2.2, 1.4 + 0.19 * len(rates)))
    axes = figure.subplots()
    smallest = 1 / int(table.samples.max())
    image = axes.imshow(
        np.ma.masked_equal(rates[:, order], 0.0), aspect="auto", interpolation="nearest",
        cmap=look.blues(0.3), norm=LogNorm(smallest, 1.0) if smallest < 1 else None,
    )  # fmt: skip
    axes.set_yticks(range(len(rates)), [look.short_name(each) for each in table.checkpoints])
    axes.set_xticks([])
    axes.set_ylabel("alpha" if alpha_path(table) else "checkpoint")
    axes.set_xlabel(
        f"{len(order)} problems, a column each: what all solve | some, low end's first | none; "
        "white: never accepted"
    )
    for spine in axes.spines.values():
        spine.set_visible(True)
    start = 0
    for block in blocks:
        end = start + len(block.columns)
        if start:
            axes.axvline(start - 0.5, color=look.BLACK, linewidth=1.0)
        text = look.plain(block.name, 16)
        if len(blocks) <= 4:
            text += f"\n{block.by_all} | {block.by_some} | {block.by_none}"
        axes.annotate(
            text, ((start + end) / 2 - 0.5, 1.0), (0, 3), ha="center", va="bottom", fontsize=7,
            xycoords=("data", "axes fraction"), textcoords="offset points",
            rotation=90 if len(blocks) > 8 else 0,
        )  # fmt: skip
        start = end
    ticks = [share for share in (smallest, 0.001, 0.01, 0.1, 1.0) if share >= smallest]
    bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=14, ticks=ticks)
    bar.ax.set_yticklabels([f"{share:.2g}" for share in ticks])
    bar.ax.minorticks_off()
    bar.set_label("accepted share", fontsize=7)
    return figure


@dataclass(frozen=True, slots=True)
class _Block:
    """The problems of one difficulty: their columns in order, and how many checkpoints do them."""

    name: str
    columns: list[int]
    by_all: int
    by_some: int
    by_none: int


def _blocks(table: VerdictTable) -> list[_Block]:
    where = {problem: column for column, problem in enumerate(table.problems)}
    parts = by_difficulty(table)
    blocks = []
    for part in parts[1:] or parts:
        solvers = (part.table.accepted > 0).sum(axis=0)
        by_all, by_none = int((solvers == len(table.names)).sum()), int((solvers == 0).sum())
        blocks.append(
            _Block(
                name=part.name if len(parts) > 1 else table.difficulties[0],
                columns=[where[part.table.problems[each]] for each in solved_order(part.table)],
                by_all=by_all,
                by_some=len(solvers) - by_all - by_none,
                by_none=by_none,
            )
        )
    return blocks


def draw_complementarity(split: SplitFigures) -> Figure | None:
    """How many problems the row's checkpoint solves and the column's does not.

    With half of the samples each; the diagonal is what two runs of one checkpoint would show.

    Returns:
        None if there is a single checkpoint, or a single sample: nothing can be halved.
    """
    compared = complementarity(split.table)
    if compared.draws == 0 or len(split.checkpoints) < 2:
        return None
    values = compared.expected
    side = len(values)
    figure = look.new_figure(max(3.5, 1.3 + 0.28 * side), max(3.3, 1.0 + 0.28 * side))
    axes = figure.subplots()
    top = max(float(values.max()), 1.0)
    image = axes.imshow(values, cmap=look.blues(0.0), vmin=0.0, vmax=top)
    if side > LABELLED_MAX:
        figure.colorbar(image, ax=axes, shrink=0.6)
    labels = [look.short_name(each) for each in split.table.checkpoints]
    axes.set_yticks(range(side), labels)
    axes.set_xticks(range(side), labels)
    if max(len(label) for label in labels) > 6:
        axes.tick_params(axis="x", labelrotation=90)
    axes.set_xlabel("does not solve")
    axes.set_ylabel("solves")
    axes.set_title(
        f"expected problems, of {split.problems}; {compared.draws} samples each", fontsize=7
    )
    for (row, column), value in np.ndenumerate(values):
        if side > LABELLED_MAX:
            break
        axes.annotate(
            f"{value:.0f}" if value >= 99.95 else f"{value:.1f}", (column, row),
            ha="center", va="center", fontsize=6,
            fontweight="bold" if row == column else "normal",
            color="#ffffff" if value > 0.6 * top else look.BLACK,
        )  # fmt: skip
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)
    return figure
