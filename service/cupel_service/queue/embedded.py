"""From an admitted request to the slots that judge it, and back.

Admission counts submissions, all of a request or none, so a full service says so at once instead of
letting a queue grow. Urgent requests go first; else requests take turns, one submission each, so
that a small one is not stuck behind a large one; within a request submissions start in order. Each
slot has one thread, because judging is waiting for its box; finished judgements travel to the event
loop in bunches.

A request with a key is written to the journal before its admission is answered, and each of its
judgements before any client sees it. The next service on the same journal judges what has no
judgement yet. Memory holds of such a batch what is still to be judged and who it is; judgements
are read from the journal for clients that come later.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from threading import Condition, Event, Thread

from cupel.schema import Judgement
from cupel_service.errors import CannotServe, QueueFull, ServiceError, Stopping, StoreFailed
from cupel_service.faults import frames_of
from cupel_service.program import Slot
from cupel_service.queue.contract import (
    Admission,
    Assignment,
    Batch,
    Finished,
    KeyReused,
    RequestExceedsQueue,
)
from cupel_service.queue.journal import Journal
from cupel_service.queue.local_batch import STOPPING, LocalBatch, Record, View
from cupel_service.queue.resumption import Resumption
from cupel_service.queue.tickets import SuiteOf, Ticket

_log = logging.getLogger(__name__)

_INTERRUPTED_WAIT_S = 5.0


class InProcessDispatcher:
    """A bounded queue in this process, and one judging thread per slot.

    Args:
        slots: The boxes; each is used by one thread only.
        judge: Judges one assignment in a slot. It may block for long.
        judging_error: Makes the JE judgement of an assignment whose judging raised an exception.
        capacity: Submissions that may wait or run at one time. What a service before this one left
            counts, too.
        interrupt: Kills what runs in every slot, so that `judge` comes back soon.
        journal: Where requests with a key are written down; the caller closes it after the stop.
        suite_of: Finds the tests of what a service before this one left.
        abandoned_s: How long unfinished work with a key waits for its client, in seconds.
        results_kept_s: How long its judgements can be asked for again once all are made.

    Raises:
        CannotServe: The journal cannot be read.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        judge: Callable[[Assignment, Slot], Judgement],
        judging_error: Callable[[Assignment], Judgement],
        capacity: int,
        interrupt: Callable[[], None],
        *,
        journal: Journal,
        suite_of: SuiteOf,
        abandoned_s: float = 60.0,
        results_kept_s: float = 600.0,
    ) -> None:
        self._judge = judge
        self._judging_error = judging_error
        self._capacity = capacity
        self._interrupt = interrupt
        self._journal = journal
        self._resumption = Resumption(journal, suite_of)
        self._abandoned_s = abandoned_s
        self._results_kept_s = results_kept_s
        self._changed = Condition()
        self._urgent: deque[LocalBatch] = deque()
        self._ordinary: deque[LocalBatch] = deque()
        self._keyed: dict[str, LocalBatch] = {}
        self._running: list[LocalBatch] = []  # one entry for each submission in a slot
        self._admitted = 0
        self._stopping = False
        self._interrupted = False
        self._finished_at: deque[float] = deque(maxlen=256)
        self._resume()
        # Daemons: a thread that never comes back must not keep a stopped service alive.
        self._threads = [
            Thread(target=self._work, args=(slot,), name=f"judge-{number}", daemon=True)
            for number, slot in enumerate(slots)
        ]
        self._tidy_period_s = max(0.05, min(5.0, abandoned_s / 4, results_kept_s / 4))
        self._tidying_ends = Event()
        for thread in (*self._threads, Thread(target=self._tidy, name="queue-tidy", daemon=True)):
            thread.start()

    @property
    def stopping(self) -> bool:
        """Whether nothing is admitted any more."""
        return self._stopping

    async def attach(self, key: str, digest: str) -> Batch | None:
        """Finds what was admitted under a key; to be called on the event loop."""
        with self._changed:
            batch = self._keyed.get(key)
            if batch is None or batch.record is None:
                return None
            if batch.record.digest != digest:
                raise KeyReused
            if self._stopping and batch.finished_at is None:
                raise Stopping(STOPPING)
            view = batch.attach(self._left)
        try:
            # Not cancelled with this client: the one that brings the batch waits for it, too.
            await asyncio.shield(asyncio.wrap_future(batch.record.written))
            # Attached first and read then: nothing falls between, and the view ignores doubles.
            saved = await asyncio.wrap_future(self._journal.judgements(batch.record.number))
            view.recall(await asyncio.to_thread(_read_judgements, saved))
        except BaseException:
            view.leave()
            raise
        if batch.forgotten:  # its time ended in this moment
            view.leave()
            return None
        return view

    async def submit(self, admission: Admission) -> Batch:
        """Admits all of a request's submissions or none; to be called on the event loop."""
        if len(admission.assignments) > self._capacity:
            raise RequestExceedsQueue(len(admission.assignments), self._capacity)
        if admission.key is None:
            with self._changed:
                self._check_room(len(admission.assignments))
                return self._queue(_batch_of(admission, None))
        while (known := await self.attach(admission.key, admission.digest)) is None:
            admitted = await self._submit_keyed(admission, admission.key)
            if admitted is not None:
                return admitted
        return known

    async def _submit_keyed(self, admission: Admission, key: str) -> View | None:
        """Admits under a key and returns when that is on disk; None if it is known by now."""
        with self._changed:
            if key in self._keyed:
                return None
            self._check_room(len(admission.assignments))
            if self._journal.is_full:
                again_s = math.ceil(self._tidy_period_s)
                raise QueueFull(
                    f"the journal of accepted work is full: send the request again in {again_s} s",
                    again_s,
                )
            number = self._journal.new_number()
            written = self._journal.admit(number, admission)
            batch = _batch_of(admission, Record(number, key, admission.digest, written))
            self._keyed[key] = batch
            # Judging may begin: the journal writes in order, so no judgement comes before this.
            view = self._queue(batch)
        try:
            await asyncio.shield(asyncio.wrap_future(written))
        except ServiceError:
            view.leave()
            with self._changed:
                self._forget(batch)
            raise
        except BaseException:
            view.leave()
            raise
        return view

    async def stop(self, grace_s: float) -> None:
        """Admits nothing more, drops what waits, and lets what runs finish for `grace_s`.

        What waits under a key stays in the journal.
        """
        with self._changed:
            self._stopping = True
            for batch in (*self._urgent, *self._ordinary):
                batch.drop(self._drop_waiting(batch))
            self._changed.notify_all()
        self._tidying_ends.set()
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

    def _resume(self) -> None:
        """Takes up what a service before this one accepted and did not finish."""
        try:
            found = self._journal.batches().result()
        except StoreFailed as error:
            raise CannotServe(str(error), "Or move it away: its clients send it again") from error
        for each in found:
            written: Future[None] = Future()
            written.set_result(None)
            batch = LocalBatch(
                each.tickets,
                each.size,
                Record(each.number, each.key, each.digest, written),
                urgent=each.urgent,
                finished_at=each.finished,
            )
            self._keyed[each.key] = batch
            if each.tickets:
                self._admitted += len(each.tickets)
                self._lane(batch).append(batch)
        if self._admitted:
            _log.info("dispatcher: going on with %d submissions of before", self._admitted)

    def _ended_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _check_room(self, submissions: int) -> None:
        """Raises where nothing, or not so much, can be admitted now; under the lock."""
        if self._stopping:
            raise Stopping(STOPPING)
        excess = self._admitted + submissions - self._capacity
        if excess > 0:
            retry_after_s = self._time_to_finish_s(excess)
            raise QueueFull(
                f"the queue is full ({self._admitted} of {self._capacity} submissions): "
                f"send the request again in {retry_after_s} s",
                retry_after_s,
            )

    def _time_to_finish_s(self, submissions: int) -> int:
        """About how long `submissions` take at the recent rate, 1 to 60 s."""
        if len(self._finished_at) < 2:
            return 1
        took_s = time.monotonic() - self._finished_at[0]
        return min(60, max(1, math.ceil(submissions * took_s / len(self._finished_at))))

    def _queue(self, batch: LocalBatch) -> View:
        """Hands a batch to the slots; under the lock."""
        view = batch.attach(self._left)
        self._admitted += len(batch.waiting)
        if batch.waiting:
            self._lane(batch).append(batch)
        self._changed.notify(len(batch.waiting))
        return view

    def _lane(self, batch: LocalBatch) -> deque[LocalBatch]:
        return self._urgent if batch.urgent else self._ordinary

    def _left(self, batch: LocalBatch) -> None:
        """A client waits no longer for a batch."""
        if batch.record is None:
            with self._changed:
                self._drop_waiting(batch)

    def _drop_waiting(self, batch: LocalBatch) -> int:
        """Takes what waits of a batch out of the queue, and says how much; under the lock."""
        count = len(batch.waiting)
        if count:
            batch.waiting.clear()
            self._lane(batch).remove(batch)
            self._admitted -= count
        return count

    def _forget(self, batch: LocalBatch) -> None:
        """Drops a batch with a key, on disk too; under the lock."""
        record = batch.record
        if record is None or batch.forgotten:
            return
        batch.forgotten = True
        self._drop_waiting(batch)
        del self._keyed[record.key]
        self._journal.forget([record.number])

    def _tidy(self) -> None:
        """Forgets, from time to time, what nobody asked for long enough, and what is too much."""
        while not self._tidying_ends.wait(self._tidy_period_s):
            with self._changed:
                for batch in [each for each in self._keyed.values() if self._is_over(each)]:
                    self._forget(batch)
            while self._journal.is_full and self._forget_an_eighth():
                pass

    def _is_over(self, batch: LocalBatch) -> bool:
        if batch.finished_at is not None:
            return time.time() - batch.finished_at >= self._results_kept_s
        since = batch.unattended_since
        return since is not None and time.monotonic() - since >= self._abandoned_s

    def _forget_an_eighth(self) -> bool:
        """Forgets the oldest finished batches, and says whether there were any."""
        with self._changed:
            finished = [each for each in self._keyed.values() if each.finished_at is not None]
            for batch in finished[: math.ceil(len(finished) / 8)]:
                self._forget(batch)
        with suppress(StoreFailed):
            self._journal.forget(()).result()  # the journal writes in order: those are gone, too
        return bool(finished)

    def _work(self, slot: Slot) -> None:
        while (taken := self._take()) is not None:
            batch, index, work = taken
            judgement = self._judge_safely(work, slot)
            with self._changed:
                if batch not in self._running:
                    return  # given up: a stop did not wait for this thread any longer
                self._running.remove(batch)
                self._admitted -= 1
                self._finished_at.append(time.monotonic())
            if self._interrupted:
                batch.drop(1)  # whatever it says, it may come of the interruption
            else:
                self._deliver(batch, Finished(index, judgement))

    def _deliver(self, batch: LocalBatch, finished: Finished) -> None:
        if batch.record is None:
            batch.deliver(finished)
            return

        def deliver(written: Future[None]) -> None:
            saved = written.exception() is None
            if not saved:
                _log.error("submission %s: its judgement is not on disk", finished.judgement.id)
            batch.deliver(finished, saved=saved)

        number = batch.record.number
        self._journal.finish(number, finished.index, finished.judgement).add_done_callback(deliver)

    def _take(self) -> tuple[LocalBatch, int, Assignment | Ticket] | None:
        with self._changed:
            while not (lane := self._urgent or self._ordinary):
                if self._stopping:
                    return None
                self._changed.wait()
            batch = lane.popleft()
            index, work = batch.take()
            if batch.waiting:
                lane.append(batch)
            self._running.append(batch)
            return batch, index, work

    def _judge_safely(self, work: Assignment | Ticket, slot: Slot) -> Judgement:
        try:
            if isinstance(work, Assignment):
                return self._judge(work, slot)
            return self._judge(self._resumption.assignment(work), slot)
        except Exception as error:  # noqa: BLE001 (a slot outlives any fault; this one becomes JE)
            # Not the message: it may quote a program or a test.
            _log.error(
                "submission %s: judging raised %s at %s",
                work.submission_id,
                type(error).__name__,
                frames_of(error),
            )
            if isinstance(work, Assignment):
                return self._judging_error(work)
            judgement = self._judging_error(work.assignment_without_tests())
            if not isinstance(error, StoreFailed):
                return judgement
            return judgement.model_copy(update={"message": f"judging error: {error}"})


def _batch_of(admission: Admission, record: Record | None) -> LocalBatch:
    works = dict(enumerate(admission.assignments))
    return LocalBatch(works, len(works), record, urgent=admission.urgent)


def _read_judgements(saved: Sequence[tuple[int, str]]) -> list[Finished]:
    return [Finished(index, Judgement.model_validate_json(body)) for index, body in saved]
