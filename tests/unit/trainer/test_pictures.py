from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from study_files import figures, study_table

from cupel_trainer.evaluate import picture_style as look
from cupel_trainer.evaluate import pictures
from cupel_trainer.evaluate.frontier import Place, SplitFigures

ALPHAS = (-0.5, 0.0, 0.5, 1.0, 1.5)
DRAWINGS: list[Callable[[SplitFigures], Figure | None]] = [
    pictures.draw_plane,
    pictures.draw_rates,
    pictures.draw_passes,
    pictures.draw_complementarity,
    lambda split: pictures.draw_map(split.table),
]


@pytest.fixture(autouse=True)
def _style() -> Iterator[None]:
    with look.style():
        yield


def split(folder: Path, problems: int = 6) -> SplitFigures:
    letters = ("TTTA", "TTWA", "TWWA", "WWWA", "WWWW")
    verdicts: dict[float | str, dict[str, str]] = {
        alpha: {f"p{index}": letters[(row + index) % 5] for index in range(problems)}
        for row, alpha in enumerate(ALPHAS)
    }
    return figures(study_table(folder, verdicts)).splits[0]


@pytest.mark.parametrize("draw", DRAWINGS)
def test_every_picture_is_a_whole_png_and_svg(
    tmp_path: Path, draw: Callable[[SplitFigures], Figure | None]
) -> None:
    figure = draw(split(tmp_path))
    assert figure is not None
    files = look.saved(figure)
    width, height = struct.unpack(">II", files["png"][16:24])
    assert width >= 600
    assert height >= 400
    assert imread(io.BytesIO(files["png"])).std() > 0.05  # not blank
    assert files["svg"].rstrip().endswith(b"</svg>")
    assert b"<text" not in files["svg"]  # paths: looks alike without our fonts


@pytest.mark.parametrize("draw", DRAWINGS)
def test_the_same_numbers_give_the_same_bytes(
    tmp_path: Path, draw: Callable[[SplitFigures], Figure | None]
) -> None:
    one, two = (draw(split(tmp_path)) for _ in range(2))
    assert one is not None
    assert two is not None
    assert look.saved(one) == look.saved(two)


@pytest.mark.parametrize("draw", DRAWINGS)
def test_no_text_lies_outside_its_picture(
    tmp_path: Path, draw: Callable[[SplitFigures], Figure | None]
) -> None:
    figure = draw(split(tmp_path))
    assert figure is not None
    look.settle(figure)
    frame = figure.bbox
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    boxes += [legend.get_window_extent() for legend in figure.legends]
    boxes += [text.get_window_extent() for axes in figure.axes for text in axes.texts]
    for box in boxes:
        assert frame.x0 - 1 <= box.x0, box
        assert frame.y0 - 1 <= box.y0, box
        assert box.x1 <= frame.x1 + 1, box
        assert box.y1 <= frame.y1 + 1, box


def test_the_plane_has_one_scale_and_the_points_where_the_rates_are(tmp_path: Path) -> None:
    study = split(tmp_path)
    figure = pictures.draw_plane(study)
    (axes,) = figure.axes
    spans = [high - low for low, high in (axes.get_xlim(), axes.get_ylim())]
    assert spans[0] == pytest.approx(spans[1])
    marks = {line.get_marker() for line in axes.lines} & {"s", "o", "^", "v"}
    assert marks == {"s", "o", "^", "v"}  # ends, interpolation, extrapolations up and down
    labels = [text.get_text() for text in axes.texts]
    assert {"0", "0.5", "1", "1.5", f"{chr(0x2212)}0.5"} <= set(labels)


def test_lines_of_equal_solve_rate_join_equal_sums(tmp_path: Path) -> None:
    (axes,) = pictures.draw_plane(split(tmp_path)).axes
    lines = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_zorder() == 0]
    assert lines
    for line in lines:
        sums = [x + y for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]
        assert sums[0] == pytest.approx(sums[1])


def test_marks_differ_in_shape_and_not_by_colour_alone() -> None:
    shapes = [
        look.mark_of(Place.END, 0.0).shape,
        look.mark_of(Place.INTERPOLATION, 0.5).shape,
        look.mark_of(Place.EXTRAPOLATION, 1.5).shape,
        look.mark_of(Place.EXTRAPOLATION, -0.5).shape,
        look.mark_of(Place.OTHER, None).shape,
    ]
    assert len(set(shapes)) == 5
    dashes = [(line.dash, line.shape) for line in look.RATE_LINES.values()]
    assert len(set(dashes)) == 3


def test_shades_are_told_apart_in_grey() -> None:
    greys = [0.299 * red + 0.587 * green + 0.114 * blue for red, green, blue, _ in look.shades(9)]
    assert greys == sorted(greys)
    assert all(later - earlier > 0.03 for earlier, later in pairwise(greys))


def test_labels_cover_neither_points_nor_each_other() -> None:
    figure = look.new_figure(3.5, 3.3)
    axes = figure.subplots()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    points = [(0.5, 0.5), (0.52, 0.5), (0.5, 0.53), (0.9, 0.9)]
    look.place_labels(figure, axes, points, ["-0.5", "-0.25", "0", "1.25"], [0, 1, 2, 3])
    boxes = [text.get_window_extent() for text in axes.texts]
    for row, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[row + 1 :])
        assert not any(box.contains(*axes.transData.transform(point)) for point in points)


def test_without_two_alphas_there_are_no_rates_over_alpha(tmp_path: Path) -> None:
    study = figures(study_table(tmp_path, {"a": {"p": "AW"}, 0.5: {"p": "WW"}})).splits[0]
    assert pictures.draw_rates(study) is None


def test_what_cannot_be_halved_is_not_compared(tmp_path: Path) -> None:
    one_sample = figures(study_table(tmp_path, {0.0: {"p": "A"}, 1.0: {"p": "W"}})).splits[0]
    assert pictures.draw_complementarity(one_sample) is None
    alone = figures(study_table(tmp_path / "..", {0.0: {"p": "AAWW"}})).splits[0]
    assert pictures.draw_complementarity(alone) is None


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain-name", "plain-name"),
        ("cost $5 or $6", r"cost \$5 or \$6"),
        ("_hidden", " _hidden"),
        ("日本", "??"),
        ("line\nfeed\x1b[31m", "line?feed?[31m"),
        ("abcdefghijklmnopqrstuvwxyz", "abcdefghijkl…pqrstuvwxyz"),
    ],
)
def test_names_are_shown_plainly(name: str, shown: str) -> None:
    assert look.plain(name) == shown
    assert len(look.plain(name).replace("\\", "")) <= 25


def test_any_names_and_any_number_of_checkpoints_can_be_drawn(tmp_path: Path) -> None:
    names = ["_a_$x^2$", "日本語", "a|b", "<script>", *(f"checkpoint-{row}" for row in range(15))]
    verdicts: dict[float | str, dict[str, str]] = {}
    for row, name in enumerate(names):
        verdicts[name.replace("/", "")] = {"p": "AW"[row % 2] * 4, "q": "ATWM", "r": "WWWW"}
    study = figures(study_table(tmp_path, verdicts)).splits[0]
    for draw in DRAWINGS:
        figure = draw(study)
        if figure is not None:
            assert look.saved(figure)["svg"].startswith(b"<?xml")
