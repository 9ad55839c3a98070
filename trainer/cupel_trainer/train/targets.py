"""The problems of a run at the service: registered when first needed, removed when it ends.

A problem may have many megabytes of tests, and thousands of completions: it is sent once. Its id
there is made of the run's folder and the problem's content, so that no run removes what another one
uses.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cupel import AsyncClient, CupelError, Problem, Unauthorized
from cupel_trainer.errors import TrainingError
from cupel_trainer.evaluate.problem_set import ProblemEntry, load_tests


@dataclass(frozen=True, slots=True)
class Target:
    """A problem at the service.

    Args:
        name: Its id there.
        tiers: How many it has.
    """

    name: str
    tiers: int


class Targets:
    """Problems of a run, by their ids in the set.

    Args:
        client: Speaks with the service; all calls come from its event loop.
        entries: The problems.
        out: The run's folder.
    """

    def __init__(self, client: AsyncClient, entries: Iterable[ProblemEntry], out: Path) -> None:
        self._client = client
        self._entries = {entry.id: entry for entry in entries}
        place = f"{socket.gethostname()} {out.resolve()}"
        self._prefix = f"train-{hashlib.sha256(place.encode()).hexdigest()[:16]}-"
        self._known: dict[str, asyncio.Task[Target]] = {}
        self._own: set[str] = set()

    async def find(self, problem: str) -> Target:
        """A problem at the service; it is registered, if it is not yet.

        Raises:
            TrainingError: The service does not register problems for this key.
            ProblemSetError: It cannot be read any more.
            CupelError: The service is away, or refuses.
        """
        task = self._known.get(problem)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = asyncio.create_task(self._find(self._entries[problem]))
            self._known[problem] = task
        return await asyncio.shield(task)

    def forget(self, problem: str) -> None:
        """Has it registered again: a service that lost its store does not know it any more."""
        self._known.pop(problem, None)

    async def remove(self) -> None:
        """Removes what this run registered, as far as the service is there."""
        for name in self._own:
            with suppress(CupelError):
                await self._client.problems.delete(name)
        self._own.clear()
        self._known.clear()

    async def _find(self, entry: ProblemEntry) -> Target:
        problem = await asyncio.to_thread(load_tests, entry)
        if not isinstance(problem, Problem):
            summary = await self._client.problems.get(problem)
            return Target(problem, len(summary.tests_per_tier))
        name = self._prefix + entry.digest[:32]
        try:
            summary = await self._client.problems.add(name, problem)
        except Unauthorized as error:
            raise TrainingError(
                f"the service does not register problems for this key ({error}): have them "
                'registered (`cupel problems add`) and say `problems.set = "service"`'
            ) from error
        self._own.add(name)
        return Target(name, len(summary.tests_per_tier))
