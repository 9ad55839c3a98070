"""The lab's policy: a language model in the shape of Qwen3, with some 200,000 weights."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from cupel_trainer.evaluate.records import Record


class PolicySize(Record):
    """How large the policy is."""

    hidden: int = Field(96, ge=8, multiple_of=8, description="Width of the residual stream.")
    layers: int = Field(2, ge=1, description="Two are needed for copying from the statement.")
    heads: int = Field(4, ge=1, description="Attention heads; half as many for keys and values.")
    inner: int = Field(192, ge=8, description="Width within a feed-forward layer.")
    context_tokens: int = Field(1024, ge=128, description="Longest conversation.")


# Any: transformers has no types that mypy --strict can use.
def make_policy(size: PolicySize, tokenizer: Any, seed: int) -> Any:
    """A policy with random weights, in float32.

    Args:
        size: How large.
        tokenizer: Its vocabulary.
        seed: Of the weights.
    """
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=max(1, size.heads // 2),
        head_dim=size.hidden // size.heads,
        max_position_embeddings=size.context_tokens,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config)
