"""What a turn of the policy asks for: one action, written as a fenced block.

| setting | the last fenced block | what it does |
|---|---|---|
| reasoning | any, or none | the answer |
| tools | `run` | runs its Python program; anything else is the answer |
| agentic | `shell` | runs its commands in the working folder |
| agentic | `file PATH` | writes the file, whole |
| agentic | `submit` | judges the file that it names |
"""

from __future__ import annotations

from dataclasses import dataclass

from cupel_trainer.episodes.fences import Block, find_blocks
from cupel_trainer.evaluate.records import Setting

RUN, SHELL, FILE, SUBMIT = "run", "shell", "file", "submit"

_TOOLS = (RUN,)
_AGENTIC = (SHELL, FILE, SUBMIT)


@dataclass(frozen=True, slots=True)
class RunCode:
    """Python to run."""

    code: str


@dataclass(frozen=True, slots=True)
class Shell:
    """Commands for the shell."""

    command: str


@dataclass(frozen=True, slots=True)
class WriteFile:
    """A file to write."""

    path: str
    content: str


@dataclass(frozen=True, slots=True)
class Submit:
    """A file to judge."""

    path: str


@dataclass(frozen=True, slots=True)
class Final:
    """The answer: what is judged is found in this text."""

    text: str


@dataclass(frozen=True, slots=True)
class Malformed:
    """No action.

    Args:
        how: What is wrong and how it is done, for the policy.
    """

    how: str


Action = RunCode | Shell | WriteFile | Submit | Final | Malformed


def parse_action(setting: Setting, text: str, *, cut: bool) -> Action:
    """What a turn asks for.

    Args:
        setting: Decides which actions there are.
        text: What the policy wrote.
        cut: Whether the length limit ended it: an action that is not whole is none.
    """
    match setting:
        case Setting.REASONING:
            return Final(text)
        case Setting.TOOLS:
            return _tools_action(text, cut=cut)
        case Setting.AGENTIC:
            return _agentic_action(text, cut=cut)


def _tools_action(text: str, *, cut: bool) -> Action:
    blocks = find_blocks(text, _TOOLS)
    if not blocks or blocks[-1].info != RUN:
        return Final(text)
    if cut and not blocks[-1].closed:
        return Malformed("cut off : the run block is not whole")
    if not blocks[-1].text.strip():
        return Malformed("the run block is empty")
    return RunCode(blocks[-1].text)


def _agentic_action(text: str, *, cut: bool) -> Action:
    actions = [each for each in find_blocks(text, _AGENTIC) if _word(each) in _AGENTIC]
    if not actions:
        return Malformed("no action : end with one block , shell , file PATH or submit")
    if len(actions) > 1:
        return Malformed("more than one action : nothing was done , write one block per turn")
    (block,) = actions
    if cut and not block.closed:
        return Malformed(f"cut off : the {_word(block)} block is not whole")
    argument = block.info.partition(" ")[2].strip()
    match _word(block):
        case "file":
            if not argument:
                return Malformed("the file block has no path : write file PATH")
            return WriteFile(argument, block.text)
        case "submit":
            path = argument or block.text.strip()
            if not path or "\n" in path:
                return Malformed("the submit block must hold the path of one file")
            return Submit(path)
        case _:
            if not block.text.strip():
                return Malformed("the shell block is empty")
            return Shell(block.text)


def _word(block: Block) -> str:
    return block.info.partition(" ")[0]
