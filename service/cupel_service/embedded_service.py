"""The whole service in one process: its boxes, store and queue, from start to stop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

from cupel_service.boxes import Pool, SessionBoxes
from cupel_service.capabilities import info_of_boxes
from cupel_service.data_folder import DataFolder
from cupel_service.errors import CannotServe, StoreFailed
from cupel_service.judging import start_judging
from cupel_service.queue.embedded import InProcessDispatcher
from cupel_service.queue.journal import Journal
from cupel_service.queue.tickets import suites_from
from cupel_service.runtime import Runtime
from cupel_service.session_service import with_sessions
from cupel_service.settings import Settings
from cupel_service.storage import LocalFolder
from cupel_service.store import ProblemStore


@asynccontextmanager
async def embedded_service(
    settings: Settings, pool: Pool, session_boxes: SessionBoxes | None
) -> AsyncIterator[Runtime]:
    """Starts a service that judges in this process, and stops it at the end.

    Args:
        settings: The service's settings.
        pool: Its boxes, not yet started.
        session_boxes: Those of sessions, likewise; None for a service without sessions.

    Yields:
        The running service.

    Raises:
        CannotServe: It cannot start here; says why and what to do.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(DataFolder(settings.data_dir))
        store = _open_store(folder, settings.suite_cache_bytes)
        stack.callback(pool.close)
        judging = start_judging(settings, pool)
        info = info_of_boxes(settings, pool)
        journal = Journal(folder.path / "queue.sqlite3")
        stack.callback(journal.close)
        dispatcher = InProcessDispatcher(
            pool.slots,
            judging.judge,
            judging.judging_error,
            capacity=settings.queue_capacity,
            interrupt=pool.interrupt,
            journal=journal,
            suite_of=suites_from(store.suite),
            abandoned_s=settings.abandoned_s,
            results_kept_s=settings.results_kept_s,
        )
        try:
            runtime = Runtime(store, dispatcher, lambda: info, lambda: "")
            async with with_sessions(runtime, settings, session_boxes) as complete:
                yield complete
        finally:
            await dispatcher.stop(settings.stop_grace_s)


def _open_store(folder: DataFolder, cache_bytes: int) -> ProblemStore:
    try:
        return ProblemStore(LocalFolder(folder.path), cache_bytes)
    except StoreFailed as error:
        raise CannotServe(
            str(error), "Or choose another folder with --data-dir or CUPEL_DATA_DIR"
        ) from error
