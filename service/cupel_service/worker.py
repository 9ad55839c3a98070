"""`cupel worker`: judges what a cluster's queue holds, in the foreground, until told to stop."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer
from redis import RedisError

from cupel_service.boxes import Pool, make_pool
from cupel_service.capabilities import in_words, info_of_boxes
from cupel_service.command import (
    AllowDegradedOption,
    BoxOption,
    DataDirOption,
    QueueOption,
    SlotsOption,
    StoreOption,
    read_settings,
    refuse,
)
from cupel_service.errors import CannotServe, StoreFailed
from cupel_service.joining import (
    PROTOCOL_KEPT_S,
    claim_protocol,
    join_cluster,
    store_url,
)
from cupel_service.judging import start_judging
from cupel_service.program import Slot
from cupel_service.queue.consumer import Consumer
from cupel_service.queue.ledger import Ledger
from cupel_service.queue.redis_link import connect
from cupel_service.queue.roster import live_workers
from cupel_service.settings import Settings, shown_queue
from cupel_service.storage import StoreUnreachable, check_mark, open_storage
from cupel_service.suite_reader import SuiteReader

STORE_PATIENCE_S = 10.0
"""For how long a problem store that is not there yet is looked for."""

_log = logging.getLogger(__name__)

_CANNOT = "cannot work"
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_NOT_ALIVE = 1
_PAUSE_S = 0.5


def worker(
    queue: QueueOption = None,
    store: StoreOption = None,
    box: BoxOption = None,
    slots: SlotsOption = None,
    data_dir: DataDirOption = None,
    cache_dir: Annotated[
        Path | None, typer.Option(help="Folder of this machine's copy of test data.")
    ] = None,
    allow_degraded: AllowDegradedOption = None,
    name: Annotated[
        str | None, typer.Option(help="What logs call this worker; default: the host's name.")
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Only ask whether a worker of this name is alive; exit code 0 if so."
        ),
    ] = False,
) -> None:
    """Judge what a cluster's queue holds. Any number of workers may run, on any machines.

    What is not given here comes from CUPEL_* variables, else by default. SIGTERM lets what runs
    finish and gives the rest back to the queue; a second one does not wait.
    """
    settings = read_settings(
        {
            "queue": queue,
            "store": store,
            "box": box,
            "slots": slots,
            "data_dir": data_dir,
            "cache_dir": cache_dir,
            "allow_degraded": allow_degraded,
        },
        _CANNOT,
    )
    if settings.queue is None:
        refuse(
            _CANNOT,
            "no queue is named. Give --queue or CUPEL_QUEUE, for example redis://127.0.0.1:6379/0; "
            "without a cluster, `cupel serve` alone judges too",
        )
    name = name or socket.gethostname()
    if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        refuse(_CANNOT, "--name takes letters, digits, dots, hyphens and underscores")
    try:
        if check:
            raise typer.Exit(0 if is_alive(settings, settings.queue, name) else _NOT_ALIVE)
        asyncio.run(run_worker(settings, settings.queue, name))
    except CannotServe as error:
        refuse(_CANNOT, str(error))


def is_alive(settings: Settings, queue: str, name: str) -> bool:
    """Whether a worker of that name has told the cluster lately that it is alive.

    Args:
        settings: Which prefix the cluster has.
        queue: URL of Redis.
        name: As the worker was called, without what it added to be unique.

    Raises:
        CannotServe: Redis cannot be asked.
    """
    with connect(queue, text=True) as link:
        try:
            workers = live_workers(Ledger(link, settings.queue_prefix))
        except RedisError as error:
            raise CannotServe(
                f"Redis at {shown_queue(queue)} cannot be asked ({type(error).__name__})",
                "Check that it runs, and the address and password in CUPEL_QUEUE",
            ) from error
    return any(worker.name.rpartition("-")[0] == name for worker in workers)


async def run_worker(settings: Settings, queue: str, name: str, pool: Pool | None = None) -> None:
    """Works until a stop signal arrives; prints one line when it is ready.

    Args:
        settings: The worker's settings.
        queue: URL of Redis.
        name: What the cluster calls it; something unique is added.
        pool: Boxes to use instead of those that the settings choose.

    Raises:
        CannotServe: It cannot start here; says why and what to do.
    """
    stop, at_once = asyncio.Event(), asyncio.Event()
    with ExitStack() as stack:
        stack.enter_context(_signals(stop, at_once))
        await asyncio.to_thread(join_cluster, queue, settings.queue_prefix)
        suites = await asyncio.to_thread(_open_suites, settings)
        if stop.is_set():
            return
        pool = pool or make_pool(settings)
        stack.callback(pool.close)
        judging = start_judging(settings, pool)
        info = info_of_boxes(settings, pool)
        consumer = Consumer(
            queue,
            settings.queue_prefix,
            pool.slots,
            judging.judge,
            judging.judging_error,
            suites.suite_of,
            interrupt=pool.interrupt,
            lease_s=settings.lease_s,
            name=name,
            info=info.model_dump_json(),
        )
        if stop.is_set():
            return
        await asyncio.to_thread(consumer.start)
        sys.stdout.write(
            f"cupel: worker {consumer.name} ready ({in_words(info)}, queue {shown_queue(queue)})\n"
        )
        sys.stdout.flush()
        await _stay_claimed(settings, queue, stop)
        await _stop(consumer, settings.stop_grace_s, at_once)


def _open_suites(settings: Settings) -> SuiteReader:
    """The tests of registered problems: from the cluster's store, through this machine's disk."""
    storage = open_storage(store_url(settings))
    give_up_s = time.monotonic() + STORE_PATIENCE_S
    while True:
        try:
            check_mark(storage)
            break
        except StoreFailed as error:
            # An API that starts beside this worker may be about to make it.
            if not isinstance(error, StoreUnreachable) or time.monotonic() > give_up_s:
                raise CannotServe(
                    str(error), "Start the API first, or name the store with --store or CUPEL_STORE"
                ) from error
            _log.info("start: %s; looked for again", error)
        time.sleep(_PAUSE_S)
    return SuiteReader(
        storage,
        cache_dir=settings.cache_dir,
        cache_bytes=settings.cache_bytes,
        memory_bytes=settings.suite_cache_bytes,
    )


async def _stay_claimed(settings: Settings, queue: str, stop: asyncio.Event) -> None:
    """Waits for the stop, and keeps other versions of Cupel away meanwhile."""
    with connect(queue, text=True) as link:
        while True:
            try:
                async with asyncio.timeout(PROTOCOL_KEPT_S / 3):
                    await stop.wait()
                return
            except TimeoutError:
                try:
                    await asyncio.to_thread(claim_protocol, link, settings.queue_prefix)
                except RedisError:
                    _log.debug("Redis is away: the claim waits for it")
                except CannotServe as error:
                    _log.error("worker: %s", error)


async def _stop(consumer: Consumer[Slot], grace_s: float, at_once: asyncio.Event) -> None:
    """Lets what runs finish within its grace, or until a second signal."""
    _log.info("worker: told to stop: what runs has %g s to finish, the rest goes back", grace_s)
    stopping = asyncio.create_task(asyncio.to_thread(consumer.stop, grace_s))
    hurrying = asyncio.create_task(at_once.wait())
    await asyncio.wait({stopping, hurrying}, return_when=asyncio.FIRST_COMPLETED)
    hurrying.cancel()
    if not stopping.done():
        await asyncio.to_thread(consumer.interrupt)
    await stopping


@contextmanager
def _signals(stop: asyncio.Event, at_once: asyncio.Event) -> Iterator[None]:
    """The first stop signal sets `stop`, the second one `at_once`."""

    def note() -> None:
        (at_once if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for sig in _STOP_SIGNALS:
        loop.add_signal_handler(sig, note)
    try:
        yield
    finally:
        for sig in _STOP_SIGNALS:
            loop.remove_signal_handler(sig)
