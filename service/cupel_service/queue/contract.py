"""What a queue promises to the HTTP API, whether it is in this process or in Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from cupel.schema import Judgement, Submission
from cupel_service.errors import ServiceError
from cupel_service.suite import Suite


class RequestExceedsQueue(ServiceError):
    """The request holds more submissions than the queue ever does."""

    def __init__(self, submissions: int, capacity: int) -> None:
        super().__init__(
            f"{submissions} submissions in one request, but the queue holds {capacity}: "
            "split the request, or raise CUPEL_QUEUE_CAPACITY"
        )


class KeyReused(ServiceError):
    """The Idempotency-Key came before, with another request."""

    def __init__(self) -> None:
        super().__init__(
            "this Idempotency-Key was sent before, with another request: "
            "use a new key for each request, and the same one only to repeat it unchanged"
        )


@dataclass(frozen=True, slots=True)
class Assignment:
    """One submission with all that judging it takes.

    Args:
        submission: What to judge.
        submission_id: The client's id, or a generated one.
        problem_id: The registered problem's id; None for an inline one.
        suite: The problem's tests, prepared.
    """

    submission: Submission
    submission_id: str
    problem_id: str | None
    suite: Suite


@dataclass(frozen=True, slots=True)
class Admission:
    """A request's submissions, as they are handed to a queue.

    Args:
        assignments: All of them, in the order of the request.
        key: What the client calls this request (its Idempotency-Key): who shows it again gets the
            same judgements, also from a service that was killed meanwhile. None: nobody can ask
            again, so nothing outlives the connection.
        digest: SHA-256 of what was asked, in hexadecimal; a key stands for one digest only.
        urgent: It goes before what waits already.
    """

    assignments: Sequence[Assignment]
    key: str | None = None
    digest: str = ""
    urgent: bool = False


@dataclass(frozen=True, slots=True)
class Finished:
    """A judgement, and where in its request the submission stood."""

    index: int
    judgement: Judgement


class Batch(Protocol):
    """The submissions of one admitted request, as one client waits for them."""

    def __aiter__(self) -> AsyncIterator[Sequence[Finished]]:
        """Yields judgements in the order in which they are finished, as many as there are.

        Raises:
            Stopping: At the end, if some were dropped and will not be judged.
        """

    def leave(self) -> None:
        """The client waits no longer. Idempotent, and nothing once all was yielded.

        Without a key, what has not started is dropped. With one, everything is judged and kept for
        whoever shows the key again; what nobody asks for in `abandoned_s` is dropped.
        """


class Dispatcher(Protocol):
    """Where admitted submissions wait and are judged."""

    @property
    def stopping(self) -> bool:
        """Whether nothing is admitted any more."""

    async def submit(self, admission: Admission) -> Batch:
        """Admits all of a request's submissions or none; to be called on the event loop.

        What is admitted under a key is on disk (or in Redis) before this returns, and is judged
        exactly once however often a process is killed. A key that is known already is not admitted
        again: its batch yields what there is and what is still to come.

        Raises:
            QueueFull: There is no room now.
            RequestExceedsQueue: There never is.
            KeyReused: The key stands for another request.
            Stopping: The service is about to end.
        """

    async def stop(self, grace_s: float) -> None:
        """Admits nothing more, drops what waits, and lets what runs finish for a while."""

    def interrupt(self) -> None:
        """Ends at once what runs; its submissions count as not judged."""
