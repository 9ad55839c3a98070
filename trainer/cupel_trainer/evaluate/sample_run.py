"""What `cupel sample` does: one checkpoint into one file, or each member of a plan in turn."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cupel import embedded_service
from cupel_trainer.episodes.budget import Budget
from cupel_trainer.episodes.loop_thread import LoopThread
from cupel_trainer.episodes.prompt import Template, render_prompts
from cupel_trainer.errors import EngineError, PromptError
from cupel_trainer.evaluate.checkpoints import (
    check_loadable,
    describe_checkpoint,
    split_served_path,
)
from cupel_trainer.evaluate.conversing import EPISODES, Conversing
from cupel_trainer.evaluate.engine import Engine
from cupel_trainer.evaluate.plan import Plan, PlanMember
from cupel_trainer.evaluate.problem_set import ProblemEntry, set_digest
from cupel_trainer.evaluate.reasoning import Reasoning
from cupel_trainer.evaluate.records import CheckpointRef, SamplesHeader, Sampling, Setting
from cupel_trainer.evaluate.sampling import Policy, Progress, draw_samples


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How engines are run; none of it changes what is drawn, but for rounding.

    Args:
        device: Of the engine `hf`.
        batch_size: Of the engine `hf`.
        base_url: Of the engine `openai`.
        api_key: Of the engine `openai`.
        concurrency: Of the engine `openai`.
        timeout_s: Of the engine `openai`.
        vllm: Further arguments of `vllm.LLM`.
        service: The Cupel service where programs run, for the settings tools and agentic; empty
            for a temporary one.
        episodes: How many episodes are under way at one time, in these settings.
    """

    device: str = "auto"
    batch_size: int = 16
    base_url: str = ""
    api_key: str = field(default="", repr=False)
    concurrency: int = 32
    timeout_s: float = 600.0
    vllm: Mapping[str, object] = field(default_factory=dict)
    service: str = ""
    episodes: int = EPISODES


@dataclass(frozen=True, slots=True)
class SampleRun:
    """Samples of one checkpoint into one file.

    Args:
        out: The file.
        header: Its first line.
        count: Samples per problem.
    """

    out: Path
    header: SamplesHeader
    count: int


def checkpoint_run(
    checkpoint: str,
    out: Path,
    count: int,
    sampling: Sampling,
    *,
    name: str = "",
    alpha: float | None = None,
    base_url: str = "",
    setting: Setting = Setting.REASONING,
) -> SampleRun:
    """The run of a single checkpoint; see `describe_checkpoint`.

    Raises:
        CheckpointError: There is none, or its merge manifest cannot be read.
        EngineError: The engine `openai` needs to know where.
    """
    served = sampling.engine == "openai"
    if served and not base_url:
        raise EngineError("--engine openai needs --base-url, such as http://127.0.0.1:8000/v1")
    ref = describe_checkpoint(
        checkpoint, name=name, alpha=alpha, base_url=base_url if served else ""
    )
    if not served:
        check_loadable(ref)
    header = SamplesHeader(checkpoint=ref, setting=setting, sampling=with_budget(sampling, setting))
    return SampleRun(out, header, count)


def plan_runs(
    plan: Plan, folder: Path, template: Template, changed: Callable[[Sampling], Sampling]
) -> list[SampleRun]:
    """The runs of a plan: each member into a file of its own.

    Args:
        plan: The plan.
        folder: Where the files go.
        template: What the members are prompted by; that of the samples the plan was chosen from.
        changed: Applies what the caller wants to be different from those samples.

    Raises:
        PromptError: Its members were prompted by another template.
        CheckpointError: A member is not the checkpoint any more that it was.
    """
    runs = []
    for number, member in enumerate(plan.members, start=1):
        if member.sampling.template not in ("", template.digest):
            raise PromptError(
                f"{member.checkpoint.name!r} was prompted by another template than "
                f"{template.name} when the plan was chosen: name it with --template (SHA-256 "
                f"{member.sampling.template})"
            )
        header = SamplesHeader(
            checkpoint=member.checkpoint,
            setting=plan.setting,
            sampling=with_budget(changed(member.sampling), plan.setting),
        )
        if header.sampling.engine != "openai":
            check_loadable(member.checkpoint)
        runs.append(SampleRun(folder / _file_name(number, member), header, member.samples))
    return runs


def with_budget(sampling: Sampling, setting: Setting) -> Sampling:
    """Sampling with a budget where episodes need one, and without where they need none."""
    budget = None if setting is Setting.REASONING else sampling.budget or Budget()
    return sampling.model_copy(update={"budget": budget})


def execute(
    run: SampleRun,
    source: str,
    entries: Sequence[ProblemEntry],
    template: Template,
    options: EngineOptions,
    show: Callable[[Progress], None],
) -> Progress:
    """Draws what a run's file lacks; see `draw_samples`.

    Args:
        run: The run; its header gets the problem set and the template.
        source: What the problem set was read from.
        entries: The problems.
        template: What the policy is prompted by.
        options: How the engine is run.
        show: Is told of the progress.
    """
    sampling = run.header.sampling.model_copy(update={"template": template.digest})
    views = [entry.view for entry in entries]
    prompts = render_prompts(template, views, sampling.language, sampling.budget)
    path = Path(source)
    setting = run.header.setting
    header = run.header.model_copy(
        update={
            "sampling": sampling,
            "problem_set": set_digest(entries),
            "problems": str(path.resolve()) if path.exists() else source,
        }
    )

    @contextmanager
    def policy() -> Iterator[Policy]:
        with ExitStack() as stack:
            engine = stack.enter_context(
                closing(_open_engine(header.checkpoint, sampling, options))
            )
            if setting is Setting.REASONING:
                yield Reasoning(engine, prompts, sampling)
                return
            from cupel_trainer.evaluate.stage import opened_stage

            service = options.service or stack.enter_context(embedded_service())
            loop = stack.enter_context(LoopThread())
            stage = opened_stage(
                service,
                None if options.service else "",
                run.out,
                entries,
                prompts,
                setting,
                sampling,
            )
            world = loop.start(stage.__aenter__()).result()
            stack.callback(lambda: loop.start(stage.__aexit__(None, None, None)).result())
            yield Conversing(engine, loop, world, sampling, episodes=options.episodes)

    ids = [entry.id for entry in entries]
    return draw_samples(run.out, header, ids, run.count, policy, show)


def _open_engine(ref: CheckpointRef, sampling: Sampling, options: EngineOptions) -> Engine:
    """Loads a checkpoint; only the engine that is used is imported."""
    dtype = sampling.dtype or "auto"
    match sampling.engine:
        case "hf":
            from cupel_trainer.evaluate.engine_hf import HfEngine

            return HfEngine(
                ref.path,
                dtype=dtype,
                device=options.device,
                batch_size=options.batch_size,
                chat=sampling.chat,
            )
        case "vllm":
            from cupel_trainer.evaluate.engine_vllm import VllmEngine

            return VllmEngine(ref.path, dtype=dtype, chat=sampling.chat, options=options.vllm)
        case "openai":
            from cupel_trainer.evaluate.engine_openai import Endpoint, OpenAIEngine

            base_url, model = split_served_path(ref.path)
            return OpenAIEngine(
                Endpoint(
                    base_url,
                    model,
                    api_key=options.api_key,
                    chat=sampling.chat,
                    concurrency=options.concurrency,
                    timeout_s=options.timeout_s,
                )
            )
        case other:
            raise EngineError(f"no engine is called {other!r}: hf, vllm or openai")


def _file_name(number: int, member: PlanMember) -> str:
    """Such as `01-alpha-1.25.jsonl`; the number keeps names apart that differ in odd characters."""
    safe = re.sub(r"[^A-Za-z0-9._=+-]+", "_", member.checkpoint.name)[:100]
    return f"{number:02d}-{safe}.jsonl"
