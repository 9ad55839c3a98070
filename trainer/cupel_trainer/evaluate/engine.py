"""What every inference engine does: completions for prompts, each drawn from a seed of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from cupel_trainer.episodes.message import Messages, user
from cupel_trainer.evaluate.records import Sampling

CONTEXT = "context"
"""Why there is no further turn: the conversation is longer than what the model takes."""


@dataclass(frozen=True, slots=True)
class Request:
    """One completion that is wanted.

    Args:
        messages: What has been said; the next turn is the model's.
        seed: From which it is drawn, 0 to 2**31 - 1.
    """

    messages: Messages
    seed: int

    @classmethod
    def of_prompt(cls, prompt: str, seed: int) -> Self:
        """A completion for one message of the user."""
        return cls((user(prompt),), seed)


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model wrote.

    Args:
        index: The position of its request.
        text: Without special tokens.
        prompt_tokens: Of the prompt as the model saw it; 0 if the engine does not say.
        completion_tokens: Of the text, with its end-of-text token; 0 if the engine does not say.
        finish_reason: `stop`, `length`, `CONTEXT`, or what the engine says.
    """

    index: int
    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str


@dataclass(slots=True)
class Waiting:
    """Requests that an engine takes one by one, while it computes others.

    Args:
        requests: As of `Engine.draw`.
    """

    requests: Iterator[Request | None]
    taken: int = 0
    over: bool = False

    def take(self) -> tuple[int, Request] | None:
        """The next request with its index; None if there is none now, or, if it is over, none."""
        for request in self.requests:
            if request is None:
                return None
            self.taken += 1
            return self.taken - 1, request
        self.over = True
        return None


def out_of_context(index: int, prompt_tokens: int = 0) -> Completion:
    """What stands for the next turn of a conversation that has become too long."""
    return Completion(index, "", prompt_tokens, 0, CONTEXT)


class Engine(Protocol):
    """A loaded model, or an endpoint that serves one."""

    @property
    def together(self) -> int:
        """How many requests are computed as one; 1 if each is on its own.

        Rounding depends on what is computed together. Whoever wants the same completions again
        gives requests in the same groups of this many.
        """

    def draw(
        self, requests: Iterable[Request | None], sampling: Sampling
    ) -> Iterator[Sequence[Completion]]:
        """Draws a completion for each request.

        Args:
            requests: What is wanted. None stands for `none now`: the engine goes on with what it
                has, and asks for the next one soon again.
            sampling: Temperature, top-p and length; its seed is not used.

        Yields:
            Completions as they are finished, in any order, some at a time; none at all where there
            is nothing to do now, so that the caller can wait for what comes next.

        Raises:
            EngineError: The engine failed for good, or a prompt is too long for the model. (Where a
                later turn is wanted, that is no error but a completion that says `CONTEXT`.)
        """

    def close(self) -> None:
        """Lets go of the model and its memory."""
