"""Inline problems at the service, for as long as they are judged.

A problem may have tests of many megabytes, and as many submissions as there are samples: it is sent
once, under an id of its own, and removed when its samples are judged. The id is made of the file of
verdicts, which one process writes at a time, and of the problem's content. So no run removes what
another one uses; and what a killed run leaves, a few problems at most, the next run on the same
file recognises and removes. Where a service registers nothing, the problem goes with each
submission.
"""

from __future__ import annotations

import hashlib
import logging
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from cupel import AsyncClient, CupelError, Problem, Refused, Unauthorized

_log = logging.getLogger("cupel")


class Registrar:
    """Registers and removes problems for one file of verdicts.

    Args:
        client: Speaks with the service.
        cleaner: The same, but without patience: what cannot be removed is left to the next run.
        out: The file of verdicts.
    """

    def __init__(self, client: AsyncClient, cleaner: AsyncClient, out: Path) -> None:
        self._allowed = True
        self._client = client
        self._cleaner = cleaner
        place = f"{socket.gethostname()} {out.resolve()}"
        self._prefix = f"evaluate-{hashlib.sha256(place.encode()).hexdigest()[:16]}-"

    async def remove_left(self, registered: Iterable[str]) -> None:
        """Removes what an earlier run on the same file left, if it was killed.

        Args:
            registered: The ids of all problems at the service.
        """
        for problem_id in registered:
            if problem_id.startswith(self._prefix):
                await self._remove(problem_id)

    @asynccontextmanager
    async def registered(self, problem: Problem, digest: str) -> AsyncIterator[str | Problem]:
        """Registers a problem for the length of a block.

        Args:
            problem: The problem.
            digest: SHA-256 of its content.

        Yields:
            What submissions name: its id, or itself where the service refuses it.

        Raises:
            CupelError: The service is not there.
        """
        problem_id = self._prefix + digest[:32]
        if not await self._add(problem_id, problem):
            yield problem
            return
        try:
            yield problem_id
        finally:
            await self._remove(problem_id)

    async def _add(self, problem_id: str, problem: Problem) -> bool:
        if not self._allowed:
            return False
        try:
            await self._client.problems.add(problem_id, problem)
        except Refused as error:
            _log.warning("a problem is sent with each submission: it was not registered, %s", error)
            self._allowed = not isinstance(error, Unauthorized)  # what is true of all is asked once
            return False
        return True

    async def _remove(self, problem_id: str) -> None:
        with suppress(CupelError):
            await self._cleaner.problems.delete(problem_id)
