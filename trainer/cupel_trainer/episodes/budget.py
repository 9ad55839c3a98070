"""What an episode may use."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

MEBIBYTE = 1024 * 1024


class Budget(BaseModel):
    """What an episode may use; whoever uses it up ends with what was submitted so far."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    turns: int = Field(16, ge=1, le=1000, description="Turns of the policy, malformed ones too.")
    calls: int = Field(8, ge=0, le=1000, description="tools: programs that it may run.")
    submissions: int = Field(
        3, ge=1, le=1000, description="agentic: the last one, or an accepted one, ends the episode."
    )
    tokens: int = Field(
        32768,
        ge=1,
        description="Tokens of the policy over all turns; the turn that passes it ends.",
    )
    wall_s: float = Field(
        300.0, gt=0, le=3600, description="Seconds for which its programs run, as measured there."
    )
    call_s: float = Field(
        10.0, gt=0, le=600, description="Seconds after which one program or command is killed."
    )
    output_characters: int = Field(
        4000, ge=100, le=1_000_000, description="Of what one observation shows; the middle is cut."
    )
    memory_bytes: int = Field(
        512 * MEBIBYTE, ge=16 * MEBIBYTE, le=64 * 1024 * MEBIBYTE, description="Of its programs."
    )
    stateful: bool = Field(
        False, description="tools: variables are kept between runs; each episode holds a session."
    )
