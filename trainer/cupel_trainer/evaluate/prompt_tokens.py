"""Prompts as tokens, the same for every engine that has the tokenizer itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cupel_trainer.episodes.message import Messages, as_dicts, plain_text
from cupel_trainer.errors import EngineError


def encode_prompts(
    tokenizer: Any,  # transformers has no types that mypy --strict can use
    conversations: Iterable[Messages],
    *,
    chat: bool,
    context_tokens: int,
    checkpoint: str,
) -> dict[Messages, list[int] | None]:
    """Turns conversations into tokens.

    Args:
        tokenizer: Of the model, from transformers.
        conversations: What has been said; each is encoded once.
        chat: As chat messages, where the tokenizer has a chat template.
        context_tokens: What the model takes at most.
        checkpoint: The model, for what is said of errors.

    Returns:
        The tokens of each conversation; None for one of several turns that leaves no room for
        another.

    Raises:
        EngineError: A prompt leaves no room for a completion, or has no token.
    """
    encoded = {each: _encode(tokenizer, each, chat) for each in set(conversations)}
    held: dict[Messages, list[int] | None] = {}
    for messages, ids in encoded.items():
        if not ids:
            shown = messages[0].content[:80]
            raise EngineError(f"the tokenizer of {checkpoint} has no token for {shown!r}")
        if len(ids) < context_tokens:
            held[messages] = ids
        elif len(messages) > 1:
            held[messages] = None
        else:
            raise EngineError(
                f"a prompt has {len(ids)} tokens, and {checkpoint} takes {context_tokens} with the "
                "completion: leave its problem out, or shorten the template"
            )
    return held


# Any: see above.
def _encode(tokenizer: Any, messages: Messages, chat: bool) -> list[int]:
    if not (chat and tokenizer.chat_template):
        return list(tokenizer(plain_text(messages, tokenizer.eos_token or ""))["input_ids"])
    text = tokenizer.apply_chat_template(
        as_dicts(messages), tokenize=False, add_generation_prompt=True
    )
    # The chat template has written the special tokens already.
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
