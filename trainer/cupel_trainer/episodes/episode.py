"""An episode as a conversation, without any I/O: the model's turns in, actions and answers out.

    act(text) -> action     what the policy asks for, or how the episode ended
    observe(text)           what came of it; the next turn is the policy's again

`environment.Environment` carries actions out. A budget that is used up ends an episode with what
was submitted so far. That is the policy's doing; without a submission there is nothing to judge.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from cupel_trainer.episodes.actions import (
    Action,
    Final,
    Malformed,
    RunCode,
    Submit,
    parse_action,
)
from cupel_trainer.episodes.budget import Budget
from cupel_trainer.episodes.fences import fenced
from cupel_trainer.episodes.message import Message, Messages, assistant, user
from cupel_trainer.episodes.observations import cut_middle
from cupel_trainer.evaluate.records import Setting

if TYPE_CHECKING:
    from cupel.schema import Language, Problem
    from cupel.session_schema import SubmitResult


class End(StrEnum):
    """Why an episode has its answer."""

    ANSWER = "answer"
    """The policy gave it, or had its program accepted, or used its last submission."""
    LENGTH = "length"
    """The length limit cut the answer off."""
    TURNS = "turns"
    TOKENS = "tokens"
    TIME = "time"
    CONTEXT = "context"
    """The conversation became longer than the model takes."""
    SESSION = "session"
    """The policy's own programs ended its session: used it up, or killed it."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What the policy is told next; it is in the episode's messages already."""

    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """How an episode ended.

    Args:
        completion: What is judged, as of the setting reasoning; empty if there is nothing.
        submission: The last submission of a session, with its rewards; None in other settings, or
            if there was none.
        end: Why.
    """

    completion: str
    submission: SubmitResult | None
    end: End


@dataclass(frozen=True, slots=True)
class Masked:
    """An episode that our own fault ended: it has no reward and no sample.

    Args:
        reason: What went wrong, for the log.
        away: The service cannot be reached or is overloaded: others will fare no better.
    """

    reason: str
    away: bool = False


class Episode:
    """One attempt of a policy at one problem.

    Args:
        prompt: The first message.
        setting: Which actions there are.
        budget: What it may use.
        problem: What sessions judge by, inline or the id of a registered one; used by agentic.
        language: Of submissions; None if the policy chooses, by the file's name.
    """

    def __init__(
        self,
        prompt: str,
        setting: Setting,
        budget: Budget,
        *,
        problem: str | Problem | None = None,
        language: Language | None = None,
    ) -> None:
        self.setting = setting
        self.budget = budget
        self.problem = problem
        self.language = language
        self.turns = 0
        self.calls = 0
        self.submissions = 0
        self.tokens = 0
        self.wall_s = 0.0
        self.result: Answer | Masked | None = None
        self._messages: list[Message] = [user(prompt)]
        self._submission: SubmitResult | None = None

    @property
    def messages(self) -> Messages:
        """The conversation so far; the next turn is the policy's, unless there is a result."""
        return tuple(self._messages)

    def act(self, text: str, *, tokens: int = 0, cut: bool = False) -> Action | Answer:
        """Takes the policy's turn.

        Args:
            text: What it wrote, without special tokens.
            tokens: How many tokens that were.
            cut: Whether the length limit ended it.

        Returns:
            What it asks for, or how the episode ended.
        """
        self._messages.append(assistant(text))
        self.turns += 1
        self.tokens += tokens
        action = parse_action(self.setting, text, cut=cut)
        if isinstance(action, Final):
            return self._over(Answer(action.text, None, End.LENGTH if cut else End.ANSWER))
        if self.tokens > self.budget.tokens:
            return self.end(End.TOKENS)
        if self.turns >= self.budget.turns and not isinstance(action, Submit):
            return self.end(End.TURNS)  # nothing can follow from what it asks for
        if isinstance(action, RunCode):
            if self.calls >= self.budget.calls:
                return Malformed("no calls left : write your answer")
            self.calls += 1
        return action

    def observe(self, text: str, *, wall_s: float = 0.0) -> Observation | Answer:
        """Tells the policy what came of its action.

        Args:
            text: What it sees; the middle is cut out of what is too long.
            wall_s: How long its program ran.
        """
        self.wall_s += wall_s
        if self.wall_s > self.budget.wall_s:
            return self.end(End.TIME)
        if self.turns >= self.budget.turns:
            return self.end(End.TURNS)
        shown = f"{cut_middle(text.rstrip(), self.budget.output_characters)}\n\n{self._left()}"
        self._messages.append(user(shown))
        return Observation(shown)

    def submitted(self, result: SubmitResult, text: str) -> Observation | Answer:
        """Takes a submission's judgement, which is the policy's to see as text only.

        Args:
            result: What the service says.
            text: The feedback in words.
        """
        self._submission = result
        if result.feedback.verdict != "JE":
            self.submissions += 1
        if result.feedback.verdict == "AC" or self.submissions >= self.budget.submissions:
            return self.end(End.ANSWER)
        return self.observe(text)

    def end(self, why: End) -> Answer:
        """Ends the episode with what was submitted so far."""
        last = self._submission
        completion = ""
        if last is not None and last.source:
            completion = fenced(last.source, last.judgement.language or "")
        return self._over(Answer(completion, last, why))

    def mask(self, reason: str, *, away: bool = False) -> Masked:
        """Ends the episode by our own fault."""
        masked = Masked(reason, away)
        self.result = masked
        return masked

    def _over(self, answer: Answer) -> Answer:
        self.result = answer
        return answer

    def _left(self) -> str:
        turns = self.budget.turns - self.turns
        if self.setting is Setting.TOOLS:
            return f"turns left {turns} , calls left {self.budget.calls - self.calls}"
        return f"turns left {turns} , submissions left {self.budget.submissions - self.submissions}"
