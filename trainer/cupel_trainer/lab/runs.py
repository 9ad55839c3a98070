"""Seeds one after another, with the service that they need, and the report over all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cupel_trainer.lab.experiment import Experiment
from cupel_trainer.lab.figures import FIGURES, SeedFigures, read_figures, seed_figures
from cupel_trainer.lab.recipe import LabRecipe
from cupel_trainer.lab.stage import Stage, claim, read_done, run_stages
from cupel_trainer.whole_files import write_whole


@dataclass(frozen=True, slots=True)
class Moment:
    """Where a lab is.

    Args:
        seed: Which seed.
        stage: Which stage's folder.
        title: The stage, for people.
        text: What it is at.
        part: How much of the stage is done, 0 to 1.
        whole: How much of everything is done, 0 to 1.
        left_s: What remains, in seconds, about; None if nobody knows yet.
    """

    seed: int
    stage: str
    title: str
    text: str
    part: float
    whole: float
    left_s: float | None


def run_seeds(
    recipe: LabRecipe,
    name: str,
    seeds: Sequence[int],
    folder: Path,
    *,
    service: str | None = None,
    show: Callable[[Moment], None] = lambda moment: None,
) -> Path:
    """Runs what is missing of the seeds, and writes the report over all that the folder holds.

    Args:
        recipe: The experiment.
        name: The recipe's, for people.
        seeds: Which.
        folder: Gets `seed-N` for each, and the report.
        service: The URL of a service; None runs one, if there is anything to judge.
        show: Is told of the progress.

    Returns:
        The report's page.

    Raises:
        TrainerError: See `cupel_trainer.errors`; what was done is kept.
        CupelError: The service is away, or refuses.
    """
    import torch

    # One core computes while the other judges; two threads on busy cores wait for each other.
    torch.set_num_threads(1)
    clock = _Clock(len(seeds))
    for number, seed in enumerate(seeds):
        its = folder / f"seed-{seed}"
        claim(its, {"recipe": recipe.model_dump(mode="json"), "seed": seed})
        if (its / FIGURES).exists():
            continue
        tell = clock.of_seed(number, seed, show)
        with _service(service, recipe, seed, its) as url:
            done = run_stages(its, Experiment(recipe, seed, its, url).stages(), tell)
        figures = seed_figures(
            its, seed, recipe.ensemble_budget, {each.name: each.wall_s for each in done}
        )
        write_whole(its / FIGURES, figures.model_dump_json(indent=1).encode())
    from cupel_trainer.lab.report import write_report  # it imports matplotlib

    return write_report(folder, recipe, name, read_all(folder))


def read_all(folder: Path) -> tuple[SeedFigures, ...]:
    """The figures of every seed that a folder holds, by rising seed."""
    found = [read_figures(path) for path in folder.glob(f"seed-*/{FIGURES}")]
    return tuple(sorted(found, key=lambda each: each.seed))


@contextmanager
def _service(url: str | None, recipe: LabRecipe, seed: int, folder: Path) -> Iterator[str]:
    """The service; none is started if no stage is left to do."""
    stages = Experiment(recipe, seed, folder, "").stages()
    if url or all(read_done(folder / stage.name) for stage in stages):
        yield url or ""
        return
    from cupel import embedded_service

    with embedded_service() as own:
        yield own


class _Clock:
    """Tells what remains, from the stages' shares of the whole time and what was done now."""

    def __init__(self, seeds: int) -> None:
        self._seeds = seeds
        self._began_s = time.monotonic()
        self._first: float | None = None
        self._before: dict[int, dict[str, float]] = {}

    def of_seed(
        self, number: int, seed: int, show: Callable[[Moment], None]
    ) -> Callable[[Stage, str, float], None]:
        """Tells `show` of the stages of a seed."""

        def tell(stage: Stage, text: str, part: float) -> None:
            show(self._moment(number, seed, stage, text, part))

        return tell

    def _moment(self, number: int, seed: int, stage: Stage, text: str, part: float) -> Moment:
        shares = self._before.setdefault(number, {})
        shares[stage.name] = stage.share * part
        whole = min(1.0, (number + sum(shares.values())) / self._seeds)
        if self._first is None or (text == "done" and self._is_early()):
            self._first = whole  # what an earlier run had done took no time in this one
            self._began_s = time.monotonic()
        gained = whole - self._first
        elapsed_s = time.monotonic() - self._began_s
        left_s = elapsed_s / gained * (1 - whole) if gained > 0.02 else None
        return Moment(seed, stage.name, stage.title, text, part, whole, left_s)

    def _is_early(self) -> bool:
        return time.monotonic() - self._began_s < 0.5
