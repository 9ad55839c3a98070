"""The tests of what a worker judges, found once for many submissions."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from threading import Event, Lock

from cupel.schema import MEBIBYTE
from cupel_service.errors import StoreFailed
from cupel_service.queue.contract import Assignment
from cupel_service.queue.tickets import SuiteOf, Ticket
from cupel_service.suite import Suite

_log = logging.getLogger(__name__)

_TRIES = 3
_RETRY_S = 0.5
_INLINE_BYTES = 256 * MEBIBYTE


class SuiteFinder:
    """Finds suites, and keeps those of inline problems, which come through the queue.

    Args:
        suite_of: Finds a suite; keeps those of registered problems itself.
        problem_of: Reads a batch's inline problem of a digest, as JSON.
    """

    def __init__(self, suite_of: SuiteOf, problem_of: Callable[[str, str], bytes | None]) -> None:
        self._suite_of = suite_of
        self._problem_of = problem_of
        self._lock = Lock()
        self._inline: OrderedDict[str, Suite] = OrderedDict()
        self._inline_bytes = 0

    def assignment(self, batch: str, ticket: Ticket, stopping: Event) -> Assignment:
        """A ticket with its tests.

        Raises:
            StoreFailed: They cannot be had, not at the third try either.
        """
        tried = 1
        while True:
            try:
                if ticket.problem_id is not None:
                    suite = self._suite_of(ticket.digest, ticket.problem_id, None)
                else:
                    suite = self._inline_suite(batch, ticket.digest)
                return ticket.assignment(suite)
            except StoreFailed as error:
                if tried == _TRIES:
                    raise
                _log.warning("submission %s: %s; trying again", ticket.submission_id, error)
                stopping.wait(_RETRY_S * tried)
                tried += 1

    def _inline_suite(self, batch: str, digest: str) -> Suite:
        with self._lock:
            if digest in self._inline:
                self._inline.move_to_end(digest)
                return self._inline[digest]
        suite = self._suite_of(digest, None, self._problem_of(batch, digest))
        with self._lock:
            if digest not in self._inline:
                self._inline[digest] = suite
                self._inline_bytes += suite.data_bytes
            while self._inline_bytes > _INLINE_BYTES and len(self._inline) > 1:
                _, oldest = self._inline.popitem(last=False)
                self._inline_bytes -= oldest.data_bytes
        return suite
