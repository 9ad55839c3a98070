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


class QueueUnreachable(ServiceError):
    """The queue cannot be reached now; what it had accepted is safe there.

    Args:
        message: What was tried, and what to do.
        retry_after_s: When to try again, in whole seconds from now.
    """

    def __init__(self, message: str, retry_after_s: int = 5) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


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
            QueueUnreachable: The rest cannot be had now.
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

    async def attach(self, key: str, digest: str) -> Batch | None:
        """Finds what was admitted under a key; to be called on the event loop.

        It needs no assignments, so a request that comes again is answered also when its problems
        were deleted meanwhile, and without preparing them anew.

        Returns:
            The batch: what there is, and what is still to come. None if the key is not known.

        Raises:
            KeyReused: The key stands for another request.
            Stopping: The service is about to end, before all of it is judged.
            QueueUnreachable: Nobody can tell now.
        """

    async def submit(self, admission: Admission) -> Batch:
        """Admits all of a request's submissions or none; to be called on the event loop.

        What is admitted under a key is on disk (or in Redis) before this returns, and is judged
        exactly once however often a process is killed. A key that is known already is not admitted
        again: this attaches to its batch.

        Raises:
            QueueFull: There is no room now.
            RequestExceedsQueue: There never is.
            KeyReused: The key stands for another request.
            Stopping: The service is about to end.
            QueueUnreachable: Nothing can be admitted now.
        """

    async def stop(self, grace_s: float) -> None:
        """Admits nothing more, drops what waits, and lets what runs finish for a while."""

    def interrupt(self) -> None:
        """Ends at once what runs; its submissions count as not judged."""
