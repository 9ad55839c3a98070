"""RQ's side of the queue: jobs that name a chunk, and a worker that lives in a thread.

RQ moves jobs (its queue, its LMOVE into the intermediate queue, its workers' registration); what is
accepted, leased and judged is in the ledger. So a job carries nothing but its name, and of RQ's 57
commands for an empty job 4 are left: no started registry, no execution, no result.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from threading import Event

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, SimpleWorker
from rq.exceptions import DequeueTimeout
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.utils import now
from rq.worker_registration import clean_worker_registry

_log = logging.getLogger(__name__)

_FUNCTION = "cupel_service.queue.consumer.Consumer"
_DEQUEUE_S = 1
_RETRY_S = 0.5
_HEARTBEAT_S = 30.0
_SLICE = 64


class ChunkQueue:
    """The one queue that all slots of a cluster listen to; with several RQ would not use LMOVE.

    Args:
        client: A connection that answers bytes.
        prefix: First part of every key of the ledger, and the queue's name.
    """

    def __init__(self, client: Redis, prefix: str) -> None:
        self.client = client
        self.queue = Queue(prefix, connection=client, serializer=JSONSerializer)
        self._due = f"{prefix}:due"

    def push(self, jobs: Iterable[str], *, at_front: bool, wake: str = "") -> None:
        """Puts jobs into the queue; one that is there already does no harm.

        Args:
            jobs: Their names, in the order in which they should run.
            at_front: Before all that waits.
            wake: A stream to write an entry to in the same step.
        """
        names = list(jobs)
        # The first of many are taken up while RQ still makes the others (0.2 ms each). Front-most
        # ones come last, so there it would be the wrong ones.
        slice_ = len(names) if at_front else _SLICE
        for first in range(0, max(1, len(names)), max(1, slice_)):
            self._push(names[first : first + slice_], at_front, wake if first == 0 else "")

    def _push(self, names: Sequence[str], at_front: bool, wake: str) -> None:
        with self.client.pipeline() as pipeline:
            if names:
                self.queue.enqueue_many(
                    [
                        Queue.prepare_data(
                            _FUNCTION, job_id=name, timeout=-1, result_ttl=0, at_front=at_front
                        )
                        for name in (reversed(names) if at_front else names)
                    ],
                    pipeline=pipeline,
                )
                pipeline.zrem(self._due, *names)
            if wake:
                pipeline.xadd(wake, {"wake": "1"}, maxlen=1, approximate=False)
                pipeline.expire(wake, 3600)
            pipeline.execute()


class ChunkJob(Job):
    """A job as a worker takes it: its name says all, and reading the rest would take 1 ms."""

    def refresh(self) -> None:
        """Reads nothing."""


class SlotWorker(SimpleWorker):
    """RQ's worker in a thread of a process that has several: no signals, no alarms, no forks.

    Args:
        queue: What it listens to.
        name: Its name in RQ, of which there must be one only.
        run: Does a job, by its name; it raises nothing.
        stopping: Set when nothing more should be taken.
    """

    def __init__(
        self, queue: Queue, name: str, run: Callable[[str], None], stopping: Event
    ) -> None:
        super().__init__([queue], name=name, connection=queue.connection, serializer=JSONSerializer)
        self._run = run
        self._stopping = stopping

    def bootstrap(self, *_: object, **__: object) -> None:
        """Registers, without RQ's log handlers and without its subscription to commands."""
        self.register_birth()  # type: ignore[no-untyped-call]  # RQ is typed in parts only

    def _install_signal_handlers(self) -> None:
        """None: only a process' main thread can have them, and `cupel worker` has its own."""

    def check_for_suspension(self, burst: bool) -> None:
        """Not: a worker is suspended by stopping it."""

    def run_maintenance_tasks(self) -> None:
        """Forgets RQ workers that died. What they left is the ledger's matter (takeover.py)."""
        clean_worker_registry(self.queues[0])
        self.last_cleaned_at = now()  # type: ignore[assignment]  # RQ infers None

    def heartbeat(self, timeout: int | None = None, pipeline: object = None) -> None:
        """Keeps the worker's registration alive: for `rq info` only, so seldom."""
        last = self.last_heartbeat
        if last is not None and (now() - last).total_seconds() < _HEARTBEAT_S:
            return
        try:
            super().heartbeat(timeout)
        except RedisError:
            _log.debug("queue: no heartbeat to RQ; its own lease is what counts")

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """Waits for a job, through outages of Redis too, until it is told to stop."""
        warned = False
        while not self._stopping.is_set():
            self.heartbeat()
            try:
                return Queue.dequeue_any(
                    self.queues,
                    _DEQUEUE_S,
                    connection=self.connection,
                    job_class=ChunkJob,
                    serializer=JSONSerializer,
                )
            except DequeueTimeout:
                continue
            except RedisError as error:
                if not warned:
                    _log.warning("queue: cannot take work from Redis (%s)", type(error).__name__)
                warned = True
                self._stopping.wait(_RETRY_S)
        return None

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Does the job in this thread."""
        self._run(job.id)
