"""How the embedded queue finds the tests of what a service before it had accepted."""

from __future__ import annotations

from functools import lru_cache

from cupel_service.queue.contract import Assignment
from cupel_service.queue.journal import Journal
from cupel_service.queue.tickets import SuiteOf, Ticket
from cupel_service.suite import Suite

_INLINE_SUITES_KEPT = 8


class Resumption:
    """Makes assignments of tickets. Thread-safe.

    Args:
        journal: Holds the inline problems of its tickets.
        suite_of: Finds or prepares a suite.
    """

    def __init__(self, journal: Journal, suite_of: SuiteOf) -> None:
        self._journal = journal
        self._suite_of = suite_of
        # Slots take turns among batches, so the few that are under way come again and again.
        self._inline_suite = lru_cache(maxsize=_INLINE_SUITES_KEPT)(self._prepare)

    def assignment(self, ticket: Ticket) -> Assignment:
        """The assignment that the ticket was written from.

        Raises:
            StoreFailed: Its tests cannot be had any more; says why.
        """
        if ticket.problem_id is None:
            return ticket.assignment(self._inline_suite(ticket.digest))
        return ticket.assignment(self._suite_of(ticket.digest, ticket.problem_id, None))

    def _prepare(self, digest: str) -> Suite:
        return self._suite_of(digest, None, self._journal.problem(digest).result())
