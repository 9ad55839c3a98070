"""Prompts from templates: what a policy is told of a problem, and of a program that failed.

A template is a Jinja file. It may use

* `title`, `statement`, `starter_code`;
* `language` (for people, such as "C++17"; empty if the policy may choose), `fence` (the info string
  of its fenced block) and `file` (what its program may be called, such as `main.cpp`);
* `examples`: the public tests, each with `name`, `input` and `output`;
* `cpu_s` and `memory_mib`: the problem's limits, 0 where they are not known;
* `budget`: what an episode may use, with the fields of `budget.Budget`;
* in `fixing.jinja` also `failed`: the failed program, see `Failed`.

A policy may see all of this; nothing of hidden tests is ever given to a template.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cupel.schema import Judgement, Language, Limits, Problem, ProblemSummary, PublicTest
from cupel_trainer.episodes.budget import MEBIBYTE, Budget
from cupel_trainer.episodes.observations import cut_middle
from cupel_trainer.errors import PromptError
from cupel_trainer.evaluate.records import Setting

PROMPTS = Path(__file__).parent / "prompts"
DEFAULTS = {setting: PROMPTS / f"{setting}.jinja" for setting in Setting}
"""The template of each setting."""
FIXING = PROMPTS / "fixing.jinja"
"""The template of a second attempt after a failed program; see `render_fixing`."""

LANGUAGE_NAMES = {Language.PYTHON: "Python 3", Language.CPP: "C++17", Language.C: "C17"}
FILE_NAMES = {Language.PYTHON: "main.py", Language.CPP: "main.cpp", Language.C: "main.c"}

_DIAGNOSTICS_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class Template:
    """A prompt template.

    Args:
        name: Where it was read from.
        text: What it says.
    """

    name: str
    text: str

    @property
    def digest(self) -> str:
        """SHA-256 of its text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Example:
    """A public test, as text."""

    name: str
    input: str
    output: str


@dataclass(frozen=True, slots=True)
class ProblemView:
    """What a policy may see of a problem.

    Args:
        id: Its name.
        title: For people.
        statement: What is asked.
        starter_code: Code that the program must begin with; empty if there is none.
        language: The only language that is judged, if there is one.
        examples: Its public tests.
        limits: Those of a test; None if they are not known.
    """

    id: str
    title: str
    statement: str
    starter_code: str = ""
    language: Language | None = None
    examples: tuple[Example, ...] = ()
    limits: Limits | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """A program that failed, and what may be said of how: aggregates over its tests.

    Args:
        program: Its source.
        language: Its language.
        verdict: Over all tests.
        passed: Tests that it passed.
        judged: Tests that it ran.
        total: Tests that there are.
        verdicts: How many tests had each verdict other than accepted, such as `{"TLE": 3}`.
        cpu_s: The largest CPU time of a test.
        memory_mib: The largest memory of a test.
        diagnostics: What the compiler said, or why there is no program.
    """

    program: str
    language: Language | None
    verdict: str
    passed: int
    judged: int
    total: int
    verdicts: dict[str, int]
    cpu_s: float
    memory_mib: int
    diagnostics: str


def view_of(problem: ProblemSummary) -> ProblemView:
    """What a policy may see of a registered problem."""
    return ProblemView(
        id=problem.id,
        title=problem.title,
        statement=problem.statement,
        examples=examples_of(problem.public_tests),
        limits=problem.limits,
    )


def view_of_problem(name: str, problem: Problem) -> ProblemView:
    """What a policy may see of a problem that is given with its tests."""
    return ProblemView(
        id=name,
        title=problem.title,
        statement=problem.statement,
        examples=examples_of(
            PublicTest(name=test.name, input=test.input, output=test.output)
            for test in problem.tests
            if test.public
        ),
        limits=problem.limits,
    )


def failed_of(program: str, judgement: Judgement) -> Failed:
    """What may be said of a failed program.

    Args:
        program: Its source, or the completion where there is none in it.
        judgement: Of this program.
    """
    counts = Counter(str(test.verdict) for test in judgement.tests)
    passed = counts.pop("AC", 0)
    compiled = judgement.compile.diagnostics if judgement.compile is not None else ""
    return Failed(
        program=program,
        language=judgement.language,
        verdict=str(judgement.verdict),
        passed=passed,
        judged=len(judgement.tests),
        total=sum(judgement.tests_per_tier[: judgement.coverage]),
        verdicts=dict(sorted(counts.items())),
        cpu_s=judgement.cpu_s,
        memory_mib=judgement.memory_bytes // MEBIBYTE,
        # A message of a judging error or of one test is not the policy's to see.
        diagnostics=cut_middle((compiled or judgement.message).strip(), _DIAGNOSTICS_CHARACTERS)
        if judgement.verdict == "CE"
        else "",
    )


def default_template(setting: Setting, path: Path | None = None) -> Template:
    """The template that was named, or else the setting's own.

    Raises:
        PromptError: It cannot be read.
    """
    return read_template(path or DEFAULTS[setting])


def read_template(path: Path) -> Template:
    """Reads a template.

    Raises:
        PromptError: It cannot be read.
    """
    try:
        return Template(str(path), path.read_text("utf-8"))
    except OSError as error:
        raise PromptError(f"the template {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PromptError(f"the template {path} is not UTF-8 text") from error


def render_prompts(
    template: Template,
    problems: Sequence[ProblemView],
    language: Language | None,
    budget: Budget | None = None,
) -> dict[str, str]:
    """The prompts of problems.

    Args:
        template: The template.
        problems: The problems.
        language: Asked for where a problem names none; None leaves the choice to the policy.
        budget: What an episode may use.

    Returns:
        The prompt of each problem, by its id.

    Raises:
        PromptError: The template is faulty, or a problem has no statement.
    """
    spent = budget or Budget()
    return dict(
        zip(
            (problem.id for problem in problems),
            _render(
                template,
                [_variables(each, each.language or language, spent) for each in problems],
            ),
            strict=True,
        )
    )


def render_fixing(
    template: Template, problem: ProblemView, failed: Failed, language: Language | None
) -> str:
    """The prompt of a second attempt at a problem.

    Args:
        template: The template, by default that of `FIXING`.
        problem: The problem.
        failed: The first attempt.
        language: Asked for where the problem names none; None leaves the choice to the policy.

    Raises:
        PromptError: The template is faulty, or the problem has no statement.
    """
    variables = _variables(problem, problem.language or language, Budget())
    (prompt,) = _render(template, [variables | {"failed": failed}])
    return prompt


def examples_of(tests: Iterable[PublicTest]) -> tuple[Example, ...]:
    """Public tests as text; those of other bytes than UTF-8 are left out."""
    return tuple(
        Example(test.name, test.input, test.output)
        for test in tests
        if isinstance(test.input, str) and isinstance(test.output, str)
    )


def _render(template: Template, variables: Sequence[dict[str, object]]) -> list[str]:
    import jinja2

    environment = jinja2.Environment(
        autoescape=False,  # noqa: S701 (prompts are plain text, and no browser reads them)
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    try:
        compiled = environment.from_string(template.text)
        return [compiled.render(each).strip() for each in variables]
    # A template is a program: besides Jinja's errors, its expressions raise those of Python.
    except (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
        line = getattr(error, "lineno", None)
        where = f"{template.name}, line {line}" if line else template.name
        raise PromptError(f"{where}: {error}") from error


def _variables(
    problem: ProblemView, language: Language | None, budget: Budget
) -> dict[str, object]:
    if not problem.statement.strip():
        raise PromptError(
            f"problem {problem.id!r} has no statement: give `statement` in the problem set"
        )
    limits = problem.limits
    return {
        "title": problem.title.strip(),
        "statement": problem.statement.strip(),
        "starter_code": problem.starter_code.rstrip(),
        "language": LANGUAGE_NAMES[language] if language else "",
        "fence": language.value if language else "",
        "file": FILE_NAMES[language] if language else "",
        "examples": problem.examples,
        "cpu_s": limits.cpu_s if limits else 0,
        "memory_mib": limits.memory_bytes // MEBIBYTE if limits else 0,
        "budget": budget,
    }
