"""One RL run of the lab: the lab's sizes as a training recipe, through `cupel_trainer.train`."""

from __future__ import annotations

from pathlib import Path

from cupel_trainer.evaluate.records import Setting
from cupel_trainer.lab.lessons import TEMPLATES
from cupel_trainer.lab.recipe import LabRecipe
from cupel_trainer.lab.stage import Show
from cupel_trainer.train import recipe as training
from cupel_trainer.train.coverage import Coverage


def training_recipe(
    recipe: LabRecipe,
    *,
    start: Path,
    problems: Path,
    coverage: int,
    seed: int,
    service: str,
) -> training.Recipe:
    """What `cupel train` would be given for a branch.

    Args:
        recipe: The lab's.
        start: The checkpoint that both branches start from.
        problems: The problem set, in the same order for both.
        coverage: Tiers 1 to this one count.
        seed: Of sampling and of the problems' order; the same for both.
        service: The URL of the service.
    """
    rl = recipe.rl
    return training.Recipe(
        seed=seed,
        model=training.Model(path=str(start.resolve())),
        problems=training.Problems(
            set=str(problems.resolve()),
            order_seed=seed,
            template=TEMPLATES[Setting.REASONING],
        ),
        coverage=Coverage(level=coverage),
        service=training.Service(url=service, patience_s=120),
        sampling=training.Sampling(max_tokens=recipe.max_tokens, group_size=rl.group_size),
        optimiser=training.Optimiser(
            steps=rl.steps,
            prompts_per_step=rl.prompts_per_step,
            learning_rate=rl.learning_rate,
        ),
        precision=training.Precision(compute=training.Dtype.FLOAT32, device="cpu"),
        parallelism=training.Parallelism(gradient_checkpointing=False),
        rollouts=training.Rollouts(chunk=rl.prompts_per_step * rl.group_size // 2),
        checkpoints=training.Checkpoints(every_steps=10, keep=1),
    )


def train_branch(
    recipe: LabRecipe,
    *,
    start: Path,
    problems: Path,
    coverage: int,
    seed: int,
    service: str,
    out: Path,
    show: Show,
    same_start_as: Path | None = None,
) -> None:
    """Trains one branch, or goes on where it was killed; see `training_recipe`.

    Args:
        recipe: As there.
        start: As there.
        problems: As there.
        coverage: As there.
        seed: As there.
        service: As there.
        out: The folder of the run; `masters` in it is the checkpoint.
        show: Is told of the progress.
        same_start_as: The other branch, which must have had the same start and problems.
    """
    from cupel_trainer.train.run import Progress, train

    def tell(progress: Progress) -> None:
        record = progress.record
        solved = f", solved {record.solve_rate:.0%}" if record and record.solve_rate else ""
        show(f"{progress.doing}{solved}", progress.step / progress.steps)

    made = training_recipe(
        recipe, start=start, problems=problems, coverage=coverage, seed=seed, service=service
    )
    train(made, out, show=tell, same_start_as=same_start_as)
