"""From an admitted request to the slots that judge it, and back.

Admission counts submissions, all of a request or none, so a full service says so at once instead of
letting a queue grow. Requests take turns, one submission each, so that a small one is not stuck
behind a large one; within a request submissions start in order. Each slot has one thread, because
judging is waiting for its box; finished judgements travel to the event loop in bunches.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from threading import Condition, Lock, Thread

from cupel.schema import Judgement
from cupel_service.errors import QueueFull, Stopping
from cupel_service.faults import frames_of
from cupel_service.program import Slot
from cupel_service.queue.contract import (
    Admission,
    Assignment,
    Batch,
    Finished,
    RequestExceedsQueue,
)

_log = logging.getLogger(__name__)

_INTERRUPTED_WAIT_S = 5.0
_STOPPING = "the service is stopping: send what has no judgement again"


class _LocalBatch:
    """A batch in this process. `waiting` belongs to the dispatcher's lock, the rest to its own."""

    def __init__(self, assignments: Sequence[Assignment], cancel: Callable[[_LocalBatch], None]):
        self.assignments = assignments
        self.waiting = deque(range(len(assignments)))
        self._cancel = cancel
        self._loop = asyncio.get_running_loop()
        self._lock = Lock()
        self._ready: list[Finished] = []
        self._open = len(assignments)
        self._dropped = 0
        self._signalled = False
        self._wake = asyncio.Event()

    def deliver(self, index: int, judgement: Judgement) -> None:
        """Hands a judgement over, from any thread."""
        with self._lock:
            self._ready.append(Finished(index, judgement))
            self._open -= 1
            self._signal()

    def drop(self, count: int) -> None:
        """Gives submissions up, from any thread."""
        with self._lock:
            self._open -= count
            self._dropped += count
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
            _log.debug("dispatcher: the event loop has ended; nobody waits for this judgement")

    async def __aiter__(self) -> AsyncIterator[Sequence[Finished]]:
        still_open = True
        while still_open:
            await self._wake.wait()
            self._wake.clear()
            with self._lock:
                ready, self._ready = self._ready, []
                self._signalled = False
                still_open = self._open > 0
            if ready:
                yield ready
        if self._dropped:
            raise Stopping(_STOPPING)

    def leave(self) -> None:
        self._cancel(self)


class InProcessDispatcher:
    """A bounded queue in this process, and one judging thread per slot.

    Args:
        slots: The boxes; each is used by one thread only.
        judge: Judges one assignment in a slot. It may block for long.
        judging_error: Makes the JE judgement of an assignment whose judging raised an exception.
        capacity: Submissions that may wait or run at one time.
        interrupt: Kills what runs in every slot, so that `judge` comes back soon.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        judge: Callable[[Assignment, Slot], Judgement],
        judging_error: Callable[[Assignment], Judgement],
        capacity: int,
        interrupt: Callable[[], None],
    ) -> None:
        self._judge = judge
        self._judging_error = judging_error
        self._capacity = capacity
        self._interrupt = interrupt
        self._changed = Condition()
        self._batches: deque[_LocalBatch] = deque()
        self._running: list[_LocalBatch] = []  # one entry for each submission in a slot
        self._admitted = 0
        self._stopping = False
        self._interrupted = False
        self._finished_at: deque[float] = deque(maxlen=256)
        # Daemons: a thread that never comes back must not keep a stopped service alive.
        self._threads = [
            Thread(target=self._work, args=(slot,), name=f"judge-{number}", daemon=True)
            for number, slot in enumerate(slots)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def stopping(self) -> bool:
        """Whether nothing is admitted any more."""
        return self._stopping

    async def submit(self, admission: Admission) -> Batch:
        """Admits all of a request's submissions or none; to be called on the event loop."""
        assignments = admission.assignments
        if len(assignments) > self._capacity:
            raise RequestExceedsQueue(len(assignments), self._capacity)
        batch = _LocalBatch(assignments, self._withdraw)
        with self._changed:
            if self._stopping:
                raise Stopping(_STOPPING)
            excess = self._admitted + len(assignments) - self._capacity
            if excess > 0:
                retry_after_s = self._time_to_finish_s(excess)
                raise QueueFull(
                    f"the queue is full ({self._admitted} of {self._capacity} submissions): "
                    f"send the request again in {retry_after_s} s",
                    retry_after_s,
                )
            self._admitted += len(assignments)
            if batch.waiting:
                self._batches.append(batch)
            self._changed.notify(len(assignments))
        return batch

    async def stop(self, grace_s: float) -> None:
        """Admits nothing more, drops what waits, and lets what runs finish for `grace_s`."""
        with self._changed:
            self._stopping = True
            batches = list(self._batches)
            self._batches.clear()
            for batch in batches:
                batch.drop(self._forget_waiting(batch))
            self._changed.notify_all()
        if await asyncio.to_thread(self._ended_within, grace_s):
            return
        _log.warning("dispatcher: interrupting what still runs after %g s", grace_s)
        self.interrupt()
        if not await asyncio.to_thread(self._ended_within, _INTERRUPTED_WAIT_S):
            _log.error("dispatcher: a judging thread did not come back; leaving it behind")
            with self._changed:
                for batch in self._running:
                    batch.drop(1)  # whoever waits for it must not wait for ever
                self._running.clear()
            self._threads.clear()

    def interrupt(self) -> None:
        """Ends at once what runs; its submissions count as not judged."""
        self._interrupted = True
        self._interrupt()

    def _ended_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _time_to_finish_s(self, submissions: int) -> int:
        """About how long `submissions` take at the recent rate, 1 to 60 s."""
        if len(self._finished_at) < 2:
            return 1
        took_s = time.monotonic() - self._finished_at[0]
        return min(60, max(1, math.ceil(submissions * took_s / len(self._finished_at))))

    def _withdraw(self, batch: _LocalBatch) -> None:
        with self._changed:
            dropped = self._forget_waiting(batch)
            if dropped:
                self._batches.remove(batch)
                batch.drop(dropped)

    def _forget_waiting(self, batch: _LocalBatch) -> int:
        count = len(batch.waiting)
        batch.waiting.clear()
        self._admitted -= count
        return count

    def _work(self, slot: Slot) -> None:
        while (taken := self._take()) is not None:
            batch, index = taken
            judgement = self._judge_safely(batch.assignments[index], slot)
            with self._changed:
                if batch not in self._running:
                    return  # given up: a stop did not wait for this thread any longer
                self._running.remove(batch)
                self._admitted -= 1
                self._finished_at.append(time.monotonic())
            if self._interrupted:
                batch.drop(1)  # whatever it says, it may come of the interruption
            else:
                batch.deliver(index, judgement)

    def _take(self) -> tuple[_LocalBatch, int] | None:
        with self._changed:
            while not self._batches:
                if self._stopping:
                    return None
                self._changed.wait()
            batch = self._batches.popleft()
            index = batch.waiting.popleft()
            if batch.waiting:
                self._batches.append(batch)
            self._running.append(batch)
            return batch, index

    def _judge_safely(self, assignment: Assignment, slot: Slot) -> Judgement:
        try:
            return self._judge(assignment, slot)
        except Exception as error:  # noqa: BLE001 (a slot outlives any fault; this one becomes JE)
            # Not the message: it may quote a program or a test.
            _log.error(
                "submission %s: judging raised %s at %s",
                assignment.submission_id,
                type(error).__name__,
                frames_of(error),
            )
            return self._judging_error(assignment)
