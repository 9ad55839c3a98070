"""The experiment of one seed, stage by stage."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cupel_trainer.evaluate.problem_set import ProblemRow
from cupel_trainer.evaluate.records import Setting
from cupel_trainer.lab.family.problems import draw_problem, draw_set
from cupel_trainer.lab.family.skeleton import Part
from cupel_trainer.lab.lessons import Lesson, make_lessons, vocabulary_texts
from cupel_trainer.lab.measuring import measure
from cupel_trainer.lab.policy import make_policy
from cupel_trainer.lab.recipe import BUDGETS, LabRecipe
from cupel_trainer.lab.rl import train_branch
from cupel_trainer.lab.stage import Show, Stage
from cupel_trainer.lab.teaching import teach
from cupel_trainer.lab.vocabulary import make_tokenizer
from cupel_trainer.whole_files import write_whole

TRAIN, HELD_OUT = "train.jsonl", "held_out.jsonl"


@dataclass(frozen=True, slots=True)
class Experiment:
    """One seed of the lab.

    Args:
        recipe: Sizes and shares.
        seed: Of everything that is drawn.
        folder: Where it all goes.
        service: The URL of the service that judges.
    """

    recipe: LabRecipe
    seed: int
    folder: Path
    service: str

    def stages(self) -> tuple[Stage, ...]:
        """The stages, with the share of time that each took when it was measured."""
        return (
            Stage("problems", "drawing problems", 0.01, self._draw_problems),
            Stage("start", "supervised start", 0.18, self._teach),
            Stage("low", "RL, low coverage", 0.16, self._train_low),
            Stage("high", "RL, high coverage", 0.24, self._train_high),
            Stage("merged", "merging", 0.01, self._merge),
            *(
                Stage(setting.value, f"evaluating {setting.value}", share, self._measure(setting))
                for setting, share in (
                    (Setting.REASONING, 0.28),
                    (Setting.TOOLS, 0.06),
                    (Setting.AGENTIC, 0.06),
                )
            ),
        )

    def _random(self, purpose: str) -> np.random.Generator:
        """A source of its own for each purpose: a change in one leaves the others as they were."""
        digest = hashlib.sha256(f"{self.seed} {purpose}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8]))

    def _draw_problems(self, folder: Path, show: Show) -> None:
        sets = self.recipe.problems
        taken: set[str] = set()
        for name, counts in ((HELD_OUT, sets.held_out), (TRAIN, sets.train)):
            random = self._random(name)
            problems = draw_set(random, counts.by_part, sets.modest_share, taken)
            taken.update(each.id for each in problems)
            write_rows(folder / name, (each.row(random) for each in problems))

    def _teach(self, folder: Path, show: Show) -> None:
        show("writing lessons", 0.0)
        lessons = self._lessons()
        tokenizer = make_tokenizer(vocabulary_texts(lessons))
        model = make_policy(self.recipe.policy, tokenizer, self.seed)
        teaching = self.recipe.teaching
        steps = teaching.steps + teaching.later_steps
        teach(
            model,
            tokenizer,
            lessons,
            teaching,
            self.seed,
            lambda step, loss: show(f"{loss:.3f} nats per token", step / steps),
        )
        save_policy(folder / "policy", model, tokenizer)

    def _lessons(self) -> list[Lesson]:
        """Lessons on any problems but those held out."""
        held_out = read_ids(self.folder / "problems" / HELD_OUT)
        random = self._random("lessons")
        wanted, shares = self.recipe.teaching.lessons, self.recipe.lessons
        settings = random.choice(
            np.array([Setting.REASONING, Setting.TOOLS, Setting.AGENTIC], dtype=object),
            size=wanted,
            p=[1 - shares.tools - shares.agentic, shares.tools, shares.agentic],
        )
        problems = [
            draw_problem(random, (Part.EASY, Part.HARD)[number % 2], 0.0, held_out)
            for number in range(wanted)
        ]
        return make_lessons(problems, list(settings), BUDGETS, shares.mix, random)

    def _train_low(self, folder: Path, show: Show) -> None:
        self._train(folder, self.recipe.rl.low, show)

    def _train_high(self, folder: Path, show: Show) -> None:
        self._train(folder, self.recipe.rl.high, show, same_start_as=self.folder / "low")

    def _train(
        self, folder: Path, coverage: int, show: Show, same_start_as: Path | None = None
    ) -> None:
        train_branch(
            self.recipe,
            start=self.folder / "start" / "policy",
            problems=self.folder / "problems" / TRAIN,
            coverage=coverage,
            seed=self.seed,
            service=self.service,
            out=folder,
            show=show,
            same_start_as=same_start_as,
        )

    def _merge(self, folder: Path, show: Show) -> None:
        from cupel_trainer.merge import merge

        # It takes no second: what a killed merge left is made anew.
        shutil.rmtree(folder, ignore_errors=True)
        ends = [str(self.folder / name / "masters") for name in ("low", "high")]
        merge(*ends, alphas=self.recipe.reasoning.alphas, out=folder)

    def _measure(self, setting: Setting) -> Callable[[Path, Show], None]:
        def run(folder: Path, show: Show) -> None:
            measure(
                self.recipe,
                setting,
                merged=self.folder / "merged",
                problems=self.folder / "problems" / HELD_OUT,
                seed=self.seed,
                service=self.service,
                out=folder,
                show=show,
            )

        return run


def write_rows(path: Path, rows: Iterable[ProblemRow]) -> None:
    """Writes a problem set."""
    write_whole(path, "".join(f"{row.model_dump_json()}\n" for row in rows).encode())


def read_ids(path: Path) -> frozenset[str]:
    """The ids of the problems of a set."""
    lines = path.read_text("utf-8").splitlines()
    return frozenset(ProblemRow.model_validate_json(line).id for line in lines)


# Any: transformers has no types that mypy --strict can use.
def save_policy(folder: Path, model: Any, tokenizer: Any) -> None:
    """Writes a checkpoint, whole or not at all."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]  # no types; the lab has its own bar
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for each in (model, tokenizer):
        each.save_pretrained(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
