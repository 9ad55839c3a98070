"""The queue of a cluster, as the contract's tests have it: one API process with slots behind it.

Each opening has a user of its own in Redis. A kill takes that user away, with its connections: from
then on its threads can do nothing that a dead process could not.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from queue_stage import PATIENCE_S, FakeJudge, FakeProcess, FakeSlot, judging_error, suite_of

from cupel_service.queue.cluster import ClusterDispatcher
from cupel_service.queue.consumer import Consumer
from cupel_service.queue.contract import Dispatcher
from cupel_service.queue.jobs import ChunkQueue
from cupel_service.queue.ledger import Ledger
from redis_stage import RedisServer

LEASE_S = 1.0
ATTACHED_S = 2.0


@dataclass(frozen=True)
class _Process:
    user: str
    judge: FakeProcess
    consumer: Consumer[FakeSlot]


class ClusterQueue:
    """The queue of a cluster with one API process and one worker process.

    Args:
        server: Its Redis.
        prefix: First part of its keys.
    """

    def __init__(self, server: RedisServer, prefix: str) -> None:
        self.judge = FakeJudge()
        self._server = server
        self._prefix = prefix
        self._processes: dict[int, _Process] = {}

    @asynccontextmanager
    async def opened(
        self,
        *,
        slots: int = 1,
        capacity: int = 1000,
        abandoned_s: float = 60.0,
        results_kept_s: float = 600.0,
    ) -> AsyncIterator[Dispatcher]:
        user = uuid.uuid4().hex
        url = self._server.admit(user)
        judge = self.judge.process()
        consumer = Consumer(
            url,
            self._prefix,
            [FakeSlot() for _ in range(slots)],
            judge,
            judging_error,
            suite_of,
            interrupt=judge.bury,
            lease_s=LEASE_S,
            name="worker",
        )
        dispatcher = ClusterDispatcher(
            url,
            self._prefix,
            capacity=capacity,
            lease_s=LEASE_S,
            abandoned_s=abandoned_s,
            results_kept_s=results_kept_s,
            attached_s=ATTACHED_S,
        )
        self._processes[id(dispatcher)] = _Process(user, judge, consumer)
        consumer.start()
        await dispatcher.start()
        try:
            yield dispatcher
        finally:
            self.judge.gate.set()
            if judge.dead.is_set():
                judge.bury()
            await dispatcher.stop(PATIENCE_S)
            await asyncio.to_thread(consumer.stop, PATIENCE_S)

    async def kill(self, dispatcher: Dispatcher) -> None:
        process = self._processes[id(dispatcher)]
        process.judge.kill()
        self._server.cut_off(process.user)
        # What the rest of a cluster would do: it notices after a while that both are dead.
        await asyncio.sleep(max(ATTACHED_S, LEASE_S))
        with self._server.connected() as text, self._server.connected(text=False) as raw:
            ledger = Ledger(text, self._prefix)
            ledger.expire()
            ledger.take_over()
            ChunkQueue(raw, self._prefix).push(ledger.claim(LEASE_S), at_front=True)
