"""Tiny random checkpoints with a tokenizer, made on the fly: nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path

CORPUS = ("print(sum(map(int, input().split())))", "Solve the following programming problem.")
END, PAD = "<|end|>", "<|pad|>"
CHAT = "{% for m in messages %}<|user|>{{ m['content'] }}<|end|>{% endfor %}"


def make_checkpoint(
    folder: Path,
    *,
    kind: str = "qwen2",
    seed: int = 0,
    chat: bool = True,
    context_tokens: int = 2048,
) -> Path:
    """Writes a checkpoint of some 100,000 random weights."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
        Qwen2Config,
        Qwen2ForCausalLM,
    )

    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[END, PAD, "<|user|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words.train_from_iterator(CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token=END, pad_token=PAD)
    if chat:
        tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config, model = {
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "llama": (LlamaConfig, LlamaForCausalLM),
    }[kind]
    model(
        config(
            vocab_size=len(tokenizer),
            hidden_size=64,  # heads of 32: vLLM knows no smaller ones on the CPU
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=context_tokens,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            initializer_range=0.3,
        )
    ).save_pretrained(folder)
    return folder


def write_problems(path: Path, count: int) -> Path:
    """A problem set of registered problems `p0`, `p1`, ..., one statement longer than the other."""
    rows = [
        {"id": f"p{number}", "statement": "Add two numbers. " * (number + 1)}
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
