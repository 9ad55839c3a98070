"""A study's figures as files: one page, Markdown, CSV tables, pictures."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from cupel_trainer.evaluate import picture_style, pictures
from cupel_trainer.evaluate.findings import split_findings, study_notes
from cupel_trainer.evaluate.frontier import SplitFigures, StudyFigures
from cupel_trainer.evaluate.tables import (
    Table,
    csv_bytes,
    markdown,
    markdown_text,
    shown_passes,
    shown_rates,
    study_tables,
)

PAGE = "frontier.html"
"""The last file that is written: where it is, the others are."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture in both file types.

    Args:
        name: Its files' name, without folder and ending.
        text: What it shows, for those who cannot see it.
        files: Bytes by ending.
    """

    name: str
    text: str
    files: dict[str, bytes]

    @property
    def data_url(self) -> str:
        """The SVG for use within a page."""
        return f"data:image/svg+xml;base64,{base64.b64encode(self.files['svg']).decode()}"


@dataclass(frozen=True, slots=True)
class Section:
    """What the page and the Markdown say of one split."""

    name: str
    problems: int
    findings: tuple[str, ...]
    rates: Table
    other_rates: Table
    passes: Table
    pictures: tuple[Picture, ...]


def picture_count(study: StudyFigures) -> int:
    """How many pictures `report_files` will draw, at most: for a progress bar."""
    return 1 + 4 * len(study.splits)


def report_files(
    study: StudyFigures, *, on_picture: Callable[[], None] = lambda: None
) -> dict[str, bytes]:
    """All files of a report.

    Args:
        study: The figures.
        on_picture: Called after each picture, the slow part.

    Returns:
        Contents by path within the report's folder; the page is last.
    """
    sections = []
    slugs = _slugs([split.name for split in study.splits])
    with picture_style.style():
        overview = _picture("map", "What each checkpoint solves", pictures.draw_map(study.table))
        on_picture()
        for split, slug in zip(study.splits, slugs, strict=True):
            drawn = []
            for picture in _split_pictures(split, slug):
                drawn.append(picture)
                on_picture()
            sections.append(_section(study, split, tuple(drawn)))
    files = {f"tables/{name}.csv": csv_bytes(table) for name, table in study_tables(study).items()}
    for picture in (overview, *(each for section in sections for each in section.pictures)):
        for kind, content in picture.files.items():
            files[f"pictures/{picture.name}.{kind}"] = content
    context = _context(study, sections, overview)
    files["frontier.md"] = _render("frontier.md.j2", context)
    files[PAGE] = _render("frontier.html.j2", context)
    return files


def _slugs(names: list[str]) -> list[str]:
    """File names for splits: any text made plain, and unique."""
    slugs: list[str] = []
    for name in names:
        plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "split"
        slug, number = plain, 2
        while slug in slugs:
            slug, number = f"{plain}-{number}", number + 1
        slugs.append(slug)
    return slugs


def _split_pictures(split: SplitFigures, slug: str) -> Iterator[Picture]:
    draw: dict[str, tuple[str, Callable[[SplitFigures], Figure | None]]] = {
        "plane": ("Correctness against optimization failures", pictures.draw_plane),
        "rates": ("Rates over alpha", pictures.draw_rates),
        "passes": ("pass@k", pictures.draw_passes),
        "complementarity": ("What one solves and another does not", pictures.draw_complementarity),
    }
    for name, (text, function) in draw.items():
        figure = function(split)
        if figure is not None:
            yield _picture(f"{name}-{slug}", f"{text}: {split.name}", figure)


def _picture(name: str, text: str, figure: Figure) -> Picture:
    return Picture(name, text, picture_style.saved(figure))


def _section(study: StudyFigures, split: SplitFigures, drawn: tuple[Picture, ...]) -> Section:
    return Section(
        name=split.name,
        problems=split.problems,
        findings=split_findings(split, study.bootstrap.level),
        rates=shown_rates(split),
        other_rates=shown_rates(split, other=True),
        passes=shown_passes(split, study.draws),
        pictures=drawn,
    )


def _context(study: StudyFigures, sections: list[Section], overview: Picture) -> dict[str, object]:
    table = study.table
    return {
        "study": study,
        "sections": sections,
        "overview": overview,
        "notes": study_notes(study),
        "setting": table.headers[0].setting.value,
        "sampling": table.headers[0].sampling,
        "problem_set": table.headers[0].problem_set,
        "services": sorted({header.service for header in table.headers if header.service}),
        "inputs": [
            (name, str(path), digest)
            for name, (path, digest) in zip(table.names, table.files, strict=True)
        ],
        "level": f"{100 * study.bootstrap.level:g}%",
        "cupel": version("cupel"),
    }


def _render(template: str, context: dict[str, object]) -> bytes:
    environment = Environment(
        loader=PackageLoader("cupel_trainer.evaluate"),
        # A name in a study may be any text: everything is escaped in the page.
        autoescape=template.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = markdown_text
    environment.filters["table_md"] = markdown
    return environment.get_template(template).render(context).encode()
