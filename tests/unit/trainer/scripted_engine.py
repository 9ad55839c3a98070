"""An engine that answers from a script, in place of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from cupel_trainer.episodes.message import Messages
from cupel_trainer.evaluate.engine import Completion, Request, Waiting
from cupel_trainer.evaluate.records import Sampling

Script = Callable[[Messages, int], str]
"""What is answered to a conversation, drawn from a seed."""


class ScriptedEngine:
    """Answers by a script, in groups of `together`; keeps what it was asked, and how much."""

    def __init__(self, script: Script, together: int = 1, at_once: int = 8) -> None:
        self.together = together
        self.at_once = max(together, at_once)
        self.most_at_once = 0
        self.asked: list[list[Request]] = []
        self._script = script

    def draw(
        self, requests: Iterable[Request | None], sampling: Sampling
    ) -> Iterator[Sequence[Completion]]:
        self.asked.append([])
        waiting = Waiting(iter(requests))
        held: list[tuple[int, Request]] = []
        while not (waiting.over and not held):
            while len(held) < self.at_once and (each := waiting.take()):
                self.asked[-1].append(each[1])
                held.append(each)
            self.most_at_once = max(self.most_at_once, len(held))
            done, held = held[-self.together :], held[: -self.together]  # in any order
            yield [self._completion(*each) for each in done]

    def _completion(self, index: int, request: Request) -> Completion:
        text = self._script(request.messages, request.seed)
        said = sum(len(each.content) for each in request.messages)
        reason = "context" if text == "context" else "stop"
        return Completion(index, "" if reason == "context" else text, said, len(text), reason)

    def close(self) -> None:
        pass
