"""A training run from its recipe: begun, or gone on with from its last whole checkpoint."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cupel_trainer.episodes.prompt import default_template, render_prompts
from cupel_trainer.errors import TrainingError
from cupel_trainer.evaluate.problem_set import (
    ProblemEntry,
    Selection,
    read_problem_set,
    select,
    set_digest,
)
from cupel_trainer.train.checkpoint_folder import CheckpointFolder, newest
from cupel_trainer.train.desk import Desk
from cupel_trainer.train.manifest import (
    NAME,
    RunManifest,
    check_continues,
    compare_runs,
    read_manifest,
    versions,
    write_manifest,
)
from cupel_trainer.train.masters import export_masters
from cupel_trainer.train.order import Order, order_digest, problem_order
from cupel_trainer.train.policy import Policy, folder_digest, load_policy, weights_digest
from cupel_trainer.train.recipe import Recipe
from cupel_trainer.train.run_log import run_log
from cupel_trainer.train.session import Session
from cupel_trainer.train.step_record import StepRecord

SCRATCH, CHECKPOINTS, MASTERS, LOCK = ".unfinished", "checkpoints", "masters", ".lock"
FIRST_PATIENCE_S = 15.0
"""How long a service is waited for at first: a wrong URL should be said soon."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is.

    Args:
        steps: How many it has in all.
        step: How many are done.
        doing: What is being done now, for people.
        record: Of the last step that was done; None before the first.
    """

    steps: int
    step: int = 0
    doing: str = "loading"
    record: StepRecord | None = None


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run came to.

    Args:
        out: Its folder.
        masters: Its float32 weights, with config and tokenizer.
        steps: Steps that are done.
        weights: SHA-256 of the masters.
        initial_weights: SHA-256 of the weights that it began with.
        order: SHA-256 of the order of problems.
    """

    out: Path
    masters: Path
    steps: int
    weights: str
    initial_weights: str
    order: str


Show = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Course:
    """What a run does, as far as the recipe and the problem set decide it.

    Args:
        entries: The problems.
        prompts: The prompt of each, by its id.
        order: The problems of each step.
    """

    entries: tuple[ProblemEntry, ...]
    prompts: Mapping[str, str]
    order: Order


def train(
    recipe: Recipe,
    out: Path,
    *,
    show: Show = lambda _: None,
    same_start_as: Path | None = None,
    url: str | None = None,
    vllm_client: type[Any] | None = None,  # Any: vLLM is not installed here
) -> TrainResult:
    """Trains by a recipe; called again on the same folder, it goes on where it was.

    Args:
        recipe: The run.
        out: Its folder.
        show: Is told of the progress.
        same_start_as: A run that this one must be comparable with: the same initial weights, the
            same problems in the same order.
        url: The service, in place of the recipe's.
        vllm_client: Speaks with the vLLM server, in place of TRL's own class.

    Returns:
        Where the weights are, and the digests that prove how they came about.

    Raises:
        TrainingError: The folder holds another run, the runs do not start the same, or the service
            was away for too long.
        CupelError: The service refuses.
        TrainerError: The model, the problems or the prompts are not what they must be.
    """
    show(Progress(recipe.optimiser.steps))
    with ExitStack() as stack:
        is_main = int(os.environ.get("RANK", "0")) == 0
        if is_main:
            stack.enter_context(_locked(out))
        where, api_key = stack.enter_context(service(recipe, url))
        course = plan_course(recipe, where)
        desk = stack.enter_context(Desk(recipe, course.entries, where, out, api_key))
        return _train(recipe, out, course, desk, show, same_start_as, vllm_client, is_main=is_main)


def plan_course(recipe: Recipe, url: str | None = None) -> Course:
    """Reads the problems and decides their order.

    Raises:
        TrainerError: The set, the template, or what is asked of them is not valid.
    """
    problems = recipe.problems
    entries = select(
        read_problem_set(problems.set, url),
        Selection(difficulties=problems.difficulties, limit=problems.limit),
    )
    template = default_template(recipe.setting.kind, problems.template)
    prompts = render_prompts(
        template,
        [entry.view for entry in entries],
        recipe.language,
        recipe.setting.budget,
    )
    order = problem_order(
        [entry.id for entry in entries],
        steps=recipe.optimiser.steps,
        per_step=recipe.optimiser.prompts_per_step,
        seed=problems.order_seed,
    )
    return Course(entries, prompts, order)


@contextmanager
def service(recipe: Recipe, url: str | None) -> Iterator[tuple[str | None, str | None]]:
    """URL and API key of the service; where none is named, one is run for as long as the block."""
    from cupel import embedded_service

    named = url or recipe.service.url or os.environ.get("CUPEL_URL")
    if named:
        yield named, None
        return
    if recipe.parallelism.processes > 1:
        raise TrainingError(
            "many processes need one service: say which, with service.url or CUPEL_URL"
        )
    with embedded_service() as own:
        yield own, ""


def _train(
    recipe: Recipe,
    out: Path,
    course: Course,
    desk: Desk,
    show: Show,
    same_start_as: Path | None,
    vllm_client: type[Any] | None,
    *,
    is_main: bool,
) -> TrainResult:
    from cupel_trainer.train.trl_trainer import CupelTrainer, make_config

    config = make_config(recipe, out / SCRATCH)  # first: it decides how weights are loaded
    policy = load_policy(recipe)
    manifest = _manifest(recipe, course, policy, desk)
    if same_start_as is not None:
        compare_runs(manifest, same_start_as)
    checkpoint = _begin(out, manifest, is_main=is_main)
    progress = Progress(recipe.optimiser.steps, checkpoint.step if checkpoint else 0)

    def tell(doing: str) -> None:
        show(replace(progress, doing=doing))

    session = Session(
        recipe, course.entries, course.prompts, desk, policy.tokenizer, policy.context_tokens, tell
    )
    with ExitStack() as stack:
        done = progress.step
        log = stack.enter_context(run_log(out, recipe, done)) if is_main else None

        def emit(record: StepRecord) -> None:
            nonlocal progress
            progress = Progress(progress.steps, record.step, "updating", record)
            if log is not None:
                log.write(record, session.samples(recipe.logging.samples))
            show(progress)

        if done < recipe.optimiser.steps:
            trainer = CupelTrainer(
                recipe,
                config,
                policy.model,
                policy.tokenizer,
                course.order,
                session,
                out / CHECKPOINTS,
                emit,
                vllm_client,
            )
            if checkpoint is not None:
                session.restore(checkpoint.state)
            with closing(trainer):
                trainer.run(checkpoint.path if checkpoint else None)
    tell("exporting")
    return _finish(out, manifest, is_main=is_main)


def _manifest(recipe: Recipe, course: Course, policy: Policy, desk: Desk) -> RunManifest:
    return RunManifest(
        recipe=recipe,
        weights=weights_digest(policy.model),
        order=order_digest(course.order),
        problem_set=set_digest(course.entries),
        problem_tests=_digest([[entry.id, entry.digest] for entry in course.entries]),
        prompts=_digest(sorted(course.prompts.items())),
        versions=versions(),
        service=desk.info(FIRST_PATIENCE_S),
    )


def _digest(document: Sequence[object]) -> str:
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _begin(out: Path, manifest: RunManifest, *, is_main: bool) -> CheckpointFolder | None:
    """Makes the folder ready; the checkpoint to go on from, if there is one."""
    checkpoint = newest(out / CHECKPOINTS)
    if (out / NAME).exists():
        check_continues(read_manifest(out), manifest)
    elif checkpoint is not None:
        raise TrainingError(f"{out} holds checkpoints, but no {NAME}: name another --out")
    if is_main:
        shutil.rmtree(out / SCRATCH, ignore_errors=True)
        done = checkpoint.step if checkpoint else 0
        write_manifest(out, manifest.model_copy(update={"steps": done}))
    return checkpoint


def _finish(out: Path, manifest: RunManifest, *, is_main: bool) -> TrainResult:
    masters = out / MASTERS
    last = newest(out / CHECKPOINTS)
    if last is None:
        raise TrainingError(f"{out} holds no whole checkpoint after training")
    weights = ""
    if is_main:
        export_masters(last.path, masters)
        weights = folder_digest(masters)
        finished = {"status": "finished", "steps": last.step, "masters": weights}
        write_manifest(out, manifest.model_copy(update=finished))
        shutil.rmtree(out / SCRATCH, ignore_errors=True)
    return TrainResult(
        out=out,
        masters=masters,
        steps=last.step,
        weights=weights,
        initial_weights=manifest.weights,
        order=manifest.order,
    )


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """One process at a time trains in a folder; the lock goes with the process, however it ends."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TrainingError(f"another process trains in {out}") from error
        yield
