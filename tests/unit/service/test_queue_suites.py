from __future__ import annotations

from threading import Event

import pytest

from cupel.schema import Problem, Submission, Testcase
from cupel_service.errors import StoreFailed
from cupel_service.queue.contract import Assignment
from cupel_service.queue.suites import SuiteFinder
from cupel_service.queue.tickets import Ticket, suites_from, ticket_of
from cupel_service.suite import Suite, prepare

PROBLEM = Problem(title="p", tests=(Testcase(name="t", input="1", output="1"),))
SUITE = prepare(PROBLEM)
NOW = Event()
NOW.set()  # so that nobody waits before the next try


def ticket(*, inline: bool) -> Ticket:
    submission = Submission(problem=PROBLEM if inline else "p", completion="")
    return ticket_of(Assignment(submission, "s", None if inline else "p", SUITE))


class Store:
    """Fails so many times, then finds everything."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.asked = 0

    def suite(self, problem_id: str) -> Suite:
        self.asked += 1
        if self.asked <= self.failures:
            raise StoreFailed("the store is away")
        return SUITE

    def problem(self, batch: str, digest: str) -> bytes | None:
        self.asked += 1
        return PROBLEM.model_dump_json().encode() if digest == SUITE.digest else None


def finder(store: Store) -> SuiteFinder:
    return SuiteFinder(suites_from(store.suite), store.problem)


def test_a_store_that_is_away_for_a_moment_is_asked_again() -> None:
    store = Store(failures=2)
    assert finder(store).assignment("b", ticket(inline=False), NOW).suite == SUITE


def test_a_store_that_stays_away_is_a_fault() -> None:
    store = Store(failures=99)
    with pytest.raises(StoreFailed, match="away"):
        finder(store).assignment("b", ticket(inline=False), NOW)
    assert store.asked == 3


def test_an_inline_problem_is_read_once_for_many_submissions() -> None:
    store = Store()
    suites = finder(store)
    for _ in range(10):
        assert suites.assignment("b", ticket(inline=True), NOW).suite == SUITE
    assert store.asked == 1
