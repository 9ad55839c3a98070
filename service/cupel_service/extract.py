"""Finding the program in a model's completion.

Completions are Markdown. A fenced block begins at a line of three or more backticks or tildes with
an optional info string, and ends at a line of at least as many of the same; a last block that is
never closed goes to the end, since models get cut off. Every step is linear in the completion.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from cupel.schema import Language

# Possessive repeats (`*+`): a line that is no fence must fail without trying every shorter match.
_FENCE_LINE = re.compile(r"^([ \t]*+)(`{3,}+|~{3,}+)([^\n]*+)$", re.MULTILINE)
_THINK_TAG = re.compile(r"<(/?)think>")
_INFO_WORD = re.compile(r"[\w+#]+")

_INFO_LANGUAGES = (
    (Language.CPP, re.compile(r"(?:c\+\+|cpp|cxx|cc|g\+\+)(?:\d\w)?")),
    (Language.C, re.compile(r"c(?:\d\w)?")),
    (Language.PYTHON, re.compile(r"(?:python|py|pypy)(?:3\d{0,2})?")),
)


@dataclass(frozen=True, slots=True)
class Extracted:
    """The program of a completion, or why there is none.

    Args:
        language: The program's language; without a program, the one that was asked for.
        source: The program's text, or None.
        reason: Why there is no program, in one line; empty if there is one.
    """

    language: Language | None
    source: str | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Block:
    info: str
    language: Language | None
    text: str


def extract_program(completion: str, language: Language | None) -> Extracted:
    """Finds the program that a completion gives as its answer.

    What a model thinks between `<think>` and `</think>` is no answer: it is dropped first, as is
    everything before a `</think>` that nothing opened and after a `<think>` that nothing closes.
    Blocks that hold only white space do not count.

    With a language: the last block of that language; else the last block without an info string;
    else the last with an info string that names none of Cupel's languages; else, if there are no
    blocks at all, the bare text. Without a language: the last block that names a known one.

    Args:
        completion: The model's text.
        language: The language in which the program must be, if that is given.

    Returns:
        The program with its language, or the reason why there is none.
    """
    answer = _without_thinking(completion)
    blocks = [block for block in _blocks(answer) if block.text.strip()]
    if language is None:
        return _by_fence(blocks)
    for wanted in (
        [block for block in blocks if block.language is language],
        [block for block in blocks if not block.info],
        [block for block in blocks if block.language is None],
    ):
        if wanted:
            return Extracted(language, wanted[-1].text)
    if blocks:
        return Extracted(
            language,
            None,
            f"no program found: the last fenced block is {blocks[-1].language}, not {language}",
        )
    if answer.strip():
        return Extracted(language, answer)
    return Extracted(language, None, "no program found: the completion holds no answer")


def _by_fence(blocks: list[_Block]) -> Extracted:
    for block in reversed(blocks):
        if block.language is not None:
            return Extracted(block.language, block.text)
    return Extracted(
        None,
        None,
        "no program found: no fenced block names c, cpp or python, and no language was given",
    )


def _without_thinking(completion: str) -> str:
    kept: list[str] = []
    start = 0
    thinking = False
    for tag in _THINK_TAG.finditer(completion):
        closes = bool(tag[1])
        if closes and not thinking:
            kept.clear()  # its opening tag was part of the prompt
        elif not closes and not thinking:
            kept.append(completion[start : tag.start()])
        thinking = not closes
        start = tag.end()
    if not thinking:
        kept.append(completion[start:])
    return "".join(kept)


def _blocks(text: str) -> Iterator[_Block]:
    """Yields the fenced blocks in order, the last one also if it is not closed.

    A fence that names a language begins anew inside a block that names none: a stray fence in the
    prose would else swallow the answer that follows it.
    """
    opened: re.Match[str] | None = None
    language: Language | None = None
    for line in _FENCE_LINE.finditer(text):
        info = line[3].strip()
        if opened is not None:
            if not line[2].startswith(opened[2]) or (info and language is not None):
                continue
            if not info:
                yield _block(text, opened, language, line.start())
                opened = None
                continue
        if line[2][0] == "`" and "`" in info:
            continue  # inline code that happens to begin a line
        named = _language(info)
        if opened is not None:
            if named is None:
                continue
            yield _block(text, opened, language, line.start())
        opened, language = line, named
    if opened is not None:
        yield _block(text, opened, language, len(text))


def _block(text: str, opened: re.Match[str], language: Language | None, end: int) -> _Block:
    body = text[opened.end() + 1 : end]
    indent = len(opened[1])
    if indent:  # a block inside a list item: its lines are indented as its fence is
        body = re.sub(rf"^[ \t]{{1,{indent}}}+", "", body, flags=re.MULTILINE)
    return _Block(opened[3].strip(), language, body)


def _language(info: str) -> Language | None:
    """The language that an info string such as `cpp`, `C++17` or `{.python}` names first."""
    word = _INFO_WORD.search(info)
    if word is None:
        return None
    name = word[0].lower()
    return next((known for known, names in _INFO_LANGUAGES if names.fullmatch(name)), None)
