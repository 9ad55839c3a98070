"""A policy with random weights that writes a right program now and then, so that RL has work."""

from __future__ import annotations

import json
from pathlib import Path

END = "<|endoftext|>"
PROGRAMS = ("print(1)", "print(2)", "print(3)")


def make_policy(folder: Path, *, tied: bool) -> Path:
    """Writes a checkpoint; each of the programs is one of its tokens."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    tokenizer = _tokenizer()
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,  # heads of 32: vLLM knows no smaller ones on the CPU
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        initializer_range=0.1,
        tie_word_embeddings=tied,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_problems(folder: Path) -> Path:
    """Writes problems that each of the programs solves one of, and a template to ask for it."""
    (folder / "statement.jinja").write_text("{{ statement }}")
    rows = [
        {
            "id": f"p{number}",
            "statement": program,
            "problem": {"tests": [{"name": "a", "output": f"{number}\n", "tier": 1}]},
        }
        for number, program in enumerate(PROGRAMS, start=1)
    ]
    path = folder / "problems.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def _tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    merges: list[tuple[str, str]] = []
    for program in PROGRAMS:
        for end in range(1, len(program)):
            if (pair := (program[:end], program[end])) not in merges:
                merges.append(pair)
    characters = sorted({character for program in PROGRAMS for character in program})
    words = [END, *characters, *(first + second for first, second in merges)]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END, unk_token=END
    )
