"""Prompts from templates: what a policy is told of a problem.

A template is a Jinja file. It may use `title`, `statement`, `starter_code`, `language` (for people,
such as "C++17"; empty if the policy may choose) and `fence` (the info string of its fenced block).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cupel.schema import Language
from cupel_trainer.errors import PromptError
from cupel_trainer.evaluate.problem_set import ProblemEntry
from cupel_trainer.evaluate.records import Setting

DEFAULTS = {Setting.REASONING: Path(__file__).parent / "prompts" / "reasoning.jinja"}
"""The template of each setting that can be sampled."""

LANGUAGE_NAMES = {Language.PYTHON: "Python 3", Language.CPP: "C++17", Language.C: "C17"}


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
    template: Template, entries: Sequence[ProblemEntry], language: Language | None
) -> dict[str, str]:
    """The prompts of problems.

    Args:
        template: The template.
        entries: The problems.
        language: Asked for where a problem names none; None leaves the choice to the policy.

    Returns:
        The prompt of each problem, by its id.

    Raises:
        PromptError: The template is faulty, or a problem has no statement.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=False,  # noqa: S701 (prompts are plain text, and no browser reads them)
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    try:
        compiled = environment.from_string(template.text)
        return {
            entry.id: compiled.render(_variables(entry, entry.language or language)).strip()
            for entry in entries
        }
    # A template is a program: besides Jinja's errors, its expressions raise those of Python.
    except (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
        line = getattr(error, "lineno", None)
        where = f"{template.name}, line {line}" if line else template.name
        raise PromptError(f"{where}: {error}") from error


def _variables(entry: ProblemEntry, language: Language | None) -> dict[str, str]:
    if not entry.statement.strip():
        raise PromptError(
            f"problem {entry.id!r} has no statement: give `statement` in the problem set"
        )
    return {
        "title": entry.title.strip(),
        "statement": entry.statement.strip(),
        "starter_code": entry.starter_code.rstrip(),
        "language": LANGUAGE_NAMES[language] if language else "",
        "fence": language.value if language else "",
    }
