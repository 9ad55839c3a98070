"""The lab's report: one page that stands alone, and its tables as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from cupel_trainer.evaluate import picture_style
from cupel_trainer.evaluate.findings import MINUS
from cupel_trainer.evaluate.frontier import Rate
from cupel_trainer.evaluate.frontier_report import Picture
from cupel_trainer.evaluate.records import Setting
from cupel_trainer.evaluate.tables import Cell, Table, markdown
from cupel_trainer.lab import pictures
from cupel_trainer.lab.claims import Result, mean_interval, results
from cupel_trainer.lab.family.skeleton import Part
from cupel_trainer.lab.figures import SHOWN_RATES, SeedFigures
from cupel_trainer.lab.recipe import LabRecipe
from cupel_trainer.whole_files import write_whole

PAGE, TABLES = "report.html", "findings.md"

_RATE_NAMES = {
    Rate.SOLVE: "solved",
    Rate.OPTIMIZATION: "optimization failures",
    Rate.CORRECTNESS: "correctness failures",
}


def write_report(folder: Path, recipe: LabRecipe, name: str, seeds: Sequence[SeedFigures]) -> Path:
    """Writes page, tables and pictures.

    Args:
        folder: Where.
        recipe: Of all seeds.
        name: The recipe's, for people.
        seeds: What each seed came to.

    Returns:
        The page.
    """
    found = results(seeds)
    drawn = _pictures(seeds)
    tables = {
        "findings": findings_table(found),
        "rates_hard": rates_table(seeds, Part.HARD),
        "rates_easy": rates_table(seeds, Part.EASY),
        "ensemble": ensemble_table(seeds),
        "times": times_table(seeds),
    }
    context = {
        "recipe": recipe,
        "name": name,
        "seeds": seeds,
        "results": found,
        "groups": list(dict.fromkeys(result.claim.group for result in found)),
        "tables": tables,
        "pictures": drawn,
        "masked": sum(curve.masked for seed in seeds for curve in seed.rl.values()),
        "cupel": version("cupel"),
    }
    for picture in drawn.values():
        for kind, content in picture.files.items():
            write_whole(folder / "pictures" / f"{picture.name}.{kind}", content)
    write_whole(folder / TABLES, _render("findings.md.j2", context))
    page = folder / PAGE
    write_whole(page, _render("report.html.j2", context))
    return page


def signed(value: float) -> str:
    """Such as `+3.2`, of a share in points."""
    return f"{100 * value:+.1f}".replace("-", MINUS).replace(f"{MINUS}0.0", "+0.0")


def findings_table(found: Sequence[Result]) -> Table:
    """Every claim, its numbers and what they say."""
    rows: list[tuple[Cell, ...]] = []
    for result in found:
        interval = result.interval
        spread = (
            f"{signed(interval.low)} to {signed(interval.high)}" if interval is not None else ""
        )
        rows.append(
            (
                result.claim.group,
                result.claim.text,
                result.claim.expected.value,
                signed(result.mean),
                spread,
                result.verdict,
            )
        )
    columns = ("", "change", "the paper", "points", "95% over seeds", "here")
    return Table(columns, tuple(rows))


def rates_table(seeds: Sequence[SeedFigures], part: Part) -> Table:
    """Means over seeds of each rate by setting and alpha, with the seeds' spread."""
    rows: list[tuple[Cell, ...]] = []
    for setting in Setting:
        curves = [seed.curves[setting][part] for seed in seeds]
        for row, alpha in enumerate(curves[0].alphas):
            cells: list[Cell] = [setting.value, f"{alpha:g}".replace("-", MINUS)]
            for rate in SHOWN_RATES:
                values = [curve.rates[rate][row] for curve in curves]
                mean = 100 * sum(values) / len(values)
                interval = mean_interval(values)
                half = f" ± {100 * (interval.high - interval.value):.1f}" if interval else ""
                cells.append(f"{mean:.1f}%{half}")
            rows.append(tuple(cells))
    return Table(("setting", "alpha", *_RATE_NAMES.values()), tuple(rows))


def ensemble_table(seeds: Sequence[SeedFigures]) -> Table:
    """Mean share of the ensembles' budget that each checkpoint got, in every seed."""
    names = list(seeds[0].members)
    rows = tuple(
        (f"seed {seed.seed}", *(f"{100 * seed.members[name]:.0f}%" for name in names))
        for seed in seeds
    )
    return Table(("", *(name.replace("alpha_", "") for name in names)), rows)


def times_table(seeds: Sequence[SeedFigures]) -> Table:
    """Seconds of each stage in each seed, and the judge's share of an RL step."""
    stages = list(seeds[0].wall_s)
    rows: list[tuple[Cell, ...]] = []
    for seed in seeds:
        waits = [
            sum(curve.judge_wait_s) / max(sum(curve.step_s), 1e-9) for curve in seed.rl.values()
        ]
        total = sum(seed.wall_s.values())
        rows.append(
            (
                f"seed {seed.seed}",
                *(f"{seed.wall_s[stage]:.0f}" for stage in stages),
                f"{total:.0f}",
                *(f"{100 * wait:.0f}%" for wait in waits),
            )
        )
    return Table(("seconds", *stages, "all", "judge wait, low", "judge wait, high"), tuple(rows))


def _pictures(seeds: Sequence[SeedFigures]) -> dict[str, Picture]:
    drawings = {
        "plane": ("Correctness against optimization failures on hard problems", "plane-hard"),
        "rates": ("Rates over alpha on hard problems, in three settings", "rates-hard"),
        "easy": ("Rates over alpha on easy problems, in three settings", "rates-easy"),
        "training": ("Solve rates of the two RL runs", "training"),
    }
    with picture_style.style():
        figures = {
            "plane": pictures.draw_plane(seeds, Part.HARD),
            "rates": pictures.draw_rates(seeds, Part.HARD),
            "easy": pictures.draw_rates(seeds, Part.EASY),
            "training": pictures.draw_training(seeds),
        }
        return {
            key: Picture(name, text, picture_style.saved(figures[key]))
            for key, (text, name) in drawings.items()
        }


def _render(template: str, context: dict[str, object]) -> bytes:
    environment = Environment(
        loader=PackageLoader("cupel_trainer.lab"),
        autoescape=template.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["table_md"] = markdown
    environment.filters["claim"] = lambda seeds, key: sum(seed.claims[key] for seed in seeds) / len(
        seeds
    )
    return environment.get_template(template).render(context).encode()
