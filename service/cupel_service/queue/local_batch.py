"""A batch of the embedded queue, and its view by each client that waits for it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock

from cupel_service.errors import ServiceError, Stopping
from cupel_service.queue.contract import Assignment, Finished
from cupel_service.queue.tickets import Ticket

_log = logging.getLogger(__name__)

STOPPING = "the service is stopping: send what has no judgement again"
_LEFT = "its client left"


@dataclass(frozen=True, slots=True)
class Record:
    """Where a batch with a key is written down.

    Args:
        number: Its number in the journal.
        key: What its client calls it.
        digest: Of the request that the key stands for.
        written: Done when it is on disk.
    """

    number: int
    key: str
    digest: str
    written: Future[None]


class LocalBatch:
    """The submissions of one request. `waiting` belongs to the dispatcher's lock.

    Args:
        works: What is to be judged, by place in the request.
        size: How many submissions the request had.
        record: Where it is written down; None without a key.
        urgent: Whether it goes before others.
        finished_at: When its last judgement was made, in seconds of the epoch, if it was.
    """

    def __init__(
        self,
        works: Mapping[int, Assignment | Ticket],
        size: int,
        record: Record | None = None,
        *,
        urgent: bool = False,
        finished_at: float | None = None,
    ) -> None:
        self.waiting = dict(works)
        self.record = record
        self.urgent = urgent
        self.forgotten = False
        self.finished_at = finished_at
        self.unattended_since: float | None = time.monotonic()
        self._size = size
        self._open = len(works)
        self._lock = Lock()
        self._views: list[View] = []
        self._unsaved: list[Finished] = []

    def take(self) -> tuple[int, Assignment | Ticket]:
        """The next submission to judge."""
        index = next(iter(self.waiting))
        return index, self.waiting.pop(index)

    def attach(self, left: Callable[[LocalBatch], None]) -> View:
        """A further client: sees every judgement from now on.

        Args:
            left: Called when it leaves.
        """

        def leave(view: View) -> None:
            with self._lock:
                self._views.remove(view)
                if not self._views:
                    self.unattended_since = time.monotonic()
            left(self)

        view = View(self._size, leave)
        with self._lock:
            self._views.append(view)
            self.unattended_since = None
            view.deliver(self._unsaved)
        return view

    def deliver(self, finished: Finished, *, saved: bool = True) -> None:
        """Hands a judgement to all clients, from any thread.

        Args:
            finished: The judgement.
            saved: Whether clients that come later find it in the journal.
        """
        with self._lock:
            self._open -= 1
            if not self._open:
                self.finished_at = time.time()
            if not saved:
                self._unsaved.append(finished)
            views = list(self._views)
            for view in views:
                view.deliver((finished,))

    def drop(self, count: int) -> None:
        """Tells the clients that some submissions will not be judged, from any thread."""
        with self._lock:
            for view in self._views:
                view.drop(count)


class View:
    """What one client has yet to see of a batch: implements `contract.Batch`. Loop-bound.

    Args:
        size: How many judgements there will be.
        leave: Called once, when the client waits no longer.
    """

    def __init__(self, size: int, leave: Callable[[View], None]) -> None:
        self._leave = leave
        self._loop = asyncio.get_running_loop()
        self._lock = Lock()
        self._lacking = set(range(size))
        self._ready: list[Finished] = []
        self._dropped = 0
        self._fault: ServiceError | None = None
        self._left = False
        self._signalled = False
        self._wake = asyncio.Event()

    def deliver(self, bunch: Iterable[Finished]) -> None:
        """Hands judgements over, from any thread; those that it had already are ignored."""
        with self._lock:
            for finished in bunch:
                if finished.index in self._lacking:
                    self._lacking.remove(finished.index)
                    self._ready.append(finished)
            self._signal()

    def recall(self, earlier: Iterable[Finished]) -> None:
        """Hands over, before all else, what was finished when this client came."""
        with self._lock:
            found = [each for each in earlier if each.index in self._lacking]
            self._lacking.difference_update(each.index for each in found)
            self._ready[:0] = found
            self._signal()

    def drop(self, count: int) -> None:
        """So many judgements will not come, from any thread."""
        with self._lock:
            self._dropped += count
            self._signal()

    def fail(self, fault: ServiceError) -> None:
        """Nothing more will come, from any thread."""
        with self._lock:
            self._fault = fault
            self._signal()

    def _signal(self) -> None:
        # One wake-up for all that is ready when the loop gets to it: a call across threads costs
        # more than handing over a judgement does.
        if self._signalled:
            return
        self._signalled = True
        try:
            self._loop.call_soon_threadsafe(self._wake.set)
        except RuntimeError:
            _log.debug("queue: the event loop has ended; nobody waits for this judgement")

    async def __aiter__(self) -> AsyncIterator[Sequence[Finished]]:
        while True:
            with self._lock:
                ready, self._ready = self._ready, []
                self._signalled = False
                more = not self._left and len(self._lacking) > self._dropped
                more = more and self._fault is None
            if ready:
                yield ready
            if not more:
                break
            await self._wake.wait()
            self._wake.clear()
        if self._lacking:
            raise self._fault or Stopping(_LEFT if self._left else STOPPING)

    def leave(self) -> None:
        """The client waits no longer. Idempotent."""
        with self._lock:
            if self._left:
                return
            self._left = True
            self._signal()
        self._leave(self)
