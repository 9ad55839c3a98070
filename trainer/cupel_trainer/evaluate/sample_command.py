"""`cupel sample`: completions for a problem set, from a checkpoint or an ensemble of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from cupel.schema import Language
from cupel_trainer.command_errors import errors_reported
from cupel_trainer.errors import EngineError, EpisodeError
from cupel_trainer.evaluate.problem_set import read_problem_set, select
from cupel_trainer.evaluate.record_file import first_fault
from cupel_trainer.evaluate.records import Sampling, Setting
from cupel_trainer.evaluate.sampling import SAMPLES_MAX, Progress
from cupel_trainer.evaluate.selection_options import (
    Difficulty,
    Limit,
    Release,
    Since,
    Until,
    selection_of,
)


class EngineName(StrEnum):
    """What completions are drawn with."""

    HF = "hf"
    VLLM = "vllm"
    OPENAI = "openai"


class SettingName(StrEnum):
    """How a policy is asked for programs; `records.Setting` is what it means."""

    REASONING = "reasoning"
    TOOLS = "tools"
    AGENTIC = "agentic"


class Asked(StrEnum):
    """The languages that may be asked for."""

    PYTHON = "python"
    CPP = "cpp"
    C = "c"
    ANY = "any"


COUNT = 10


def sample(
    problems: Annotated[
        str,
        typer.Option(
            help="A JSON Lines file, a folder of problem folders, `service` or `service:ID,ID`."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="The file of samples, or with --ensemble a folder of them.")
    ],
    checkpoint: Annotated[
        str | None,
        typer.Argument(help="A checkpoint's folder, or with --engine openai the model's name."),
    ] = None,
    ensemble: Annotated[
        Path | None,
        typer.Option(help="A plan of `cupel ensemble`: samples its members in turn, as it says."),
    ] = None,
    setting: Annotated[
        SettingName | None,
        typer.Option(
            help="reasoning: one completion; tools: it may run code; agentic: shell, files, "
            "submit. Default reasoning."
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option("-n", min=1, max=SAMPLES_MAX, help=f"Samples per problem; default {COUNT}."),
    ] = None,
    engine: Annotated[
        EngineName | None,
        typer.Option(help="hf: transformers here; vllm: vLLM here; openai: over HTTP. Default hf."),
    ] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="Default 1.")] = None,
    top_p: Annotated[float | None, typer.Option(min=0.001, max=1, help="Default 1.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest completion, in tokens; default 2048.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the run; default 0.")] = None,
    language: Annotated[
        Asked | None,
        typer.Option(
            help="Asked for where a problem names none; any: the model chooses. Default python."
        ),
    ] = None,
    template: Annotated[
        Path | None, typer.Option(help="A prompt template of your own, in Jinja.")
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Plain text, though the model has a chat template.")
    ] = False,
    name: Annotated[
        str, typer.Option(help="What the checkpoint is called in the study; unique there.")
    ] = "",
    alpha: Annotated[
        float | None,
        typer.Option(help="Its place between the ends, where no merge manifest says it."),
    ] = None,
    since: Since = None,
    until: Until = None,
    difficulty: Difficulty = None,
    release: Release = "",
    limit: Limit = None,
    dtype: Annotated[
        str | None, typer.Option(help="Of the weights: auto, bfloat16, float32, ...; default auto.")
    ] = None,
    device: Annotated[str, typer.Option(help="hf: cpu, cuda, ...; auto takes a GPU.")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="hf: completions drawn as one.")] = 16,
    vllm: Annotated[
        list[str] | None,
        typer.Option(help="vllm: an argument of vllm.LLM, as tensor_parallel_size=2; repeatable."),
    ] = None,
    base_url: Annotated[str, typer.Option(help="openai: such as http://127.0.0.1:8000/v1.")] = "",
    api_key_env: Annotated[
        str, typer.Option(help="openai: the variable that holds the key.")
    ] = "OPENAI_API_KEY",
    api_key_file: Annotated[
        Path | None, typer.Option(help="openai: a file that holds the key.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="openai: requests at one time.")] = 32,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=1, help="openai: longest wait for one, in seconds.")
    ] = 600.0,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            help="tools, agentic: what an episode may use, as turns=8; repeatable. Also calls, "
            "submissions, tokens, wall_s, call_s, output_characters, memory_bytes, stateful."
        ),
    ] = None,
    episodes: Annotated[
        int, typer.Option(min=1, help="tools, agentic: episodes under way at one time.")
    ] = 64,
    service: Annotated[
        str | None,
        typer.Option(
            "--service",
            "--url",
            envvar="CUPEL_URL",
            help="The Cupel service of a `service` problem set, and where episodes run programs; "
            "for these a temporary one is run without it.",
        ),
    ] = None,
) -> None:
    """Draws samples for a problem set; run again, it goes on where it was.

    Exit code 0 if all samples are there, 1 if the service's faults left some out, 2 on any trouble;
    what was drawn is kept.
    """
    if (checkpoint is None) == (ensemble is None):
        raise typer.BadParameter("give a CHECKPOINT or --ensemble PLAN, and not both")
    if ensemble is not None and (count is not None or name or alpha is not None or setting):
        raise typer.BadParameter("with --ensemble, the plan says -n, --name, --alpha and --setting")
    changes: dict[str, object] = {
        "temperature": temperature,
        "top_p": top_p,
        "max_tokens": max_tokens,
        "seed": seed,
        "engine": engine and engine.value,
        "dtype": dtype,
    }
    changes = {field: value for field, value in changes.items() if value is not None}
    if plain:
        changes["chat"] = False
    if language is not None:
        changes["language"] = None if language is Asked.ANY else Language(language.value)

    def changed(sampling: Sampling) -> Sampling:
        return _changed(sampling, changes, budget or [])

    # Not before: `--help` and errors of usage must not wait for what these import.
    from cupel_trainer.episodes.prompt import default_template
    from cupel_trainer.evaluate.plan import read_plan
    from cupel_trainer.evaluate.sample_run import (
        EngineOptions,
        checkpoint_run,
        execute,
        plan_runs,
    )

    with errors_reported():
        if ensemble is not None:
            plan = read_plan(ensemble)
            prompt_template = default_template(plan.setting, template)
            runs = plan_runs(plan, out, prompt_template, changed)
        else:
            wanted = Setting((setting or SettingName.REASONING).value)
            prompt_template = default_template(wanted, template)
            default = Sampling(language=Language.PYTHON, dtype="auto")
            runs = [
                checkpoint_run(
                    checkpoint or "",
                    out,
                    count or COUNT,
                    changed(default),
                    name=name,
                    alpha=alpha,
                    base_url=base_url,
                    setting=wanted,
                )
            ]
        if budget and any(run.header.setting is Setting.REASONING for run in runs):
            raise EpisodeError("the setting reasoning has no --budget: it is one turn")
        entries = select(
            read_problem_set(problems, service),
            selection_of(since, until, difficulty, release, limit),
        )
        options = EngineOptions(
            device=device,
            batch_size=batch_size,
            base_url=base_url,
            api_key=_api_key(api_key_env, api_key_file),
            concurrency=concurrency,
            timeout_s=timeout_s,
            vllm=_assignments("--vllm", vllm or []),
            service=service or "",
            episodes=episodes,
        )
        left_out = 0
        for run in runs:
            with _progress(run.header.checkpoint.name) as show:
                done = execute(run, problems, entries, prompt_template, options, show)
            typer.echo(f"{run.out}: {_summary(done, len(entries))}")
            left_out += done.wanted - done.held
    _exit_if_left_out(left_out)


def _changed(sampling: Sampling, changes: dict[str, object], budget: list[str]) -> Sampling:
    """Sampling as the options want it."""
    document = sampling.model_dump() | changes
    if words := _assignments("--budget", budget):
        document["budget"] = (document["budget"] or {}) | words
    try:
        return Sampling.model_validate(document)
    except ValidationError as error:
        raise EpisodeError(f"not a way to sample: {first_fault(error)}") from error


def _exit_if_left_out(samples: int) -> None:
    if samples:
        typer.echo(
            f"{samples} samples are left out by faults of the service: run the same command again",
            err=True,
        )
        raise typer.Exit(1)


def _api_key(variable: str, file: Path | None) -> str:
    if file is None:
        return os.environ.get(variable, "")
    try:
        return file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        # `from None`: a decoding error quotes what it could not decode.
        raise EngineError(f"the API key file {file} cannot be read") from None


def _assignments(option: str, words: list[str]) -> dict[str, object]:
    """Words of the form `name=value`; a value that is JSON is taken as such."""
    options: dict[str, object] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not (equals and name.isidentifier()):
            raise EngineError(f"{option} {word!r}: write name=value")
        try:
            options[name] = json.loads(text)
        except ValueError:
            options[name] = text
    return options


@contextmanager
def _progress(name: str) -> Iterator[Callable[[Progress], None]]:
    """A bar on standard error, with tokens per second."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn(f"sampling {escape(name)}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        shown = bar.add_task("", total=None, speed="loading")

        def show(progress: Progress) -> None:
            elapsed_s = bar.tasks[0].elapsed or 0.0
            speed = f"{progress.tokens / elapsed_s:.0f} tokens/s" if progress.tokens else "loading"
            bar.update(shown, completed=progress.held, total=progress.wanted, speed=speed)

        yield show


def _summary(done: Progress, problems: int) -> str:
    text = f"{done.held} samples of {problems} problems, {done.tokens} tokens drawn now"
    if done.cut:
        text += f", {done.cut} cut at the length limit (--max-tokens)"
    return text
