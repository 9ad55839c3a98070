"""An engine that answers from a script, in place of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from cupel_trainer.episodes.message import Messages
from cupel_trainer.evaluate.engine import Completion, Request
from cupel_trainer.evaluate.records import Sampling

Script = Callable[[Messages, int], str]
"""What is answered to a conversation, drawn from a seed."""


class ScriptedEngine:
    """Answers by a script, in groups of `together`; keeps what it was asked."""

    def __init__(self, script: Script, together: int = 1) -> None:
        self.together = together
        self.asked: list[list[Request]] = []
        self._script = script

    def draw(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[Sequence[Completion]]:
        self.asked.append(list(requests))
        for start in range(0, len(requests), self.together):
            yield [
                self._completion(index, requests[index])
                for index in range(start, min(start + self.together, len(requests)))
            ]

    def _completion(self, index: int, request: Request) -> Completion:
        text = self._script(request.messages, request.seed)
        said = sum(len(each.content) for each in request.messages)
        reason = "context" if text == "context" else "stop"
        return Completion(index, "" if reason == "context" else text, said, len(text), reason)

    def close(self) -> None:
        pass
