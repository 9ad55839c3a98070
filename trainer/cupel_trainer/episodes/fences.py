"""Fenced blocks of a turn, for the actions of the settings.

What is judged is found by the service, by rules of its own; here only the blocks that ask for
something are told from the others. Every step is linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

# Possessive repeats (`*+`): a line that is no fence must fail without trying every shorter match.
_FENCE_LINE = re.compile(r"^[ \t]*+(`{3,}+|~{3,}+)([^\n]*+)$", re.MULTILINE)
_CLOSE_THINKING = "</think>"
_OPEN_THINKING = "<think>"


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Args:
        info: Its info string, such as `file main.py`.
        text: What it holds.
        closed: Whether its end was there.
    """

    info: str
    text: str
    closed: bool


def find_blocks(text: str, words: Collection[str]) -> list[Block]:
    """The fenced blocks of a turn, without those that it only thought of.

    A fence whose info begins with one of the words begins a block anew inside one without any info:
    a stray fence in the prose would else swallow the action that follows it.

    Args:
        text: The turn.
        words: First words of the infos of actions.
    """
    answer = _without_thinking(text)
    found: list[Block] = []
    opened: re.Match[str] | None = None
    for line in _FENCE_LINE.finditer(answer):
        info = line[2].strip()
        if opened is not None:
            if not info and line[1].startswith(opened[1]):
                found.append(_block(answer, opened, line.start(), closed=True))
                opened = None
                continue
            if opened[2].strip() or info.split(" ", 1)[0] not in words:
                continue
            found.append(_block(answer, opened, line.start(), closed=False))
        if line[1][0] == "`" and "`" in info:
            continue  # inline code that happens to begin a line
        opened = line
    if opened is not None:
        found.append(_block(answer, opened, len(answer), closed=False))
    return found


def fenced(text: str, info: str) -> str:
    """A text as a fenced block, by a fence that is longer than any in it."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    end = "" if text.endswith("\n") else "\n"
    return f"{fence}{info}\n{text}{end}{fence}"


def _block(text: str, opened: re.Match[str], end: int, *, closed: bool) -> Block:
    return Block(opened[2].strip(), text[opened.end() + 1 : end], closed)


def _without_thinking(text: str) -> str:
    """What follows the thoughts; nothing, where they never end."""
    _, ended, answer = text.rpartition(_CLOSE_THINKING)
    before, opened, _ = (answer if ended else text).partition(_OPEN_THINKING)
    return before if opened else (answer if ended else text)
