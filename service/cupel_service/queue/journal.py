"""Accepted work on disk, so that a killed service goes on where it was: SQLite in one file.

Only batches with a key are here; without one nobody could ask for the judgements of a service that
died. A batch is written whole, its tickets and (by digest, once) its inline problems, before its
admission is answered; a judgement takes its ticket's place before any client sees it. So what a
client was told is never judged again, and what it was not told is judged again or was on disk.

One thread writes. While it commits, further writes gather, and the next commit takes all of them:
slots never wait for the disk. A failure of one is that one's alone.

Write-ahead log, `synchronous=NORMAL`: every commit is with the kernel before it is reported, so
kill -9 loses nothing. A power failure may take the last commits, since the log is synced at
checkpoints only (every 4 MiB or so): a batch admitted last is then unknown, and is judged anew
when its client shows the key again; judgements written last are made once more. The file stays
whole either way.

The file keeps the size of what it held at most; `bytes_max` bounds that, but for one request.
"""

from __future__ import annotations

import itertools
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Generic, TypeVar

from pydantic import ValidationError

from cupel.schema import MEBIBYTE, Judgement
from cupel_service.data_folder import StoreFull
from cupel_service.errors import CannotServe, ServiceError, StoreFailed
from cupel_service.queue.contract import Admission
from cupel_service.queue.tickets import Ticket, inline_problem, ticket_of

_log = logging.getLogger(__name__)

BYTES_MAX = 2048 * MEBIBYTE
"""Beyond so many bytes nothing is admitted, and finished batches go before their time."""

_VERSION = 1
_BUNCH_MAX = 1000
_WAL_BYTES_KEPT = 64 * MEBIBYTE

_SCHEMA = f"""
BEGIN;
CREATE TABLE batch (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, digest TEXT NOT NULL,
    urgent INTEGER NOT NULL, size INTEGER NOT NULL, created REAL NOT NULL,
    finished REAL  -- when its last ticket went; null before
);
CREATE TABLE ticket (
    batch INTEGER NOT NULL REFERENCES batch ON DELETE CASCADE,
    place INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (batch, place)
);
CREATE TABLE judgement (
    batch INTEGER NOT NULL REFERENCES batch ON DELETE CASCADE,
    place INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (batch, place)
);
CREATE TABLE problem (digest TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE problem_use (  -- by batches that have tickets left
    digest TEXT NOT NULL, batch INTEGER NOT NULL REFERENCES batch ON DELETE CASCADE,
    PRIMARY KEY (digest, batch)
) WITHOUT ROWID;
CREATE INDEX problem_use_of_batch ON problem_use (batch);
PRAGMA user_version = {_VERSION};
COMMIT;
"""

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Recorded:
    """A batch as the last service left it.

    Args:
        number: Its number in the journal.
        key: The client's key.
        digest: Of the request that the key stands for.
        urgent: Whether it goes before others.
        size: How many submissions it has.
        finished: When the last one was judged, in seconds of the epoch; None if some are not.
        tickets: Those that have no judgement yet, by their place in the request.
    """

    number: int
    key: str
    digest: str
    urgent: bool
    size: int
    finished: float | None
    tickets: dict[int, Ticket]


@dataclass(frozen=True, slots=True)
class _Task(Generic[_Value]):
    work: Callable[[sqlite3.Connection], _Value]
    done: Future[_Value]

    def run(self, connection: sqlite3.Connection) -> Callable[[], None]:
        """Does the work now; what is returned reports it."""
        value = self.work(connection)
        return lambda: self.done.set_result(value)


class Journal:
    """The file, and the thread that writes it. Every method but `close` returns at once.

    Args:
        path: The file; its folder must exist and belong to this process alone.
        bytes_max: When it counts as full.

    Raises:
        CannotServe: It cannot be read or written, or is of another version.
    """

    def __init__(self, path: Path, bytes_max: int = BYTES_MAX) -> None:
        self._path = path
        self._bytes_max = bytes_max
        self._lock = Lock()
        self._closed = False
        self._tasks: SimpleQueue[_Task[object] | None] = SimpleQueue()
        try:
            self._connection = _connect(path)
            self._used_bytes = _used_bytes(self._connection)
            (last,) = self._connection.execute("SELECT coalesce(max(id), 0) FROM batch").fetchone()
        except (sqlite3.Error, OSError) as error:
            raise _unusable(path, str(error)) from error
        self._numbers = itertools.count(int(last) + 1)
        self._thread = Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()

    @property
    def is_full(self) -> bool:
        """Whether it holds more than it should."""
        return self._used_bytes > self._bytes_max

    def new_number(self) -> int:
        """A number for a batch, which no other has or had since the start."""
        return next(self._numbers)

    def batches(self) -> Future[list[Recorded]]:
        """All batches that it holds, in the order of their admission."""
        return self._soon(_read_batches)

    def admit(self, record: int, admission: Admission) -> Future[None]:
        """Writes a batch with a key; it is there, whole, when the future has its result.

        Raises:
            StoreFull: (The future:) no room on the disk; nothing of it was written.
            StoreFailed: (The future:) the disk refused for another reason; likewise.
        """
        return self._soon(lambda connection: _admit(connection, record, admission))

    def finish(self, record: int, place: int, judgement: Judgement) -> Future[None]:
        """Writes a judgement in its ticket's place; nothing if the batch is forgotten."""
        return self._soon(lambda connection: _finish(connection, record, place, judgement))

    def judgements(self, record: int) -> Future[list[tuple[int, str]]]:
        """The judgements of a batch as JSON, with their places, in the order of finishing."""
        return self._soon(
            lambda connection: connection.execute(
                "SELECT place, body FROM judgement WHERE batch = ? ORDER BY rowid", (record,)
            ).fetchall()
        )

    def problem(self, digest: str) -> Future[bytes | None]:
        """An inline problem as JSON, while a ticket needs it."""
        return self._soon(lambda connection: _read_problem(connection, digest))

    def forget(self, records: Iterable[int]) -> Future[None]:
        """Removes batches, with all that is known of them."""
        numbers = [(record,) for record in records]
        return self._soon(lambda connection: _forget(connection, numbers))

    def close(self) -> None:
        """Writes what was handed over, and nothing that comes later. Idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._tasks.put(None)
        self._thread.join()

    def _soon(self, work: Callable[[sqlite3.Connection], _Value]) -> Future[_Value]:
        task = _Task(work, Future[_Value]())
        with self._lock:
            if self._closed:
                task.done.set_exception(StoreFailed("the service is stopping: its journal is shut"))
            else:
                self._tasks.put(task)  # type: ignore[arg-type]  # the queue never looks at values
        return task.done

    def _write(self) -> None:
        open_ = True
        while open_:
            bunch, open_ = self._bunch()
            self._commit([task for task in bunch if task.done.set_running_or_notify_cancel()])
        self._connection.close()

    def _bunch(self) -> tuple[list[_Task[object]], bool]:
        """What waits, at least one, and whether more may come."""
        bunch: list[_Task[object]] = []
        task = self._tasks.get()
        while task is not None:
            bunch.append(task)
            if len(bunch) == _BUNCH_MAX:
                break
            try:
                task = self._tasks.get_nowait()
            except Empty:
                break
        return bunch, task is not None

    def _commit(self, tasks: Sequence[_Task[object]]) -> None:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            reports = [task.run(connection) for task in tasks]
            connection.execute("COMMIT")
            self._used_bytes = _used_bytes(connection)
        except Exception as error:  # noqa: BLE001 (whoever waits is told, and this thread lives on)
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            if len(tasks) == 1:
                tasks[0].done.set_exception(_failed(self._path, error))
            else:
                for task in tasks:
                    self._commit([task])
            return
        for report in reports:
            report()


def _connect(path: Path) -> sqlite3.Connection:
    path.touch(mode=0o600)  # it holds programs and hidden tests
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES_KEPT}")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0:
        connection.executescript(_SCHEMA)
    elif version != _VERSION:
        connection.close()
        raise _unusable(path, f"it is of version {version}, and this service reads {_VERSION}")
    return connection


def _used_bytes(connection: sqlite3.Connection) -> int:
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    return int((pages - free) * page_bytes)


def _admit(connection: sqlite3.Connection, record: int, admission: Admission) -> None:
    assignments = admission.assignments
    connection.execute(
        "INSERT INTO batch (id, key, digest, urgent, size, created) VALUES (?, ?, ?, ?, ?, ?)",
        (
            record,
            admission.key,
            admission.digest,
            admission.urgent,
            len(assignments),
            time.time(),
        ),
    )
    connection.executemany(
        "INSERT INTO ticket (batch, place, body) VALUES (?, ?, ?)",
        (
            (record, place, ticket_of(assignment).model_dump_json())
            for place, assignment in enumerate(assignments)
        ),
    )
    problems = {
        each.suite.digest: problem for each in assignments if (problem := inline_problem(each))
    }
    for digest, problem in problems.items():
        if not connection.execute("SELECT 1 FROM problem WHERE digest = ?", (digest,)).fetchone():
            body = problem.model_dump_json()
            connection.execute("INSERT INTO problem (digest, body) VALUES (?, ?)", (digest, body))
        connection.execute(
            "INSERT INTO problem_use (digest, batch) VALUES (?, ?)", (digest, record)
        )


def _finish(connection: sqlite3.Connection, record: int, place: int, judgement: Judgement) -> None:
    taken = connection.execute(
        "DELETE FROM ticket WHERE batch = ? AND place = ?", (record, place)
    ).rowcount
    if not taken:
        return
    connection.execute(
        "INSERT INTO judgement (batch, place, body) VALUES (?, ?, ?)",
        (record, place, judgement.model_dump_json()),
    )
    if connection.execute("SELECT 1 FROM ticket WHERE batch = ? LIMIT 1", (record,)).fetchone():
        return
    connection.execute("UPDATE batch SET finished = ? WHERE id = ?", (time.time(), record))
    connection.execute("DELETE FROM problem_use WHERE batch = ?", (record,))
    _remove_unused_problems(connection)


def _forget(connection: sqlite3.Connection, numbers: Sequence[tuple[int]]) -> None:
    connection.executemany("DELETE FROM batch WHERE id = ?", numbers)
    _remove_unused_problems(connection)


def _remove_unused_problems(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM problem WHERE digest NOT IN (SELECT digest FROM problem_use)")


def _read_problem(connection: sqlite3.Connection, digest: str) -> bytes | None:
    found = connection.execute("SELECT body FROM problem WHERE digest = ?", (digest,)).fetchone()
    return found[0].encode() if found else None


def _read_batches(connection: sqlite3.Connection) -> list[Recorded]:
    found = []
    for record, key, digest, urgent, size, finished in connection.execute(
        "SELECT id, key, digest, urgent, size, finished FROM batch ORDER BY id"
    ).fetchall():
        rows = connection.execute(
            "SELECT place, body FROM ticket WHERE batch = ? ORDER BY place", (record,)
        )
        try:
            tickets = {place: Ticket.model_validate_json(body) for place, body in rows}
        except ValidationError:
            # As if it had never come: its client shows the key again, with the whole request.
            _log.error("journal: batch %d is of another version, and is forgotten", record)
            _forget(connection, [(record,)])
            continue
        found.append(Recorded(record, key, digest, bool(urgent), size, finished, tickets))
    return found


def _failed(path: Path, error: Exception) -> ServiceError:
    if isinstance(error, ServiceError):
        return error
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
        return StoreFull(
            f"no room left for {path}; nothing was taken. "
            "Free space there, or move the data folder with CUPEL_DATA_DIR, and send it again"
        )
    _log.error("journal: %s failed: %s", path, type(error).__name__)
    return StoreFailed(
        f"{path} cannot be written ({type(error).__name__}); nothing was taken. "
        "Check its owner, its permissions and the disk"
    )


def _unusable(path: Path, why: str) -> CannotServe:
    return CannotServe(
        f"the journal {path} cannot be used ({why})",
        "Move it away: what it holds is accepted work, which its clients then have to send again",
    )
