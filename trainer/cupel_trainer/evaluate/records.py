"""The files of a study: samples and verdicts, one JSON document per line.

The first line of a file is its header: which checkpoint, setting and problem set the lines belong
to. Each further line is one sample, or one judged sample. `(problem, sample)` names a line within
a file, whatever order lines were appended in.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from cupel.schema import FailureClass, Language, TleKind, Verdict
from cupel_trainer.episodes.budget import Budget


class Record(BaseModel):
    """A document of a study: frozen; unknown fields are errors, so that no version is misread."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Setting(StrEnum):
    """How a policy is asked for programs."""

    REASONING = "reasoning"
    """One completion, with the program in its last fenced block."""
    TOOLS = "tools"
    """The policy may run code before it answers."""
    AGENTIC = "agentic"
    """The policy works in a box of its own: shell, files, submit."""


class CheckpointRef(Record):
    """Which checkpoint made the samples."""

    name: str = Field(min_length=1, max_length=200, description="Unique within a study.")
    path: str = Field("", description="Where it was read from: a folder, URL, or served model.")
    alpha: float | None = Field(
        None, description="Its place between the ends: 0 is low coverage, 1 is high coverage."
    )
    digest: str = Field("", description="SHA-256 of its merge manifest or weights, if known.")


class Sampling(Record):
    """How completions were drawn."""

    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int = Field(2048, ge=1)
    seed: int = Field(0, ge=0)
    engine: str = Field("hf", description="`hf`, `vllm` or `openai`.")
    template: str = Field("", description="SHA-256 of the prompt template.")
    language: Language | None = Field(
        None, description="Asked for where a problem names none; null leaves the choice."
    )
    chat: bool = Field(
        True, description="As a chat message where the model has a chat template, else plain text."
    )
    dtype: str = Field("", description="Of the weights, such as `bfloat16`, or `auto`.")
    budget: Budget | None = Field(None, description="Of an episode; null for `reasoning`.")


class SamplesHeader(Record):
    """First line of a file of samples."""

    kind: Literal["cupel.samples"] = "cupel.samples"
    version: Literal[1] = 1
    checkpoint: CheckpointRef
    setting: Setting = Setting.REASONING
    sampling: Sampling = Sampling()
    problem_set: str = Field("", description="SHA-256 of the problem set.")
    problems: str = Field("", description="Where the set was read from: a file, folder, service.")


class Sample(Record):
    """One answer of a policy to one problem, in any setting."""

    problem: str
    sample: int = Field(ge=0, description="0..n-1 within the problem.")
    completion: str = Field(description="What is judged; of an episode, its final answer.")
    seed: int = Field(0, ge=0)
    prompt_tokens: int = Field(0, ge=0, description="Of an episode, of its first turn.")
    completion_tokens: int = Field(0, ge=0, description="Of all turns of the policy.")
    finish_reason: str = Field(
        "",
        description="`stop`, `length`, or what the engine says; of an episode, why it ended: "
        "`answer`, `length`, `turns`, `tokens`, `time`, `context` or `session`.",
    )
    turns: int = Field(1, ge=1, description="Model turns; more than 1 with tools or in a box.")


class VerdictsHeader(Record):
    """First line of a file of verdicts."""

    kind: Literal["cupel.verdicts"] = "cupel.verdicts"
    version: Literal[1] = 1
    checkpoint: CheckpointRef
    setting: Setting = Setting.REASONING
    sampling: Sampling = Sampling()
    problem_set: str = ""
    service: str = Field("", description="Version, box and host facts of the judging service.")


class TierResult(Record):
    """How one sample did in one tier."""

    tests: int = Field(ge=0, description="Tests judged in this tier.")
    passed: int = Field(ge=0)
    headroom: float | None = Field(
        None, description="Largest CPU time of a test over the CPU limit; null if none ran."
    )


class JudgedSample(Record):
    """One judged sample: a line of a file of verdicts."""

    problem: str
    sample: int = Field(ge=0)
    verdict: Verdict
    failure_class: FailureClass
    complete: bool = Field(description="Nothing remains to be learnt; see the API's judgements.")
    language: Language | None = None
    tiers: tuple[TierResult, ...] = ()
    first_failing_tier: int | None = None
    tle_kind: TleKind | None = Field(None, description="Of the first TLE, if there is one.")
    endless: bool | None = Field(
        None, description="Whether the smallest tier still was TLE at ten times its limit."
    )
    cpu_s: float = Field(0.0, ge=0, description="Largest CPU time of a test.")
    memory_bytes: int = Field(0, ge=0)
    completion_tokens: int = Field(0, ge=0)
    difficulty: str = Field("", description="The problem's difficulty, as its set says.")
    date: str = Field("", description="When the problem was published, as YYYY-MM-DD.")
    tests: str = Field("", description="SHA-256 of the problem judged by, its first 16 digits.")
