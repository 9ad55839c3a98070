from __future__ import annotations

import json
from pathlib import Path

import pytest

from cupel.schema import Judgement, Language, Limits, Verdict
from cupel_trainer.episodes.actions import RunCode, Shell, Submit, WriteFile, parse_action
from cupel_trainer.episodes.budget import Budget
from cupel_trainer.episodes.fences import fenced, find_blocks
from cupel_trainer.episodes.prompt import (
    DEFAULTS,
    FIXING,
    Example,
    ProblemView,
    Template,
    default_template,
    failed_of,
    read_template,
    render_fixing,
    render_prompts,
)
from cupel_trainer.errors import PromptError
from cupel_trainer.evaluate.problem_set import ProblemEntry, read_problem_set
from cupel_trainer.evaluate.records import Setting


def entry(tmp_path: Path, **row: object) -> ProblemEntry:
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps({"id": "p", "statement": "Add <two> & {{ numbers }}."} | row))
    return read_problem_set(str(path))[0]


def default(of: ProblemEntry, language: Language | None) -> str:
    template = read_template(DEFAULTS[Setting.REASONING])
    return render_prompts(template, [of.view], language)["p"]


def test_the_default_prompt_says_what_is_judged(tmp_path: Path) -> None:
    prompt = default(entry(tmp_path, title="Sum"), Language.CPP)
    assert prompt.startswith("Solve the following programming problem.\n\n# Sum\n\n")
    assert "Add <two> & {{ numbers }}." in prompt  # as it is: neither escaped nor a template
    assert "in C++17" in prompt
    assert "standard input" in prompt
    assert "standard output" in prompt
    assert prompt.endswith("```cpp\nyour program\n```")
    assert "\n\n\n" not in prompt


def test_a_problem_s_own_language_goes_first(tmp_path: Path) -> None:
    assert "in C17." in default(entry(tmp_path, language="c"), Language.CPP)


def test_a_free_choice_asks_for_the_fence_s_name(tmp_path: Path) -> None:
    prompt = default(entry(tmp_path), None)
    assert "in Python 3, C++17 or C17." in prompt
    assert prompt.endswith("(`python`, `cpp` or `c`), as the last thing you write.")


def test_starter_code_is_shown(tmp_path: Path) -> None:
    prompt = default(entry(tmp_path, starter_code="def main():\n    pass\n"), Language.PYTHON)
    assert "```python\ndef main():\n    pass\n```" in prompt


def test_a_template_of_ones_own_is_used(tmp_path: Path) -> None:
    path = tmp_path / "own.jinja"
    path.write_text("{{ title }}|{{ statement }}|{{ language }}|{{ fence }}|{{ starter_code }}")
    template = read_template(path)
    prompts = render_prompts(
        template, [entry(tmp_path, statement=" Do it. \n").view], Language.PYTHON
    )
    assert prompts == {"p": "|Do it.|Python 3|python|"}
    assert template.digest != Template("", "other").digest


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{{ statment }}", "'statment' is undefined"),
        ("line 1\n{% if %}", "own.jinja, line 2: "),
        ("{{ statement.lower(1, 2) }}", "own.jinja"),
    ],
)
def test_a_faulty_template_is_named(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(PromptError, match="own.jinja") as caught:
        render_prompts(Template("own.jinja", text), [entry(tmp_path).view], None)
    assert reason in str(caught.value)


def test_a_template_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="absent cannot be read: No such file"):
        read_template(tmp_path / "absent")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(PromptError, match="not UTF-8"):
        read_template(tmp_path / "binary")


def test_a_problem_without_a_statement_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="problem 'p' has no statement"):
        default(entry(tmp_path, statement=" "), None)


SHOWN = ProblemView(
    "p",
    "Sum",
    "Print the sum.",
    examples=(Example("sample", "1 2\n", "3\n"),),
    limits=Limits(cpu_s=1.5, memory_bytes=64 * 2**20),
)


@pytest.mark.parametrize("setting", list(Setting))
@pytest.mark.parametrize("language", [*Language, None])
def test_every_default_prompt_shows_what_may_be_seen(
    setting: Setting, language: Language | None
) -> None:
    budget = Budget(turns=7, calls=5, submissions=1, call_s=2.5)
    prompt = render_prompts(default_template(setting), [SHOWN], language, budget)["p"]
    assert "# Sum\n\nPrint the sum.\n" in prompt
    assert "Example input:\n\n```\n1 2\n```\n\nExample output:\n\n```\n3\n```" in prompt
    assert "1.5 s of CPU time, 64 MiB" in prompt
    assert "\n\n\n" not in prompt
    if setting is not Setting.REASONING:
        assert "You have 7 turns." in prompt
        assert "2.5 s" in prompt


def test_a_prompt_shows_actions_that_are_actions() -> None:
    """Each example block of a prompt is what a policy must write."""
    prompts = {
        setting: render_prompts(default_template(setting), [SHOWN], Language.CPP)["p"]
        for setting in (Setting.TOOLS, Setting.AGENTIC)
    }
    blocks = {
        setting: [
            fenced(block.text, block.info) for block in find_blocks(text, ("run", "file", "shell"))
        ]
        for setting, text in prompts.items()
    }
    agentic = [
        parse_action(Setting.AGENTIC, block, cut=False) for block in blocks[Setting.AGENTIC][-3:]
    ]
    assert agentic == [
        Shell("ls\n"),
        WriteFile("main.cpp", "the content of the file\n"),
        Submit("main.cpp"),
    ]
    tools = [parse_action(Setting.TOOLS, block, cut=False) for block in blocks[Setting.TOOLS]]
    assert RunCode("print(2 + 2)\n") in tools


def test_public_tests_and_limits_of_a_set_are_shown(tmp_path: Path) -> None:
    tests = [
        {"name": "sample", "input": "1 2", "output": "3", "public": True},
        {"name": "hidden", "input": "7 8", "output": "15"},
        {"name": "bytes", "input": {"base64": "/w=="}, "output": "3", "public": True},
    ]
    view = entry(tmp_path, problem={"limits": {"cpu_s": 3}, "tests": tests}).view
    assert view.examples == (Example("sample", "1 2", "3"),)
    assert view.limits is not None
    assert view.limits.cpu_s == 3


def judgement(verdict: Verdict, **fields: object) -> Judgement:
    document = {
        "id": "1",
        "problem": "p",
        "language": "cpp",
        "verdict": verdict,
        "failure_class": "correctness",
        "complete": True,
        "coverage": 2,
        "tiers": 3,
        "tests_per_tier": [1, 2, 4],
        "cpu_s": 1.234,
        "wall_s": 1.3,
        "memory_bytes": 5 * 2**20,
        "message": "secret-of-test-3",
        "tests": [
            {"name": f"hidden-{number}", "tier": 1, "verdict": each, "cpu_s": 1, "wall_s": 1}
            | {"memory_bytes": 1}
            for number, each in enumerate(["AC", "TLE", "WA"])
        ],
    }
    return Judgement.model_validate(document | fields)


def test_fixing_shows_the_program_and_aggregates_only() -> None:
    failed = failed_of("int main() {}", judgement(Verdict.TLE))
    prompt = render_fixing(read_template(FIXING), SHOWN, failed, Language.CPP)
    assert "```cpp\nint main() {}\n```" in prompt
    assert "It passed 1 of 3 tests that were run, out of 3.\n" in prompt
    assert "Time limit exceeded: 1.\nWrong answer: 1.\n" in prompt
    assert "1.23 s, its largest memory 5 MiB" in prompt
    assert "hidden-" not in prompt
    assert "secret" not in prompt
    assert "\n\n\n" not in prompt
    assert prompt.endswith("```cpp\nyour program\n```")


def test_fixing_shows_what_the_compiler_said() -> None:
    compiled = {"ok": False, "cpu_s": 1, "wall_s": 1, "diagnostics": "main.cpp:1: no"}
    failed = failed_of("int main(", judgement(Verdict.CE, compile=compiled, tests=[]))
    prompt = render_fixing(read_template(FIXING), SHOWN, failed, None)
    assert "no program that can be run.\n\n```\nmain.cpp:1: no\n```" in prompt
    assert "passed" not in prompt
    assert "secret" not in prompt
