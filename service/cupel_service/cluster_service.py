"""The API of a cluster: it admits and answers, and judges nothing itself."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from threading import Event, Thread

from pydantic import ValidationError
from redis import Redis, RedisError

from cupel.schema import Info
from cupel_service.boxes import SessionBoxes
from cupel_service.capabilities import in_words, info_of_workers
from cupel_service.errors import CannotServe
from cupel_service.joining import (
    PROTOCOL_KEPT_S,
    claim_protocol,
    join_cluster,
    store_url,
)
from cupel_service.queue.cluster import ClusterDispatcher
from cupel_service.queue.ledger import Ledger
from cupel_service.queue.redis_link import connect
from cupel_service.queue.roster import WorkerRecord, live_workers
from cupel_service.runtime import Runtime
from cupel_service.session_service import with_sessions
from cupel_service.settings import Settings, shown_queue
from cupel_service.store import shared_store

REFRESH_S = 2.0
"""How often the living workers are looked up."""

_log = logging.getLogger(__name__)


@asynccontextmanager
async def cluster_service(
    settings: Settings, queue: str, session_boxes: SessionBoxes | None
) -> AsyncIterator[Runtime]:
    """Starts the API of a cluster, and stops it at the end; what was accepted goes on without it.

    Args:
        settings: The service's settings.
        queue: URL of Redis.
        session_boxes: Boxes of sessions, not yet started; None for an API without sessions.

    Yields:
        The running service.

    Raises:
        CannotServe: It cannot start here; says why and what to do.
    """
    await asyncio.to_thread(join_cluster, queue, settings.queue_prefix)
    with ExitStack() as stack:
        store = stack.enter_context(shared_store(store_url(settings), settings.suite_cache_bytes))
        link = stack.enter_context(connect(queue, text=True))
        view = ClusterView(settings, link, shown_queue(queue))
        await asyncio.to_thread(view.refresh)
        dispatcher = ClusterDispatcher(
            queue,
            settings.queue_prefix,
            capacity=settings.queue_capacity,
            lease_s=settings.lease_s,
            abandoned_s=settings.abandoned_s,
            results_kept_s=settings.results_kept_s,
        )
        await dispatcher.start()
        stack.enter_context(_kept_fresh(view))
        try:
            runtime = Runtime(store, dispatcher, lambda: view.info, lambda: view.obstacle)
            async with with_sessions(runtime, settings, session_boxes) as complete:
                yield complete
        finally:
            await dispatcher.stop(settings.stop_grace_s)


class ClusterView:
    """What is known of a cluster's workers, looked up now and then; may be read at any time.

    Args:
        settings: The settings of the process that answers for the cluster.
        link: A connection to Redis of its own.
        shown: Redis' address, as people may see it.
    """

    def __init__(self, settings: Settings, link: Redis, shown: str) -> None:
        self._settings = settings
        self._ledger = Ledger(link, settings.queue_prefix)
        self._shown = shown
        self._claimed_s = time.monotonic()
        self.info: Info = info_of_workers(settings, [])
        self.obstacle = ""

    def refresh(self) -> None:
        """Looks the workers up; blocks for a round trip or two, and never raises.

        While Redis is away, the workers are taken to be as they were.
        """
        try:
            workers = live_workers(self._ledger)
            self._stay_claimed()
        except RedisError as error:
            self._note(
                f"Redis at {self._shown} cannot be reached ({type(error).__name__}): "
                "check that it runs; what was accepted is safe there"
            )
            return
        infos = [info for worker in workers if (info := _info_of(worker)) is not None]
        found = info_of_workers(self._settings, infos)
        if not infos:
            # Nobody knows which languages there will be: the last known ones, if any.
            found = found.model_copy(update={"toolchains": self.info.toolchains})
        if infos and (self.obstacle or found.workers != self.info.workers):
            _log.info("cluster: %s", in_words(found))
        self.info = found
        self._note(
            ""
            if infos
            else "no worker is alive: start one with "
            f"`cupel worker --queue {self._shown}`; what is sent waits for it"
        )

    def _note(self, obstacle: str) -> None:
        if obstacle and obstacle != self.obstacle:
            _log.warning("cluster: %s", obstacle)
        self.obstacle = obstacle

    def _stay_claimed(self) -> None:
        now_s = time.monotonic()
        if now_s - self._claimed_s < PROTOCOL_KEPT_S / 3:
            return
        self._claimed_s = now_s
        try:
            claim_protocol(self._ledger.client, self._settings.queue_prefix)
        except CannotServe as error:
            _log.error("cluster: %s", error)


@contextmanager
def _kept_fresh(view: ClusterView) -> Iterator[None]:
    stopping = Event()

    def watch() -> None:
        while not stopping.wait(REFRESH_S):
            view.refresh()

    watching = Thread(target=watch, name="cluster-view", daemon=True)
    watching.start()
    try:
        yield
    finally:
        stopping.set()
        watching.join()  # it uses a connection that is about to be closed


def _info_of(worker: WorkerRecord) -> Info | None:
    try:
        return Info.model_validate_json(worker.info)
    except ValidationError:
        _log.debug("cluster: worker %s does not say what it is", worker.name)
        return None
