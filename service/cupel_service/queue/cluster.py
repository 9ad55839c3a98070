"""The API's end of a cluster's queue: admits to Redis, and hands on what comes out of it.

Nothing here is needed to get accepted work judged: a batch with a key goes on when this process
dies, and any other API process can be asked for it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
import uuid
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event, Lock, Thread
from typing import Any, TypeVar

from redis.exceptions import RedisError

from cupel.schema import MEBIBYTE
from cupel_service.errors import QueueFull, Stopping
from cupel_service.queue.chunks import plan
from cupel_service.queue.contract import (
    Admission,
    Assignment,
    Batch,
    KeyReused,
    QueueUnreachable,
    RequestExceedsQueue,
)
from cupel_service.queue.jobs import ChunkQueue
from cupel_service.queue.ledger import Entry, Excess, Known, Ledger, Terms
from cupel_service.queue.local_batch import STOPPING, View
from cupel_service.queue.reader import BLOCK_S, Client, ResultReader
from cupel_service.queue.redis_link import COMMAND_S, connect
from cupel_service.queue.roster import live_workers
from cupel_service.queue.takeover import Contact
from cupel_service.queue.tickets import inline_problem, ticket_of

_log = logging.getLogger(__name__)

BYTES_MAX = 2048 * MEBIBYTE
"""Beyond so many bytes in Redis nothing is admitted, and finished batches go before their time."""

_THREADS = 8
_REFRESH_S = 1.0
_ATTACHED_S = 30.0
_PACE_S = 0.1  # before any worker has said how fast it is
_SLOTS = 4  # likewise
_RESULT_BYTES = 600  # of a judgement's JSON, and for each of its tests:
_TEST_BYTES = 150

_Value = TypeVar("_Value")
_BatchT = TypeVar("_BatchT", bound=Batch | None)


class ClusterDispatcher:
    """Admits to a queue in Redis, for workers anywhere.

    Redis' answers are waited for in threads: RQ has no other way, and so all of the ledger is
    written once. A thread of its own reads results, another says that this process lives.

    Args:
        redis_url: Where the queue is.
        prefix: First part of every key.
        capacity: Submissions that may wait or run at one time, in the whole cluster.
        lease_s: After so much silence a worker counts as dead.
        abandoned_s: A batch with a key and without a client is dropped after so long.
        results_kept_s: Finished judgements can be asked for again for so long.
        attached_s: After so much silence this process counts as dead, and its clients as gone.
        bytes_max: What all batches may take in Redis.
    """

    def __init__(
        self,
        redis_url: str,
        prefix: str,
        *,
        capacity: int,
        lease_s: float,
        abandoned_s: float,
        results_kept_s: float,
        attached_s: float = _ATTACHED_S,
        bytes_max: int = BYTES_MAX,
    ) -> None:
        self._api = uuid.uuid4().hex
        self._terms = Terms(
            capacity=capacity,
            bytes_max=bytes_max,
            kept_s=results_kept_s,
            due_s=max(2.0, 2 * lease_s),
            attached_s=attached_s,
            abandoned_s=abandoned_s,
        )
        self._clients = (
            connect(redis_url, text=True),
            connect(redis_url, text=False),
            connect(redis_url, text=True, command_s=BLOCK_S + COMMAND_S),
        )
        self._ledger = Ledger(self._clients[0], prefix)
        self._queue = ChunkQueue(self._clients[1], prefix)
        self._wake = self._ledger.key("wake", self._api)
        self._reader = ResultReader(self._clients[2], self._ledger, self._wake, self._part_from)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="queue")
        self._linking = Lock()
        self._contact = Contact(gap_s=3 * _REFRESH_S)
        self._slots = _SLOTS
        self._pace_s = _PACE_S
        self._entering: set[asyncio.Future[Any]] = set()  # of Batch, or of Batch | None
        self._incoming = 0  # submissions that are being admitted
        self._stopping = False
        self._stop_lock = asyncio.Lock()
        self._stopped = False
        self._ended = Event()
        self._heart = Thread(target=self._stay_attached, name="attached", daemon=True)

    async def start(self) -> None:
        """Starts the threads. Redis need not be there yet."""
        await asyncio.to_thread(self._refresh_or_warn)
        self._reader.start()
        self._heart.start()

    @property
    def stopping(self) -> bool:
        """Whether nothing is admitted any more."""
        return self._stopping

    async def attach(self, key: str, digest: str) -> Batch | None:
        """Finds what was admitted under a key; to be called on the event loop."""
        self._must_go_on()
        return await self._whole(self._attach(key, digest))

    async def submit(self, admission: Admission) -> Batch:
        """Admits all of a request's submissions or none; to be called on the event loop."""
        self._must_go_on()
        count = len(admission.assignments)
        if count > self._terms.capacity:
            raise RequestExceedsQueue(count, self._terms.capacity)
        return await self._whole(self._submit(admission))

    async def stop(self, grace_s: float) -> None:
        """Admits nothing more, and ends what clients wait for.

        What has not started is left to whoever shows its key again, or dropped if it has none; for
        what runs its clients wait `grace_s` longer. Workers go on in any case.
        """
        self._stopping = True
        async with self._stop_lock:
            if self._stopped:
                return
            self._stopped = True
            await asyncio.gather(*self._entering, return_exceptions=True)
            for batch in self._reader.batches():
                try:
                    waiting = await self._in_thread(partial(self._ledger.withdraw, batch))
                except QueueUnreachable:
                    self._reader.drop(batch)
                else:
                    self._reader.drop(batch, waiting)
            await asyncio.to_thread(self._reader.wait_until_idle, grace_s)
            self.interrupt()
            await asyncio.to_thread(self._end)

    def interrupt(self) -> None:
        """Ends at once what clients wait for; what has a key is judged nevertheless."""
        for batch in self._reader.batches():
            self._reader.drop(batch)

    def _end(self) -> None:
        self._ended.set()
        self._reader.end()
        self._launch((), urgent=False)
        self._reader.join()
        self._heart.join()
        self._threads.shutdown()
        for client in self._clients:
            client.close()

    async def _whole(self, coming: Coroutine[None, None, _BatchT]) -> _BatchT:
        """Waits for a batch; if that is cancelled, the batch comes nevertheless, and is left."""
        task = asyncio.ensure_future(coming)
        self._entering.add(task)
        task.add_done_callback(self._entering.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_leave)
            raise

    def _must_go_on(self) -> None:
        if self._stopping:
            raise Stopping(STOPPING)

    # --- admission, on the event loop ---------------------------------------------------------

    async def _attach(self, key: str, digest: str) -> Batch | None:
        known = await self._in_thread(lambda: self._find(key))
        return None if known is None else await self._opened(known, digest)

    async def _submit(self, admission: Admission) -> Batch:
        if not admission.assignments:
            return View(0, lambda view: None)
        count = len(admission.assignments)
        ahead = self._reader.lacking() + self._incoming
        self._incoming += count
        try:
            found = await self._in_thread(lambda: self._admit(admission, ahead))
        finally:
            self._incoming -= count
        if isinstance(found, Excess):
            raise self._full(found, count)
        jobs = () if isinstance(found, Known) else found.jobs()
        known = found if isinstance(found, Known) else found.as_known()
        return await self._opened(known, admission.digest, jobs, urgent=admission.urgent)

    async def _opened(
        self, known: Known, digest: str, jobs: Sequence[str] = (), *, urgent: bool = False
    ) -> Batch:
        batch = self._view_of(known, digest)
        # Now the reader has it, and is told to look; only then there can be results.
        await asyncio.get_running_loop().run_in_executor(
            self._threads, partial(self._launch, jobs, urgent=urgent)
        )
        return batch

    def _view_of(self, known: Known, digest: str) -> Batch:
        """The batch as its new client sees it; takes over the hold on it."""
        try:
            if known.digest != digest:
                raise KeyReused
            client: Client

            def leave(view: View) -> None:
                self._reader.remove(known.batch, client)

            client = Client(View(known.size, leave), set(range(known.size)))
            self._reader.add(known.batch, client)
        finally:
            self._reader.let_go(known.batch)
            if not self._reader.is_wanted(known.batch):
                self._part_from(known.batch)
        return client.view

    async def _in_thread(self, work: Callable[[], _Value]) -> _Value:
        if self._contact.is_lost():
            raise _unreachable(None)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except RedisError as error:
            raise _unreachable(error) from error

    def _full(self, excess: Excess, count: int) -> QueueFull:
        retry_after_s = 1
        if excess.unit == "submissions":
            wait_for = excess.used + count - self._terms.capacity
            retry_after_s = min(60, max(1, math.ceil(wait_for * self._pace_s / self._slots)))
        return QueueFull(
            f"the queue is full (it holds {excess.used} {excess.unit}): "
            f"send the request again in {retry_after_s} s",
            retry_after_s,
        )

    # --- in threads ---------------------------------------------------------------------------

    def _find(self, key: str) -> Known | None:
        with self._linking:
            known = self._ledger.attach(key, self._api, self._terms)
            if known is not None:
                self._reader.hold(known.batch)
        return known

    def _admit(self, admission: Admission, ahead: int) -> Entry | Known | Excess:
        entry = self._entry_of(admission, ahead)
        self._reader.hold(entry.batch)
        try:
            with self._linking:
                found = self._ledger.admit(entry, self._api, self._terms)
                if isinstance(found, Known):
                    self._reader.hold(found.batch)
        except RedisError:
            self._reader.let_go(entry.batch)
            raise
        if found is not None:
            self._reader.let_go(entry.batch)
            return found
        return entry

    def _entry_of(self, admission: Admission, ahead: int) -> Entry:
        tickets = [
            ticket_of(assignment).model_dump_json().encode() for assignment in admission.assignments
        ]
        problems = {
            assignment.suite.digest: problem
            for assignment in admission.assignments
            if (problem := inline_problem(assignment)) is not None
        }
        return Entry(
            batch=uuid.uuid4().hex,
            key=admission.key or "",
            digest=admission.digest,
            tickets=tickets,
            problems={
                digest: problem.model_dump_json().encode() for digest, problem in problems.items()
            },
            chunks=plan(len(tickets), self._slots, self._pace_s, ahead),
            result_bytes=sum(map(_result_bytes, admission.assignments)),
        )

    def _launch(self, jobs: Sequence[str], *, urgent: bool) -> None:
        """Enqueues what was admitted, and makes the reader look at once.

        If Redis goes away here, workers find the jobs due, and the reader looks in BLOCK_S.
        """
        try:
            self._queue.push(jobs, at_front=urgent, wake=self._wake)
        except RedisError as error:
            _log.warning("queue: Redis went away in an admission (%s)", type(error).__name__)

    def _part_from(self, batch: str) -> None:
        """Tells Redis, some time soon, that this process has no client for a batch any more."""
        try:
            self._threads.submit(self._detach, batch)
        except RuntimeError:
            _log.debug("queue: stopped; batch %s is let go in time", batch)

    def _detach(self, batch: str) -> None:
        with self._linking:
            if self._reader.is_wanted(batch) or self._contact.is_lost():
                return
            try:
                self._ledger.detach(batch, self._api, self._terms)
            except RedisError as error:
                _log.debug("queue: batch %s is let go in time (%s)", batch, type(error).__name__)

    def _stay_attached(self) -> None:
        while not self._ended.wait(_REFRESH_S):
            self._refresh_or_warn()

    def _refresh_or_warn(self) -> None:
        was_lost = self._contact.is_lost()
        try:
            self._refresh()
        except RedisError as error:
            self._contact.lost()
            if not was_lost:
                _log.warning("queue: Redis does not answer (%s)", type(error).__name__)
        else:
            if was_lost:
                _log.info("queue: Redis answers")

    def _refresh(self) -> None:
        asked_at = time.monotonic()
        batches = self._reader.batches()
        gone = self._ledger.attend(self._api, self._terms, batches) if batches else []
        workers = live_workers(self._ledger)
        self._contact.made(asked_at)
        for batch in gone:
            self._reader.fail(
                batch, QueueUnreachable("the queue has dropped this request: send it again", 1)
            )
        if workers:
            paces = [worker.pace_s for worker in workers if worker.pace_s > 0]
            self._slots = sum(worker.slots for worker in workers)
            self._pace_s = max(1e-4, sum(paces) / len(paces)) if paces else _PACE_S


def _leave(task: asyncio.Future[_BatchT]) -> None:
    if not task.cancelled() and task.exception() is None:
        batch = task.result()
        if batch is not None:
            batch.leave()


def _result_bytes(assignment: Assignment) -> int:
    return _RESULT_BYTES + _TEST_BYTES * len(assignment.suite.tests)


def _unreachable(error: RedisError | None) -> QueueUnreachable:
    why = f" ({type(error).__name__})" if error is not None else ""
    return QueueUnreachable(f"Redis does not answer{why}: send the request again in a while")
