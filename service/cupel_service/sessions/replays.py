"""What must not happen twice: work by the client's name for it, so that who asks again joins it."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from cupel_service.queue.contract import KeyReused
from cupel_service.requests import RequestKey

_Result = TypeVar("_Result")

FINISHED_MAX = 4
"""How many finished pieces of work one session remembers."""


@dataclass(slots=True)
class Work(Generic[_Result]):
    """One piece of work, which goes on whoever waits for it.

    Args:
        task: Does it.
    """

    task: asyncio.Task[_Result]

    async def result(self) -> _Result:
        """Waits for it; to stop waiting does not stop it."""
        return await asyncio.shield(self.task)


_AnyWork = TypeVar("_AnyWork", bound=Work[Any])  # whatever it results in: it is only kept


@dataclass(slots=True)
class _Known:
    digest: str
    work: Work[Any]  # likewise
    ended_s: float | None = None


class Replays:
    """Work by its key, as long as it goes on and for a while after it was done.

    Work that failed is forgotten: it did nothing, and may be tried again. On the event loop only.

    Args:
        kept_s: How long finished work is remembered, in seconds.
        finished_max: How much of it.
    """

    def __init__(self, kept_s: float, finished_max: int = FINISHED_MAX) -> None:
        self._kept_s = kept_s
        self._finished_max = finished_max
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._keyless: set[asyncio.Task[Any]] = set()  # the loop itself holds them weakly

    def once(self, key: RequestKey | None, begin: Callable[[], _AnyWork]) -> _AnyWork:
        """The work that a key stands for, begun if it is new.

        Args:
            key: The client's name for it; None: nobody can ask for it again.
            begin: Starts it.

        Raises:
            KeyReused: The key stands for another request.
        """
        if key is None:
            work = begin()
            self._keyless.add(work.task)
            work.task.add_done_callback(self._forget)
            return work
        known = self._known.get(key.key)
        if known is not None:
            if known.digest != key.digest:
                raise KeyReused
            found: Any = known.work  # of the kind that `begin` makes: the digest holds the path
            return cast("_AnyWork", found)  # and a path has one kind
        work = begin()
        self._known[key.key] = entry = _Known(key.digest, work)
        name = key.key
        work.task.add_done_callback(lambda task: self._ended(name, entry, task))
        return work

    def forget_old(self) -> None:
        """Drops what was finished long ago."""
        old_s = time.monotonic() - self._kept_s
        for name, known in list(self._known.items()):
            if known.ended_s is not None and known.ended_s < old_s:
                del self._known[name]

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._keyless.discard(task)
        if not task.cancelled():
            task.exception()  # seen, also where its client has gone away

    def _ended(self, name: str, entry: _Known, task: asyncio.Task[Any]) -> None:
        if task.cancelled() or task.exception() is not None:
            if self._known.get(name) is entry:
                del self._known[name]
            return
        entry.ended_s = time.monotonic()
        finished = [name for name, known in self._known.items() if known.ended_s is not None]
        for old in finished[: -self._finished_max or None]:
            del self._known[old]


def begin(coroutine: Coroutine[object, object, _Result]) -> Work[_Result]:
    """Starts a coroutine as work."""
    return Work(asyncio.get_running_loop().create_task(coroutine))
