"""Judgements on their way from a worker's slots to Redis: gathered, and never given up."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread

from redis.exceptions import RedisError

from cupel_service.queue.ledger import Lease, Ledger

_log = logging.getLogger(__name__)

_GATHER_S = 0.5
_RETRY_S = 0.5


@dataclass(eq=False, slots=True)
class HeldJob:
    """A job that this process holds, from its lease to its last delivery.

    Args:
        lease: What is to be judged.
        lost: Set once somebody else has it, or nobody wants it any more.
    """

    lease: Lease
    lost: Event = field(default_factory=Event)
    _lock: Lock = field(default_factory=Lock)
    _judged: dict[int, str] = field(default_factory=dict)

    def add(self, index: int, judgement: str) -> bool:
        """Keeps a judgement (as JSON) until it is taken. Whether it is the first one."""
        with self._lock:
            self._judged[index] = judgement
            return len(self._judged) == 1

    def take(self) -> dict[int, str]:
        """The judgements that were added since they were last taken, by index."""
        with self._lock:
            found, self._judged = self._judged, {}
            return found


@dataclass(frozen=True, slots=True)
class _Parcel:
    held: HeldJob
    end: str = ""  # "done" or "released": nothing more comes of this job


class Delivery:
    """One thread that writes all judgements of a worker process to Redis.

    What a chunk has is written when the chunk is done, or half a second after its first judgement:
    a write costs five commands, however much is in it. While Redis is away everything is kept.

    Args:
        ledger: Where to.
        settled: Called with each job that is done, given back or lost.
        give_back: Called with the name of the next attempt at a job that was given back.
    """

    def __init__(
        self,
        ledger: Ledger,
        settled: Callable[[str], None],
        give_back: Callable[[str], None],
    ) -> None:
        self._ledger = ledger
        self._settled = settled
        self._give_back = give_back
        self._parcels: SimpleQueue[_Parcel | None] = SimpleQueue()
        self._given_up = Event()
        self._thread = Thread(target=self._run, name="delivery", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self, grace_s: float) -> None:
        """Writes what there is, for at most `grace_s` if Redis is away."""
        self._parcels.put(None)
        self._thread.join(grace_s)
        self._given_up.set()
        self._thread.join()

    def judged(self, held: HeldJob, index: int, judgement: str) -> None:
        """Takes a judgement; returns at once."""
        # Only the first one wakes the thread, which would take the slot's turn to run.
        if held.add(index, judgement):
            self._parcels.put(_Parcel(held))

    def done(self, held: HeldJob) -> None:
        """Says that all of a job was judged, or that it is lost."""
        self._parcels.put(_Parcel(held, end="done"))

    def release(self, held: HeldJob) -> None:
        """Gives a job back unfinished."""
        self._parcels.put(_Parcel(held, end="released"))

    def _run(self) -> None:
        gathered: dict[HeldJob, float] = {}  # with the time to write it
        going = True
        while going:
            try:
                parcel = self._parcels.get(timeout=_until(gathered.values()))
            except Empty:
                pass
            else:
                going = parcel is not None
                if parcel is not None:
                    self._take(parcel, gathered)
            now = time.monotonic()
            for held in [held for held, at in gathered.items() if at <= now or not going]:
                del gathered[held]
                self._persist(held, "")

    def _take(self, parcel: _Parcel, gathered: dict[HeldJob, float]) -> None:
        if parcel.end:
            gathered.pop(parcel.held, None)
            self._persist(parcel.held, parcel.end)
        else:
            gathered.setdefault(parcel.held, time.monotonic() + _GATHER_S)

    def _persist(self, held: HeldJob, end: str) -> None:
        warned = False
        judgements = held.take()
        while not self._given_up.is_set():
            try:
                self._write(held, judgements, end)
                return
            except RedisError as error:
                if not warned:
                    _log.warning("queue: judgements wait for Redis (%s)", type(error).__name__)
                warned = True
                self._given_up.wait(_RETRY_S)

    def _write(self, held: HeldJob, judgements: Mapping[int, str], end: str) -> None:
        job = held.lease.job
        if (judgements or end == "done") and not self._ledger.deliver(
            job, judgements, last=end == "done"
        ):
            held.lost.set()
        if end == "released" and not held.lost.is_set():
            successor = self._ledger.release(job)
            if successor is not None:
                self._give_back(successor)
        if end:
            self._settled(job)


def _until(times: Iterable[float]) -> float | None:
    first = min(times, default=None)
    return None if first is None else max(0.0, first - time.monotonic())
