"""What a plan must assume beside the recipe: the machines, and what problems are like."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Assumptions(BaseModel):
    """Read by `cupel train --plan` and `bench/step.py` only; training does not look at it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    gpu: str = Field("H100-80GB", description="Kind of all GPUs: A100-80GB, H100-80GB, H200-141GB.")
    engines: int = Field(
        1, ge=1, le=4096, description="vllm-server: engines behind the URL (data parallel)."
    )
    engine_gpus: int = Field(
        1, ge=1, le=64, description="vllm-server: GPUs per engine (tensor parallel)."
    )
    engine_memory_fraction: float = Field(
        0.9, gt=0, lt=1, description="vllm-server: of a GPU's memory; vLLM's own default."
    )
    engine_sequences: int = Field(
        256, ge=1, description="Sequences that an engine takes at one time; vLLM's own default."
    )
    prompt_tokens: int = Field(
        800, ge=1, description="Mean prompt: a contest's statement with our template."
    )
    prompt_tokens_max: int = Field(2048, ge=1, description="The longest prompt.")
    tests: int = Field(40, ge=1, description="Tests of a problem at full coverage.")
    tiers: int = Field(4, ge=1, description="Tiers that they are in, equally many in each.")
    cpu_limit_s: float = Field(2.0, gt=0, le=600, description="A problem's limit per test.")
    accepted: float = Field(
        0.35, ge=0, le=1, description="Share of answers that pass: they run every test."
    )
    wrong: float = Field(
        0.45, ge=0, le=1, description="Share that fails otherwise than by time; the rest is slow."
    )
    slots_per_host: int = Field(
        32, ge=1, description="Boxes of a judge host: one per physical core."
    )
    merge_alphas: int = Field(9, ge=1, description="Points of the sweep that is made afterwards.")
