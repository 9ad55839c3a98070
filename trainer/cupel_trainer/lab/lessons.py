"""What the policy is shown before RL: conversations in which programs are written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field, field_validator

from cupel.schema import Language
from cupel.session_schema import CommandResult
from cupel_trainer.episodes.budget import Budget
from cupel_trainer.episodes.episode import Episode
from cupel_trainer.episodes.observations import WORDS, describe_command
from cupel_trainer.episodes.prompt import ProblemView, read_template, render_prompts
from cupel_trainer.evaluate.records import Record, Setting
from cupel_trainer.lab.family.problems import FamilyProblem
from cupel_trainer.lab.family.skeleton import Kind, Part, Program, run_in_process

TEMPLATES = {
    setting: Path(__file__).parent / "prompts" / f"{setting.value}.jinja" for setting in Setting
}
"""The lab's own prompt templates: short, as its policy is small."""
FENCE = "```"
FILE = "main.py"
TRY = f"python3 {FILE} < examples/1.in"
"""How an agent runs its file on the example."""
SLOW_AFTER_FAILURE = 0.7
"""How often the second program of a lesson is a slow one, at least."""


class Mix(Record):
    """How often each kind of program is shown, per part; what a part lacks goes to the others."""

    easy: dict[Kind, float] = Field(
        {Kind.SLOW: 0.5, Kind.FAST: 0.35, Kind.WRONG: 0.1, Kind.LATE: 0.05}
    )
    hard: dict[Kind, float] = Field(
        {Kind.SLOW: 0.6, Kind.FAST: 0.1, Kind.WRONG: 0.3},
        description="Fast attempts are right as often as a guess is: the policy cannot do better.",
    )

    @field_validator("easy", "hard")
    @classmethod
    def _are_shares(cls, value: dict[Kind, float]) -> dict[Kind, float]:
        if min(value.values()) < 0 or sum(value.values()) <= 0:
            raise ValueError("shares must not be negative and must have a positive sum")
        return value

    def of(self, part: Part) -> Mapping[Kind, float]:
        """The shares of a part."""
        return self.easy if part is Part.EASY else self.hard


@dataclass(frozen=True, slots=True)
class Lesson:
    """A conversation: texts of user and policy in turn, the user's first."""

    texts: tuple[str, ...]


def choose_program(problem: FamilyProblem, mix: Mix, random: np.random.Generator) -> Program:
    """A program of a problem, of a kind by the mix, each of that kind as likely."""
    shares = {
        kind: share
        for kind, share in mix.of(problem.skeleton.part).items()
        if problem.of_kind(kind)
    }
    weights = np.array(list(shares.values()))
    kind = list(shares)[int(random.choice(len(weights), p=weights / weights.sum()))]
    programs = problem.of_kind(kind)
    return programs[int(random.integers(len(programs)))]


def answer_text(source: str) -> str:
    """A program as a final answer."""
    return f"{FENCE}python\n{source}{FENCE}"


def make_lessons(
    problems: Sequence[FamilyProblem],
    settings: Sequence[Setting],
    budgets: Mapping[Setting, Budget],
    mix: Mix,
    random: np.random.Generator,
) -> list[Lesson]:
    """A conversation about each problem, in the words of the setting's template and observations.

    In `tools` and `agentic` a draft is tried on the example. If it prints what it should, it is the
    answer; if not, the answer is another program, mostly a slow one.

    Args:
        problems: The problems.
        settings: The setting of each.
        budgets: What an episode may use, which is said in its observations.
        mix: Of the programs, or of the drafts.
        random: Decides.
    """
    sizes = [problem.example(random) for problem in problems]
    views = [
        ProblemView(id=str(number), title=problem.id, statement=problem.statement(n))
        for number, (problem, n) in enumerate(zip(problems, sizes, strict=True))
    ]
    prompts: dict[str, str] = {}
    for setting in set(settings):
        chosen = [view for view, its in zip(views, settings, strict=True) if its is setting]
        template = read_template(TEMPLATES[setting])
        prompts |= render_prompts(template, chosen, Language.PYTHON, budgets[setting])
    lessons = []
    for view, problem, n, setting in zip(views, problems, sizes, settings, strict=True):
        episode = Episode(prompts[view.id], setting, budgets[setting])
        for text in _turns(episode, problem, n, mix, random):
            episode.act(text)
        lessons.append(Lesson(tuple(message.content for message in episode.messages)))
    return lessons


def _turns(
    episode: Episode, problem: FamilyProblem, n: int, mix: Mix, random: np.random.Generator
) -> Iterator[str]:
    """The policy's turns; in between, the episode is told what came of them."""
    draft = choose_program(problem, mix, random)
    if episode.setting is Setting.REASONING:
        yield answer_text(draft.source)
        return
    printed = run_in_process(draft.source, n)
    answer = draft if printed == problem.answer(n) else _second(problem, mix, random)
    if episode.setting is Setting.TOOLS:
        yield _block("run", draft.source.replace("int(input())", str(n)))
        episode.observe(describe_command(_printed(printed)))
        yield answer_text(answer.source)
        return
    yield _block(f"file {FILE}", draft.source)
    episode.observe(_written(draft))
    yield _block("shell", f"{TRY}\n")
    episode.observe(describe_command(_printed(printed)))
    if answer is not draft:
        yield _block(f"file {FILE}", answer.source)
        episode.observe(_written(answer))
    yield _block("submit", f"{FILE}\n")


def _block(info: str, text: str) -> str:
    return f"{FENCE}{info}\n{text}{FENCE}"


def _written(program: Program) -> str:
    return f"{len(program.source.encode())} bytes written to {FILE}"


def _second(problem: FamilyProblem, mix: Mix, random: np.random.Generator) -> Program:
    if random.random() < SLOW_AFTER_FAILURE:
        slow = problem.of_kind(Kind.SLOW)
        return slow[int(random.integers(len(slow)))]
    return choose_program(problem, mix, random)


def _printed(text: str) -> CommandResult:
    """The result of a command that printed this."""
    return CommandResult(exit_code=0, signal=None, stdout=text, stdout_bytes=len(text))


def vocabulary_texts(lessons: Sequence[Lesson]) -> list[str]:
    """Texts that hold every word which the policy meets, but for those of rare failures."""
    return [*(text for lesson in lessons for text in lesson.texts), " ".join(WORDS)]
