"""How a study's pictures look: for print in colour, in grey, and for the colour-blind.

Colours are of the palette by M. Okabe and K. Ito (2008), each with a shape or a dash of its own,
so that nothing is told apart by colour alone. Series over alpha take `viridis`, whose lightness
rises evenly and which the colour-blind see so, too.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, product

import matplotlib as mpl
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter
from matplotlib.typing import RcKeyType

from cupel_trainer.evaluate.frontier import Place, Rate
from cupel_trainer.evaluate.pass_at_k import FloatArray
from cupel_trainer.evaluate.records import CheckpointRef

BLACK, GREY, PALE = "#000000", "#767676", "#d0d0d0"
BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"
DOTS_PER_INCH = 200
NAME_CHARACTERS = 24

_STYLE: dict[RcKeyType, object] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.0,
    "axes.titlesize": 9.0,
    "axes.labelsize": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 7.0,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "svg.fonttype": "path",  # looks alike wherever it is shown
    "svg.hashsalt": "cupel",  # the same numbers give the same bytes
}


@dataclass(frozen=True, slots=True)
class Mark:
    """How a point of one kind is drawn."""

    shape: str
    face: str
    edge: str
    size: float

    def at(self, x: Sequence[float], y: Sequence[float]) -> Line2D:
        """The mark at points; at none, for a legend."""
        return Line2D(
            x, y, linestyle="", marker=self.shape, markersize=self.size, zorder=3,
            markerfacecolor=self.face, markeredgecolor=self.edge, markeredgewidth=0.7,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Line:
    """How a rate is drawn over alpha."""

    colour: str
    dash: str
    shape: str
    label: str


RATE_LINES = {
    Rate.SOLVE: Line(BLACK, "-", "o", "solve rate"),
    Rate.OPTIMIZATION: Line(ORANGE, "--", "^", "optimization failures"),
    Rate.CORRECTNESS: Line(BLUE, ":", "s", "correctness failures"),
}


def mark_of(place: Place, alpha: float | None) -> Mark:
    """The mark of a checkpoint; extrapolations point the way they leave the ends."""
    if place is Place.END:
        return Mark("s", BLACK, BLACK, 5.5)
    if place is Place.INTERPOLATION:
        return Mark("o", "#56B4E9", BLACK, 5.5)
    if place is Place.EXTRAPOLATION:
        return Mark("^" if (alpha or 0.0) > 1 else "v", ORANGE, BLACK, 6.5)
    return Mark("D", "#ffffff", BLACK, 5.0)


@contextmanager
def style() -> Iterator[None]:
    """Draws in this style within."""
    with mpl.rc_context(_STYLE):
        yield


def new_figure(width_inches: float, height_inches: float) -> Figure:
    """A figure that needs no display."""
    figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def settle(figure: Figure) -> None:
    """Lays a figure out, once: from then on nothing moves."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine(None)


def saved(figure: Figure) -> dict[str, bytes]:
    """The picture's bytes by file type: `png` and `svg`, without a date in either."""
    settle(figure)
    files = {}
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=DOTS_PER_INCH, metadata=metadata)
        files[kind] = buffer.getvalue()
    return files


@cache
def _known_characters() -> frozenset[int]:
    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    return frozenset(font.get_charmap())


def plain(text: str, longest: int = NAME_CHARACTERS) -> str:
    """A name as a picture can show it.

    Dollar signs would begin formulas, a leading underscore hides a name from legends, and
    characters that the font lacks give warnings and empty boxes.

    Args:
        text: Any text.
        longest: Longer ones are cut in their middle.
    """
    known = _known_characters()
    shown = "".join(
        letter if ord(letter) in known and unicodedata.category(letter)[0] != "C" else "?"
        for letter in text
    )
    if len(shown) > longest:
        half = (longest - 1) // 2
        shown = f"{shown[: longest - 1 - half]}…{shown[-half:]}"
    if shown.startswith("_"):
        shown = f" {shown}"
    return shown.replace("$", r"\$")


def short_name(checkpoint: CheckpointRef) -> str:
    """How a checkpoint is called in a picture: its alpha, else its name."""
    if checkpoint.alpha is None:
        return plain(checkpoint.name)
    return f"{checkpoint.alpha:g}".replace("-", "\N{MINUS SIGN}")


def percent(*axes: Axis) -> None:
    """Labels axes of shares in percent, with no more digits than they need."""
    for axis in axes:
        axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.6g}%"))


def shades(count: int) -> list[tuple[float, float, float, float]]:
    """Colours for series in order, dark to light, none so light that print loses it."""
    viridis = mpl.colormaps["viridis"]
    return [viridis(0.88 * index / max(count - 1, 1)) for index in range(count)]


def blues(lightest: float) -> LinearSegmentedColormap:
    """Light to dark blue.

    Args:
        lightest: Where it begins: 0 is white; more keeps the lightest apart from white paper.
    """
    whole = mpl.colormaps["Blues"]
    steps = [whole(lightest + (1 - lightest) * step / 63) for step in range(64)]
    return LinearSegmentedColormap.from_list("blues", steps)


def place_labels(
    figure: Figure,
    axes: Axes,
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    path: Sequence[int],
) -> None:
    """Writes a text beside each point, where it covers no point, no other text and no path.

    Args:
        figure: The figure of the axes; all else must be in it already.
        axes: Where; their limits must be final.
        points: In data coordinates.
        texts: One per point.
        path: Points that a line joins, in its order.
    """
    settle(figure)
    scale = figure.dpi / 72
    centres = axes.transData.transform(points)
    taken = [_around(centre, 4 * scale) for centre in centres]
    for start, end in pairwise(centres[list(path)]):
        steps = np.linspace(0, 1, 16)[:, None]
        taken += [_around(spot, 1.5 * scale) for spot in start + steps * (end - start)]
    frame = np.array(axes.get_window_extent().extents)
    for centre, point, text in zip(centres, points, texts, strict=True):
        label = axes.annotate(
            text, point, (0, 0), textcoords="offset points", fontsize=7, zorder=4,
            path_effects=[withStroke(linewidth=1.5, foreground="#ffffff")],
        )  # fmt: skip
        size = np.array(label.get_window_extent().size)
        box = _free_place(centre, size, scale, np.array(taken), frame)
        label.set_position(tuple((box[:2] - centre) / scale))
        taken.append(box)


def _free_place(
    centre: FloatArray, size: FloatArray, scale: float, taken: FloatArray, frame: FloatArray
) -> FloatArray:
    """Of boxes around a centre, the one that covers least and is nearest.

    Boxes are left, bottom, right, top, in dots; `taken` is (N, 4).
    """
    best, least = np.concatenate([centre, centre + size]), float("inf")
    for distance in (5.0, 9.0, 14.0):
        for way in product((1, 0, -1), repeat=2):
            if way == (0, 0):
                continue
            corner = centre + np.array(way) * distance * scale - size * (1 - np.array(way)) / 2
            box = np.concatenate([corner, corner + size])
            outside = float(size.prod() - _overlaps(box, frame[None]).sum())
            cost = float(_overlaps(box, taken).sum()) + 2 * outside + distance / 100
            if cost < least:
                best, least = box, cost
    return best


def _around(centre: FloatArray, radius: float) -> FloatArray:
    return np.concatenate([centre - radius, centre + radius])


def _overlaps(box: FloatArray, others: FloatArray) -> FloatArray:
    """The area that a box shares with each of others, (N,)."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    area: FloatArray = np.clip(high - low, 0, None).prod(axis=1)
    return area
