from __future__ import annotations

import json
from pathlib import Path

import pytest

from cupel.schema import Language
from cupel_trainer.episodes.prompt import DEFAULTS, Template, read_template, render_prompts
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
