"""The lab's tokenizer: one token for each word, sign, number below 100, digit and line start.

A token carries the space before it, if there is one, as in byte-pair vocabularies of real models:
text and tokens turn into each other without loss. Numbers from 100 on are spelt digit by digit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

END, PAD, UNKNOWN = "<|end|>", "<|pad|>", "<|unknown|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
SPECIAL = (END, PAD, UNKNOWN, *ROLES)

WORDS = r" ?(?<!\d)\d{1,2}(?!\d)| ?\d| ?[A-Za-z_]+|\n *| ?[^\sA-Za-z_\d]+|\s"
"""What one token is: a number, a digit, a word, a line end with the next indentation, a sign."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""A message is its role, its text, and of the assistant its end."""


def split_words(text: str) -> list[str]:
    """The words of a text, as the tokenizer sees them."""
    return [piece for piece, _ in _splitter().pre_tokenize_str(text)]


def make_tokenizer(texts: Iterable[str]) -> Any:  # transformers has no types
    """Makes the tokenizer of all words that occur.

    Args:
        texts: Everything that the policy reads or writes, or enough of it. Words that do not occur
            are unknown.

    Returns:
        A fast tokenizer of transformers, with a chat template.
    """
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    words = {word for text in texts for word in split_words(text)}
    words |= {f"{space}{number}" for space in ("", " ") for number in range(100)}
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = _splitter()
    tokenizer.decoder = decoders.Fuse()
    fast: Any = PreTrainedTokenizerFast  # it has no types
    return fast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        additional_special_tokens=list(ROLES),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def _splitter() -> Any:  # tokenizers has no types that mypy --strict can use
    from tokenizers import Regex, pre_tokenizers

    return pre_tokenizers.Split(Regex(WORDS), "isolated")
