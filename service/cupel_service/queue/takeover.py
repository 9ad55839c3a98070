"""Finding what dead processes left behind. Every worker process looks; several do no harm."""

from __future__ import annotations

import logging
import time
from threading import Lock

from redis.exceptions import RedisError

from cupel_service.queue.jobs import ChunkQueue
from cupel_service.queue.ledger import Ledger

_log = logging.getLogger(__name__)

_APIS_RETURN_S = 5.0  # after an outage, API processes say within so long what their clients want


class Contact:
    """Since when this process has been in unbroken contact with Redis.

    A lease runs out also while Redis is away, or while this process sleeps: then nobody is dead.
    So only who has been awake and in contact for a whole lease may say that others are.

    Args:
        gap_s: Contact that is older is broken.
    """

    def __init__(self, gap_s: float) -> None:
        self._gap_s = gap_s
        self._lock = Lock()
        self._since: float | None = None
        self._last = 0.0

    def made(self, asked_at: float) -> None:
        """Redis has answered. `asked_at` is when it was asked, by time.monotonic()."""
        now = time.monotonic()
        with self._lock:
            if self._since is None or now - min(self._last, asked_at) > self._gap_s:
                self._since = now
            self._last = now

    def lost(self) -> None:
        """Redis has not answered."""
        with self._lock:
            self._since = None

    def is_lost(self) -> bool:
        """Whether there is no contact now."""
        with self._lock:
            return self._since is None or time.monotonic() - self._last > self._gap_s

    def lasted_s(self) -> float:
        """For how long there has been contact; 0 if there is none now."""
        now = time.monotonic()
        with self._lock:
            if self._since is None or now - self._last > self._gap_s:
                return 0.0
            return self._last - self._since


class Takeover:
    """Looks for expired leases, stranded jobs, jobs that were never enqueued, and old batches.

    Args:
        ledger: What is accepted, and who works on it.
        queue: Where jobs are put, before all others: they have waited once already.
        contact: Of this process with Redis.
        lease_s: After so much silence a worker counts as dead.
    """

    def __init__(self, ledger: Ledger, queue: ChunkQueue, contact: Contact, lease_s: float) -> None:
        self._ledger = ledger
        self._queue = queue
        self._contact = contact
        self._lease_s = lease_s

    def look(self) -> None:
        """Looks once, unless another process is at it.

        Raises:
            redis.exceptions.RedisError: Redis does not answer.
        """
        if not self._is_my_turn():
            return
        # Beyond a lease: those who were cut off too must have had time to say that they live.
        if self._contact.lasted_s() >= 1.5 * self._lease_s:
            for line in self._ledger.take_over():
                _log.warning("queue: chunk %s", line)
            stranded = self._ledger.strand(self._lease_s)
            if stranded:
                _log.warning("queue: %d chunks were taken and never begun; queued again", stranded)
            nowhere = self._ledger.recover()
            if nowhere:
                _log.warning("queue: %d chunks were in no queue; queued again", nowhere)
        if self._contact.lasted_s() >= max(1.5 * self._lease_s, _APIS_RETURN_S):
            for batch in self._ledger.expire():
                _log.info("queue: nobody waits for batch %s any more; dropped", batch)
        jobs = self._ledger.claim(max(2.0, self._lease_s))
        if jobs:
            self._queue.push(jobs, at_front=True)

    def look_or_warn(self) -> None:
        """Looks once; an outage of Redis is left to whoever watches the contact."""
        try:
            self.look()
        except RedisError as error:
            _log.debug("queue: cannot look for lost work (%s)", type(error).__name__)

    def _is_my_turn(self) -> bool:
        turn_ms = max(50, int(self._lease_s * 1000 / 4))
        key = f"{self._ledger.prefix}:mending"
        return bool(self._ledger.client.set(key, "1", nx=True, px=turn_ms))
