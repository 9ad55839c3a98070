"""Evaluation of the merged checkpoints in one setting, sampling one while another is judged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from cupel import AsyncClient
from cupel.schema import Language
from cupel_trainer.episodes.prompt import read_template
from cupel_trainer.evaluate.evaluation import Evaluation
from cupel_trainer.evaluate.problem_set import ProblemEntry, read_problem_set
from cupel_trainer.evaluate.records import Sampling, Setting
from cupel_trainer.evaluate.sample_run import EngineOptions, checkpoint_run, execute
from cupel_trainer.evaluate.sampling import Progress
from cupel_trainer.lab.lessons import TEMPLATES
from cupel_trainer.lab.recipe import BUDGETS, Counts, LabRecipe
from cupel_trainer.lab.stage import Show

BATCH = 128
"""Completions that are drawn as one."""
_CLEAN_TIMEOUT_S = 10.0


def measure(
    recipe: LabRecipe,
    setting: Setting,
    *,
    merged: Path,
    problems: Path,
    seed: int,
    service: str,
    out: Path,
    show: Show,
) -> None:
    """Samples and judges every checkpoint; run again, it does what is missing.

    Args:
        recipe: The lab's.
        setting: How the policy is asked.
        merged: The folder of the merged checkpoints.
        problems: The problem set.
        seed: Of the sampling.
        service: The URL of the service.
        out: Gets `samples/alpha_A.jsonl` and `verdicts/alpha_A.jsonl`.
        show: Is told of the progress.
    """
    chosen = recipe.measure(setting)
    entries = first_of_each(read_problem_set(str(problems)), chosen.each)
    sampling = Sampling(
        max_tokens=recipe.max_tokens,
        seed=seed,
        language=Language.PYTHON,
        dtype="float32",
        budget=None if setting is Setting.REASONING else BUDGETS[setting],
    )
    options = EngineOptions(device="cpu", batch_size=BATCH, service=service, episodes=2 * BATCH)
    total = len(chosen.alphas) * len(entries) * chosen.samples
    judged: list[Future[None]] = []
    with ThreadPoolExecutor(1) as judging:
        for number, alpha in enumerate(chosen.alphas):
            name = f"alpha_{alpha:g}"
            samples = out / "samples" / f"{name}.jsonl"
            run = checkpoint_run(
                str(merged / name), samples, chosen.samples, sampling, setting=setting
            )
            tell = _told(show, alpha, number * len(entries) * chosen.samples, total)
            template = read_template(TEMPLATES[setting])
            execute(run, str(problems), entries, template, options, tell)
            verdicts = out / "verdicts" / f"{name}.jsonl"
            judged.append(judging.submit(_judge, samples, entries, verdicts, service))
        show("judging the rest", 1.0)
        for each in judged:
            each.result()


def _told(show: Show, alpha: float, before: int, total: int) -> Callable[[Progress], None]:
    """Tells how much of a setting is sampled, from how much of one checkpoint is."""

    def tell(progress: Progress) -> None:
        show(f"alpha {alpha:g}", (before + progress.held) / total)

    return tell


def first_of_each(entries: tuple[ProblemEntry, ...], counts: Counts) -> tuple[ProblemEntry, ...]:
    """The first so many problems of each part, in the set's order."""
    left = {part.value: count for part, count in counts.by_part.items()}
    chosen = []
    for entry in entries:
        if left[entry.difficulty]:
            left[entry.difficulty] -= 1
            chosen.append(entry)
    return tuple(chosen)


def _judge(samples: Path, entries: tuple[ProblemEntry, ...], out: Path, service: str) -> None:
    async def judge() -> None:
        async with (
            AsyncClient(service, patience_s=60) as client,
            AsyncClient(service, timeout_s=_CLEAN_TIMEOUT_S, patience_s=0) as cleaner,
        ):
            await Evaluation(samples, entries, out, lambda tally: None).run(client, cleaner)

    asyncio.run(judge())
