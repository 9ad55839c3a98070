"""The embedded queue's file: whole or absent, in order, and never the reason that judging waits."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from fake_boxes import echo_problem

from cupel.schema import FailureClass, Judgement, Problem, Submission, Verdict
from cupel_service.data_folder import StoreFull
from cupel_service.errors import CannotServe, StoreFailed
from cupel_service.queue.contract import Admission, Assignment
from cupel_service.queue.journal import Journal, Recorded
from cupel_service.suite import prepare

REGISTERED = prepare(Problem.model_validate(echo_problem()))
INLINE = Problem.model_validate(echo_problem(title="inline"))


def admission(
    *names: str, key: str = "k", inline: bool = False, urgent: bool = False, text: str = "echo"
) -> Admission:
    submission = Submission(problem=INLINE if inline else "p", completion=text)
    suite = prepare(INLINE) if inline else REGISTERED
    problem_id = None if inline else "p"
    assignments = [Assignment(submission, name, problem_id, suite) for name in names]
    return Admission(assignments, key, f"digest of {key}", urgent)


def judgement(name: str, message: str = "") -> Judgement:
    return Judgement(
        id=name,
        language=None,
        verdict=Verdict.AC,
        failure_class=FailureClass.NONE,
        complete=True,
        coverage=1,
        tiers=1,
        tests_per_tier=(1,),
        cpu_s=0,
        wall_s=0,
        memory_bytes=0,
        message=message,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.sqlite3"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    opened = Journal(path)
    yield opened
    opened.close()


def admit(journal: Journal, what: Admission) -> int:
    number = journal.new_number()
    journal.admit(number, what).result(60)
    return number


def batches(path: Path) -> list[Recorded]:
    """What the next service finds."""
    journal = Journal(path)
    try:
        return journal.batches().result(60)
    finally:
        journal.close()


def rows(path: Path, table: str) -> int:
    with sqlite3.connect(path) as connection:
        (count,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608
    connection.close()
    return int(count)


def test_the_next_service_finds_what_was_admitted(journal: Journal, path: Path) -> None:
    admit(journal, admission("a", "b"))
    admit(journal, admission("c", key="other", urgent=True))
    journal.close()
    first, second = batches(path)
    assert (first.key, first.digest, first.urgent, first.size) == ("k", "digest of k", False, 2)
    assert [ticket.submission_id for ticket in first.tickets.values()] == ["a", "b"]
    assert first.tickets[0].assignment(REGISTERED) == admission("a").assignments[0]
    assert (second.key, second.urgent, second.finished) == ("other", True, None)


def test_a_judgement_takes_the_place_of_its_ticket_once(journal: Journal, path: Path) -> None:
    number = admit(journal, admission("a", "b"))
    journal.finish(number, 1, judgement("b")).result(60)
    journal.finish(number, 1, judgement("b", "late")).result(60)
    (saved,) = journal.judgements(number).result(60)
    assert (saved[0], Judgement.model_validate_json(saved[1])) == (1, judgement("b"))
    journal.close()
    (found,) = batches(path)
    assert list(found.tickets) == [0]
    assert found.finished is None


def test_a_batch_is_finished_with_its_last_judgement(journal: Journal, path: Path) -> None:
    number = admit(journal, admission("a", "b"))
    for place, name in enumerate("ab"):
        journal.finish(number, place, judgement(name)).result(60)
    journal.close()
    (found,) = batches(path)
    assert found.finished is not None
    assert not found.tickets


def test_an_inline_problem_is_kept_once_and_while_a_ticket_needs_it(
    journal: Journal, path: Path
) -> None:
    first = admit(journal, admission("a", "b", inline=True))
    second = admit(journal, admission("c", key="other", inline=True))
    digest = prepare(INLINE).digest
    body = journal.problem(digest).result(60)
    assert body is not None
    assert Problem.model_validate_json(body) == INLINE
    assert rows(path, "problem") == 1
    journal.finish(first, 0, judgement("a"))
    journal.finish(first, 1, judgement("b"))
    assert journal.problem(digest).result(60) is not None
    journal.forget([second]).result(60)
    assert journal.problem(digest).result(60) is None


def test_one_problem_may_be_inline_and_registered_in_one_batch(journal: Journal) -> None:
    suite = prepare(INLINE)
    both = [
        Assignment(Submission(problem=INLINE, completion=""), "a", None, suite),
        Assignment(Submission(problem="p", completion=""), "b", "p", suite),
    ]
    admit(journal, Admission(both, "k", "d"))
    assert journal.problem(suite.digest).result(60) is not None


def test_what_is_forgotten_leaves_nothing(journal: Journal, path: Path) -> None:
    number = admit(journal, admission("a", "b", inline=True))
    journal.finish(number, 0, judgement("a"))
    journal.forget([number])
    journal.finish(number, 1, judgement("b")).result(60)  # too late
    tables = ("batch", "ticket", "judgement", "problem", "problem_use")
    assert [rows(path, table) for table in tables] == [0] * 5
    admit(journal, admission("a"))  # the key is free again


def test_a_bunch_that_fails_takes_no_neighbour_along(journal: Journal, path: Path) -> None:
    held = threading.Event()
    released = threading.Event()

    def hold(_: Future[None]) -> None:  # in the writing thread, so that the rest gathers
        held.set()
        assert released.wait(60)

    journal.forget(()).add_done_callback(hold)
    assert held.wait(60)
    good = journal.admit(journal.new_number(), admission("a"))
    bad = journal.admit(journal.new_number(), admission("b"))  # a key that is taken
    last = journal.admit(journal.new_number(), admission("c", key="last"))
    released.set()
    good.result(60)
    last.result(60)
    with pytest.raises(StoreFailed, match="cannot be written"):
        bad.result(60)
    journal.close()
    assert [found.key for found in batches(path)] == ["k", "last"]


def test_a_full_disk_refuses_a_batch_whole_and_says_so(journal: Journal, path: Path) -> None:
    # As a full disk does it, for a test that has none of its own to fill.
    journal._soon(lambda connection: connection.execute("PRAGMA max_page_count = 40").close())
    with pytest.raises(StoreFull, match="no room"):
        admit(journal, admission("a", "b", text="x" * 300_000))
    number = admit(journal, admission("a"))
    journal.finish(number, 0, judgement("a")).result(60)
    assert rows(path, "ticket") == 0


def test_it_is_full_beyond_its_bound_until_something_is_forgotten(path: Path) -> None:
    journal = Journal(path, bytes_max=100_000)
    number = admit(journal, admission("a", text="x" * 200_000))
    assert journal.is_full
    journal.forget([number]).result(60)
    assert not journal.is_full
    journal.close()


def test_it_grows_no_further_than_what_it_holds_at_one_time(path: Path) -> None:
    journal = Journal(path)
    for turn in range(30):
        number = admit(journal, admission("a", key=str(turn), text="x" * 200_000))
        journal.finish(number, 0, judgement("a", "y" * 1000))
        journal.forget([number]).result(60)
    journal.close()
    assert path.stat().st_size < 1_000_000


def test_after_its_end_nothing_is_written_and_nobody_waits(journal: Journal, path: Path) -> None:
    journal.close()
    journal.close()
    with pytest.raises(StoreFailed, match="shut"):
        admit(journal, admission("a"))
    assert batches(path) == []


def test_only_its_own_user_can_read_it(journal: Journal, path: Path) -> None:
    admit(journal, admission("a"))
    assert {each.stat().st_mode & 0o777 for each in path.parent.iterdir()} == {0o600}


@pytest.mark.parametrize("content", [b"not a database" * 1000, None])
def test_a_file_that_is_no_journal_is_refused_with_a_remedy(
    path: Path, content: bytes | None
) -> None:
    if content is None:  # a later version's
        Journal(path).close()
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version = 99")
        connection.close()
    else:
        path.write_bytes(content)
    with pytest.raises(CannotServe, match="Move it away"):
        Journal(path)


def test_a_batch_that_cannot_be_read_is_as_if_it_had_never_come(
    journal: Journal, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    admit(journal, admission("a"))
    admit(journal, admission("b", key="other"))
    journal.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE ticket SET body = '{\"secret\": 1}' WHERE batch = 1")
    connection.close()
    assert [found.key for found in batches(path)] == ["other"]
    assert "is forgotten" in caplog.text
    assert "secret" not in caplog.text
    assert rows(path, "batch") == 1


_KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from test_journal import admission, admit, judgement
from cupel_service.queue.journal import Journal
journal = Journal(Path({path!r}))
number = admit(journal, admission("a", "b", "c", inline=True))
journal.finish(number, 1, judgement("b")).result(60)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_reported_outlives_kill_dash_nine(path: Path) -> None:
    program = _KILLED.format(folder=str(Path(__file__).parent), path=str(path))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", program], timeout=60, env=environment)
    assert ended.returncode == -signal.SIGKILL
    journal = Journal(path)
    (found,) = journal.batches().result(60)
    assert [ticket.submission_id for ticket in found.tickets.values()] == ["a", "c"]
    assert [place for place, _ in journal.judgements(found.number).result(60)] == [1]
    assert journal.problem(found.tickets[0].digest).result(60) is not None
    journal.close()
