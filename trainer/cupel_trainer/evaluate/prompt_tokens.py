"""Prompts as tokens, the same for every engine that has the tokenizer itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cupel_trainer.errors import EngineError


def encode_prompts(
    tokenizer: Any,  # transformers has no types that mypy --strict can use
    prompts: Iterable[str],
    *,
    chat: bool,
    context_tokens: int,
    checkpoint: str,
) -> dict[str, list[int]]:
    """Turns prompts into tokens.

    Args:
        tokenizer: Of the model, from transformers.
        prompts: What the model is told; each text is encoded once.
        chat: As a message of the user, where the tokenizer has a chat template.
        context_tokens: What the model takes at most.
        checkpoint: The model, for what is said of errors.

    Returns:
        The tokens of each prompt.

    Raises:
        EngineError: One leaves no room for a completion, or has no token.
    """
    encoded = {prompt: _encode(tokenizer, prompt, chat) for prompt in set(prompts)}
    if empty := [prompt for prompt, ids in encoded.items() if not ids]:
        raise EngineError(f"the tokenizer of {checkpoint} has no token for {empty[0][:80]!r}")
    longest = max((len(ids) for ids in encoded.values()), default=0)
    if longest >= context_tokens:
        raise EngineError(
            f"a prompt has {longest} tokens, and {checkpoint} takes {context_tokens} with the "
            "completion: leave its problem out, or shorten the template"
        )
    return encoded


def _encode(tokenizer: Any, prompt: str, chat: bool) -> list[int]:
    if not (chat and tokenizer.chat_template):
        return list(tokenizer(prompt)["input_ids"])
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    # The chat template has written the special tokens already.
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
