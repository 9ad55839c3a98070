"""A worker process: slots that take chunks from RQ's queue and judge them.

Threads: two for each slot (an RQ worker that takes jobs, and one that judges them), one that
delivers judgements, one that says that this process lives, and one that looks for what dead
processes left. A slot judges one submission after another and never waits for Redis while it has
some; a job that was taken away is dropped as soon as the next delivery or heartbeat says so.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Event, Lock, Semaphore, Thread
from typing import Generic, TypeVar

from redis.exceptions import RedisError

from cupel.schema import Judgement
from cupel_service.errors import StoreFailed
from cupel_service.faults import frames_of
from cupel_service.queue.company import Company
from cupel_service.queue.contract import Assignment
from cupel_service.queue.delivery import Delivery, HeldJob
from cupel_service.queue.jobs import ChunkQueue, SlotWorker
from cupel_service.queue.ledger import Lease, Ledger
from cupel_service.queue.redis_link import connect
from cupel_service.queue.roster import WorkerRecord
from cupel_service.queue.suites import SuiteFinder
from cupel_service.queue.takeover import Contact, Takeover
from cupel_service.queue.tickets import SuiteOf, Ticket

_log = logging.getLogger(__name__)

_SlotT = TypeVar("_SlotT")

_RETRY_S = 0.5
_INTERRUPTED_WAIT_S = 5.0
_DELIVERY_WAIT_S = 2.0  # if Redis is away; others take over what it does not get
_RECORD_LEASES = 3.0
_PACE_WEIGHT = 0.1
_BRIEF_S = 0.1  # where judging takes no longer, the next job is fetched during the last submission
_DEQUEUE_COMMAND_S = 4.0  # RQ waits one second for a job


class Consumer(Generic[_SlotT]):
    """Judges what a cluster's queue holds, in this process' slots.

    Args:
        redis_url: Where the queue is.
        prefix: First part of every key.
        slots: The boxes; each is used by one thread only.
        judge: Judges one assignment in a slot. It may block for long.
        judging_error: Makes the JE judgement of an assignment that could not be judged.
        suite_of: Finds the tests of a submission; asked again when it raises StoreFailed.
        interrupt: Kills what runs in every slot, so that `judge` comes back soon.
        lease_s: After so much silence this process counts as dead.
        name: What the log and the roster call this process; something unique is added to it.
        info: What it runs on, as JSON, for the API.
    """

    def __init__(
        self,
        redis_url: str,
        prefix: str,
        slots: Sequence[_SlotT],
        judge: Callable[[Assignment, _SlotT], Judgement],
        judging_error: Callable[[Assignment], Judgement],
        suite_of: SuiteOf,
        *,
        interrupt: Callable[[], None],
        lease_s: float,
        name: str,
        info: str = "",
    ) -> None:
        self.name = f"{name}-{uuid.uuid4().hex[:8]}"
        self._slots = slots
        self._judge = judge
        self._judging_error = judging_error
        self._interrupt = interrupt
        self._lease_s = lease_s
        self._info = info
        self._ledger = Ledger(connect(redis_url, text=True), prefix)
        self._jobs_client = connect(redis_url, text=False, command_s=_DEQUEUE_COMMAND_S)
        self._queue = ChunkQueue(self._jobs_client, prefix)
        self._suites = SuiteFinder(suite_of, self._problem_of)
        self._company = Company()
        self._delivery = Delivery(self._ledger, self._let_go, self._enqueue_again)
        self._contact = Contact(gap_s=lease_s / 2)
        self._takeover = Takeover(self._ledger, self._queue, self._contact, lease_s)
        self._lock = Lock()
        self._held: dict[str, HeldJob] = {}
        self._pace_s = 0.0
        self._stopping = Event()
        self._interrupted = Event()
        self._ended = Event()
        # Daemons: a thread that never comes back must not keep a stopped worker alive.
        self._slot_threads = [
            Thread(target=self._work, args=(number, slot), name=f"slot-{number}", daemon=True)
            for number, slot in enumerate(slots)
        ]
        self._watch_threads = [
            Thread(target=self._stay_alive, name="heartbeat", daemon=True),
            Thread(target=self._look_around, name="takeover", daemon=True),
        ]

    def start(self) -> None:
        """Begins to take work.

        Redis need not be there yet.
        """
        self._delivery.start()
        for thread in (*self._watch_threads, *self._slot_threads):
            thread.start()

    def stop(self, grace_s: float) -> None:
        """Takes no more work, lets each slot finish its submission, and gives the rest back.

        Args:
            grace_s: How long a slot may take; then it is interrupted, and its submission is judged
                elsewhere.
        """
        self._stopping.set()
        if not self._slots_end_within(grace_s):
            _log.warning("queue: interrupting what still runs after %g s", grace_s)
            self.interrupt()
            if not self._slots_end_within(_INTERRUPTED_WAIT_S):
                _log.error("queue: a slot did not come back; another worker takes its work over")
        self._delivery.stop(_DELIVERY_WAIT_S)
        self._ended.set()
        for thread in self._watch_threads:
            thread.join()
        try:
            self._ledger.client.delete(self._ledger.key("worker", self.name))
        except RedisError:
            _log.debug("queue: this worker's record stays until it expires")
        self._ledger.client.close()
        self._jobs_client.close()

    def interrupt(self) -> None:
        """Ends at once what runs; other workers judge it."""
        self._stopping.set()
        self._interrupted.set()
        self._interrupt()

    def _slots_end_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        for thread in self._slot_threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._slot_threads)

    # --- a slot -------------------------------------------------------------------------------

    def _work(self, number: int, slot: _SlotT) -> None:
        """Takes jobs, one at a time, and has another thread do them."""
        taken: SimpleQueue[HeldJob | None] = SimpleQueue()
        wanted = Semaphore(0)
        judging = Thread(
            target=self._judge_jobs,
            args=(slot, taken, wanted),
            name=f"judge-{number}",
            daemon=True,
        )
        judging.start()

        def run(job: str) -> None:
            lease = self._take_lease(job, f"{self.name}.{number}")
            if lease is not None:
                held = HeldJob(lease)
                with self._lock:
                    self._held[job] = held
                taken.put(held)
                wanted.acquire()

        while not self._stopping.is_set():
            # A name of its own each time: after an outage RQ may still know the last one.
            name = f"{self.name}-{number}-{uuid.uuid4().hex[:8]}"
            try:
                SlotWorker(self._queue.queue, name, run, self._stopping).work(logging_level=None)
            except RedisError as error:
                _log.info("queue: slot %d waits for Redis (%s)", number, type(error).__name__)
                self._stopping.wait(_RETRY_S)
        taken.put(None)
        judging.join()

    def _judge_jobs(
        self, slot: _SlotT, taken: SimpleQueue[HeldJob | None], wanted: Semaphore
    ) -> None:
        while (held := taken.get()) is not None:
            want_next = _Once(wanted.release)
            try:
                self._judge_job(held, slot, want_next)
            except Exception as error:  # noqa: BLE001 (a slot must live on)
                job = held.lease.job
                _log.error(
                    "queue: job %s raised %s at %s", job, type(error).__name__, frames_of(error)
                )
                self._let_go(job)  # its lease runs out, and others try it
            want_next()

    def _judge_job(self, held: HeldJob, slot: _SlotT, want_next: Callable[[], None]) -> None:
        with self._place(held) as is_mine:
            finished = is_mine and self._judge_all(held, slot, want_next)
        if finished or held.lost.is_set():
            self._delivery.done(held)
        else:
            self._delivery.release(held)

    def _take_lease(self, job: str, holder: str) -> Lease | None:
        while True:
            try:
                return self._ledger.lease(job, holder, self._lease_s)
            except RedisError as error:
                _log.info("queue: job %s waits for Redis (%s)", job, type(error).__name__)
                if self._stopping.wait(_RETRY_S):
                    return None  # it is stranded, and others find it

    @contextmanager
    def _place(self, held: HeldJob) -> Iterator[bool]:
        """Nobody beside a job that runs alone; what else there is shares, ticket by ticket."""
        if not held.lease.alone or held.lease.poison:
            yield True
            return
        with self._company.alone():
            yield self._may_begin(held)

    def _may_begin(self, held: HeldJob) -> bool:
        while not self._stopping.is_set() and not held.lost.is_set():
            try:
                if self._ledger.begin(held.lease.job):
                    return True
                held.lost.set()
            except RedisError as error:
                _log.info("queue: job %s waits (%s)", held.lease.job, type(error).__name__)
                self._stopping.wait(_RETRY_S)
        return False

    def _judge_all(self, held: HeldJob, slot: _SlotT, want_next: Callable[[], None]) -> bool:
        """Judges a job's submissions. False if it stopped before the last of them."""
        left = len(held.lease.tickets)
        for index, text in held.lease.tickets.items():
            if self._stopping.is_set() or held.lost.is_set():
                return False
            left -= 1
            if left == 0 and 0 < self._pace_s < _BRIEF_S:
                want_next()
            ticket = Ticket.model_validate_json(text)
            if held.lease.poison:
                judgement: Judgement | None = self._hopeless(ticket)
            elif held.lease.alone:
                judgement = self._judge_one(held.lease.batch, ticket, slot)
            else:
                with self._company.shared():
                    judgement = self._judge_one(held.lease.batch, ticket, slot)
            if judgement is None or self._interrupted.is_set():
                return False
            self._delivery.judged(held, index, judgement.model_dump_json())
        return True

    def _hopeless(self, ticket: Ticket) -> Judgement:
        return self._judging_error(ticket.assignment_without_tests())

    def _judge_one(self, batch: str, ticket: Ticket, slot: _SlotT) -> Judgement | None:
        """Judges a submission. None if its tests were still looked for when a stop came."""
        try:
            assignment = self._suites.assignment(batch, ticket, self._stopping)
        except StoreFailed as error:
            if self._stopping.is_set():
                return None
            _log.error("submission %s: its tests cannot be had: %s", ticket.submission_id, error)
            return self._hopeless(ticket)
        started_at = time.monotonic()
        try:
            return self._judge(assignment, slot)
        except Exception as error:  # noqa: BLE001 (whatever it is, the submission is judged: JE)
            # Not the message: it may quote a program or a test.
            _log.error(
                "submission %s: judging raised %s at %s",
                ticket.submission_id,
                type(error).__name__,
                frames_of(error),
            )
            return self._judging_error(assignment)
        finally:
            self._note_pace(time.monotonic() - started_at)

    def _note_pace(self, took_s: float) -> None:
        with self._lock:
            last_s = self._pace_s or took_s
            self._pace_s = last_s + _PACE_WEIGHT * (took_s - last_s)

    def _problem_of(self, batch: str, digest: str) -> bytes | None:
        while True:
            try:
                return self._ledger.problem(batch, digest)
            except RedisError:
                if self._stopping.wait(_RETRY_S):
                    return None

    # --- beside the slots ---------------------------------------------------------------------

    def _let_go(self, job: str) -> None:
        with self._lock:
            self._held.pop(job, None)

    def _enqueue_again(self, job: str) -> None:
        self._queue.push([job], at_front=True)

    def _stay_alive(self) -> None:
        interval_s = min(1.0, self._lease_s / 4)
        warned = False
        while True:
            try:
                self._say_alive()
                if warned:
                    _log.warning("queue: Redis answers again")
                warned = False
            except RedisError as error:
                self._contact.lost()
                if not warned:
                    _log.warning("queue: Redis does not answer (%s)", type(error).__name__)
                warned = True
            if self._ended.wait(interval_s):
                return

    def _say_alive(self) -> None:
        asked_at = time.monotonic()
        with self._lock:
            held = dict(self._held)
            record = WorkerRecord(self.name, len(self._slots), self._pace_s, self._info)
        lost = self._ledger.renew(
            self.name, record.to_json(), _RECORD_LEASES * self._lease_s, self._lease_s, held
        )
        self._contact.made(asked_at)
        for job in lost:
            held[job].lost.set()

    def _look_around(self) -> None:
        interval_s = max(0.05, self._lease_s / 4)
        while not self._ended.wait(interval_s):
            self._takeover.look_or_warn()


class _Once:
    """Calls a function at the first call only."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function: Callable[[], None] | None = function

    def __call__(self) -> None:
        function, self._function = self._function, None
        if function is not None:
            function()
