"""What is said in an episode: the policy's turns, and what it is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Args:
        role: `user` is the environment, `assistant` the policy.
        content: What is said.
    """

    role: Literal["user", "assistant"]
    content: str


Messages = tuple[Message, ...]
"""A conversation: it begins with the prompt, and the roles alternate."""


def user(content: str) -> Message:
    """A message of the environment."""
    return Message("user", content)


def assistant(content: str) -> Message:
    """A turn of the policy."""
    return Message("assistant", content)


def as_dicts(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Messages as chat templates and OpenAI's API take them."""
    return [{"role": each.role, "content": each.content} for each in messages]


def plain_text(messages: Sequence[Message], end: str = "") -> str:
    """A conversation for a model without a chat template.

    The prompt as it is, and each turn of the policy right behind what came before. A message of the
    environment begins on a line of its own and ends with a line feed.

    Args:
        messages: The conversation.
        end: Written behind each turn of the policy: the text of its end token, where there is one.
    """
    pieces: list[str] = []
    for number, each in enumerate(messages):
        if each.role == "assistant":
            pieces.append(each.content + end)
        else:
            pieces.append(f"\n{each.content}\n" if number else each.content)
    return "".join(pieces)
