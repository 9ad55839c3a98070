from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupel_trainer.episodes.actions import (
    Action,
    Final,
    Malformed,
    RunCode,
    Shell,
    Submit,
    WriteFile,
    parse_action,
)
from cupel_trainer.episodes.fences import fenced, find_blocks
from cupel_trainer.evaluate.records import Setting


def tools(text: str, *, cut: bool = False) -> Action:
    return parse_action(Setting.TOOLS, text, cut=cut)


def agentic(text: str, *, cut: bool = False) -> Action:
    return parse_action(Setting.AGENTIC, text, cut=cut)


def test_reasoning_knows_the_answer_only() -> None:
    text = "```run\nprint(1)\n```"
    assert parse_action(Setting.REASONING, text, cut=True) == Final(text)


def test_a_last_run_block_is_run() -> None:
    assert tools("Let me see.\n```run\nprint(1)\n```\n") == RunCode("print(1)\n")
    assert tools("```python\nx\n```\n```run\nprint(1)\n```") == RunCode("print(1)\n")
    assert tools("~~~run\nprint('```')\n```\n~~~") == RunCode("print('```')\n```\n")


def test_any_other_last_block_is_the_answer() -> None:
    for text in (
        "```run\nprint(1)\n```\n```python\nx\n```",
        "print(1)",
        "",
        "```runner\nprint(1)\n```",
        "```python\n```run\n```",  # the content of a block of Python
    ):
        assert tools(text) == Final(text)


def test_what_is_only_thought_of_is_no_action() -> None:
    thought = "<think>\n```run\nprint(1)\n```\n</think>\n```python\nx\n```"
    assert tools(thought) == Final(thought)
    endless = "<think>\n```run\nprint(1)\n```"
    assert tools(endless) == Final(endless)
    assert tools("so far\n</think>\n```run\nprint(1)\n```") == RunCode("print(1)\n")


def test_a_stray_fence_does_not_swallow_an_action() -> None:
    assert tools("```\nsome prose\n```run\nprint(1)\n```") == RunCode("print(1)\n")


def test_an_action_that_was_cut_off_is_none() -> None:
    assert isinstance(tools("```run\nprint(1", cut=True), Malformed)
    assert tools("```run\nprint(1)") == RunCode("print(1)")  # ended by the model: it is whole
    assert tools("```run\nprint(1)\n```\nand", cut=True) == RunCode("print(1)\n")
    assert isinstance(agentic("```file main.py\nprint(1", cut=True), Malformed)
    assert isinstance(tools("```run\n\n```"), Malformed)


def test_each_agentic_action_is_a_block() -> None:
    assert agentic("I look.\n```shell\nls -la\n```") == Shell("ls -la\n")
    assert agentic("```file src/main.py\na\nb\n```") == WriteFile("src/main.py", "a\nb\n")
    assert agentic("```file empty\n```") == WriteFile("empty", "")
    assert agentic("```submit\n main.py \n```") == Submit("main.py")
    assert agentic("```submit main.py\n```") == Submit("main.py")
    assert agentic("````file a.md\n```shell\nls\n```\n````") == WriteFile(
        "a.md", "```shell\nls\n```\n"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Hello.", "no action"),
        ("```python\nprint(1)\n```", "no action"),
        ("```shell\nls\n```\n```submit\nmain.py\n```", "more than one action"),
        ("```file\nx\n```", "write file PATH"),
        ("```submit\n\n```", "the path of one file"),
        ("```submit\na\nb\n```", "the path of one file"),
        ("```shell\n \n```", "empty"),
    ],
)
def test_a_malformed_action_is_told_how_it_is_done(text: str, said: str) -> None:
    action = agentic(text)
    assert isinstance(action, Malformed)
    assert said in action.how


@given(st.text())
def test_a_fenced_text_comes_back_as_it_was(text: str) -> None:
    (block,) = find_blocks(f"prose\n{fenced(text, 'file x')}\n", ("file",))
    assert block.text == text if text.endswith("\n") else block.text == text + "\n"


@given(st.text(alphabet="`~ \nrunfile<think/>ab"), st.sampled_from(list(Setting)), st.booleans())
def test_any_text_is_some_action(text: str, setting: Setting, cut: bool) -> None:
    parse_action(setting, text, cut=cut)
