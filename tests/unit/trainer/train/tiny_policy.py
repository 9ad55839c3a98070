"""A policy of ten words, some of them whole programs, and problems that these programs solve."""

from __future__ import annotations

import json
from pathlib import Path

from cupel_trainer.train.recipe import Recipe
from cupel_trainer.train.recipe_file import make_recipe

PROGRAMS = ("print(1)", "print(2)", "print(3)", "print(4)")
UNKNOWN = "<|unk|>"
SPECIAL = {"eos_token": "<|end|>", "pad_token": "<|pad|>", "unk_token": UNKNOWN}
WORDS = (*PROGRAMS, "slow", "Say", *SPECIAL.values())


def make_policy(folder: Path, *, words: tuple[str, ...] = WORDS, context_tokens: int = 256) -> Path:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    vocabulary = {word: number for number, word in enumerate(words)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.decoder = decoders.Sequence([decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, **SPECIAL)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=context_tokens,
        bos_token_id=None,
        eos_token_id=vocabulary["<|end|>"],
        pad_token_id=vocabulary["<|pad|>"],
        tie_word_embeddings=True,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


def write_problems(path: Path, count: int = 4) -> Path:
    """Each is solved by one of the programs, in both of its tiers."""
    rows = []
    for number in range(1, count + 1):
        tests = [{"name": f"tier{tier}", "output": str(number), "tier": tier} for tier in (1, 2)]
        problem = {"statement": f"Say {number}", "tests": tests}
        rows.append({"id": f"say-{number}", "problem": problem})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def tiny_fields(folder: Path) -> dict[str, dict[str, object]]:
    """The fields of a recipe for the CPU; tests change them."""
    return {
        "model": {"path": str(folder / "model")},
        "problems": {"set": str(folder / "problems.jsonl")},
        "coverage": {"level": 1},
        "sampling": {"max_tokens": 1, "group_size": 4},
        "optimiser": {"steps": 6, "prompts_per_step": 4, "learning_rate": 1e-2},
        "precision": {"compute": "float32", "device": "cpu"},
        "parallelism": {"gradient_checkpointing": False},
        "checkpoints": {"every_steps": 2, "keep": 2},
        "service": {"linger_s": 0.0, "patience_s": 60.0},
    }


def tiny_recipe(folder: Path, **sections: dict[str, object]) -> Recipe:
    fields = tiny_fields(folder)
    for name, values in sections.items():
        fields[name] = values if name == "coverage" else fields.get(name, {}) | values
    return make_recipe(fields)
