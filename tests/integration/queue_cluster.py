"""A cluster for fault tests: its own Redis, API ends in this process, workers that may die."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from queue_worker import SUITE

from cupel.schema import Judgement, Submission
from cupel_service.queue.cluster import ClusterDispatcher
from cupel_service.queue.contract import Admission, Assignment, Batch
from cupel_service.queue.ledger import Ledger
from cupel_service.queue.roster import live_workers
from redis_stage import RedisServer, redis_server

PATIENCE_S = 60.0
LEASE_S = 2.0
WORKER = Path(__file__).with_name("queue_worker.py")


@dataclass
class Worker:
    """A worker process that is started again when it dies, as an operator's supervisor would."""

    command: Sequence[str]
    process: subprocess.Popen[bytes]
    deaths: int = 0


@dataclass
class Cluster:
    """One Redis, and worker processes.

    Args:
        redis: The server.
        log: What the workers' judges write.
        prefix: First part of every key.
    """

    redis: RedisServer
    log: Path
    prefix: str = field(default_factory=lambda: f"test-{uuid.uuid4().hex}")
    workers: list[Worker] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)

    def add_worker(self, slots: int = 1) -> Worker:
        command = [sys.executable, str(WORKER), self.redis.url, self.prefix]
        command += [str(slots), str(LEASE_S), str(self.log)]
        worker = Worker(command, subprocess.Popen(command))
        self.workers.append(worker)
        return worker

    def supervise(self) -> None:
        while not self._ended.wait(0.05):
            for worker in self.workers:
                if worker.process.poll() is not None:
                    worker.deaths += 1
                    worker.process = subprocess.Popen(worker.command)

    @contextmanager
    def supervised(self) -> Iterator[None]:
        supervisor = threading.Thread(target=self.supervise)
        supervisor.start()
        try:
            yield
        finally:
            self._ended.set()
            supervisor.join()
            for worker in self.workers:
                worker.process.kill()
                worker.process.wait()

    def dispatcher(self, **settings: float) -> ClusterDispatcher:
        return ClusterDispatcher(
            self.redis.url,
            self.prefix,
            capacity=int(settings.get("capacity", 10_000)),
            lease_s=LEASE_S,
            abandoned_s=settings.get("abandoned_s", 60.0),
            results_kept_s=settings.get("results_kept_s", 60.0),
        )

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        with self.redis.connected() as connection:
            yield Ledger(connection, self.prefix)

    def events(self, what: str) -> Counter[str]:
        """How often each submission's judging has begun, or ended."""
        return Counter(name for _, event, name in self._lines() if event == what)

    def _lines(self) -> list[tuple[str, str, str]]:
        if not self.log.exists():
            return []
        lines = [line.split() for line in self.log.read_text().splitlines()]
        return [(pid, event, name) for pid, event, name in lines]

    async def has_workers(self, count: int) -> None:
        with self.ledger() as ledger:
            await eventually(lambda: len(live_workers(ledger)) >= count)


@contextmanager
def cluster(folder: Path, workers: int = 1, slots: int = 1) -> Iterator[Cluster]:
    """A cluster with supervised workers."""
    with redis_server(folder / "redis") as redis:
        found = Cluster(redis, folder / "judged.log")
        for _ in range(workers):
            found.add_worker(slots)
        with found.supervised():
            yield found


@asynccontextmanager
async def api(cluster: Cluster, count: int = 1) -> AsyncIterator[list[ClusterDispatcher]]:
    """API ends of a cluster."""
    async with AsyncExitStack() as stack:
        dispatchers = []
        for _ in range(count):
            dispatcher = cluster.dispatcher()
            await dispatcher.start()
            stack.push_async_callback(dispatcher.stop, 0)
            dispatchers.append(dispatcher)
        yield dispatchers


def admission(*names: str, key: str | None = "k") -> Admission:
    submission = Submission(problem="p", completion="")
    return Admission([Assignment(submission, name, "p", SUITE) for name in names], key, "d")


def names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


async def judgements(batch: Batch, within_s: float = PATIENCE_S) -> list[Judgement]:
    """All of a batch, each exactly once, in the order of the request."""
    found: dict[int, Judgement] = {}
    async with asyncio.timeout(within_s):
        async for bunch in batch:
            for finished in bunch:
                assert finished.index not in found
                found[finished.index] = finished.judgement
    assert sorted(found) == list(range(len(found)))
    return [found[index] for index in sorted(found)]


async def eventually(holds: Callable[[], bool], within_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + within_s
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
