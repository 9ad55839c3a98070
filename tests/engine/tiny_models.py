"""Pairs of tiny checkpoints with random weights: what training from one start leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

VOCABULARY = 200
# vLLM's attention on the CPU knows no heads smaller than 32.
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,  # far from uniform answers, so that wrong weights show
}


@dataclass(frozen=True)
class Kind:
    """What a pair of checkpoints is like."""

    architecture: str
    tied: bool
    dtype: torch.dtype = torch.float32

    def __str__(self) -> str:
        tied = "tied" if self.tied else "untied"
        return f"{self.architecture}-{tied}-{str(self.dtype).removeprefix('torch.')}"


@dataclass(frozen=True)
class Ends:
    """Two checkpoints of one model."""

    low: Path
    high: Path


def make_ends(folder: Path, kind: Kind) -> Ends:
    """High is low with a small step in every weight."""
    torch.manual_seed(0)
    model = _model(kind)
    ends = Ends(folder / "low", folder / "high")
    model.to(kind.dtype).save_pretrained(ends.low)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    model.save_pretrained(ends.high)
    for end in (ends.low, ends.high):
        _tokenizer().save_pretrained(end)
    return ends


def _model(kind: Kind):
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = dict(SHAPE) if kind.architecture == "qwen2" else {**SHAPE, "head_dim": 32}
    config = AutoConfig.for_model(kind.architecture, tie_word_embeddings=kind.tied, **sizes)
    return AutoModelForCausalLM.from_config(config)


def _tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"w{number}": number for number in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))  # noqa: S106  # no password
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0", eos_token="w1")  # noqa: S106  # as above
