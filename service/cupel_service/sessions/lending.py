"""A few boxes for many sessions: lent in the order of asking, taken back from the longest idle.

All of it runs on the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from cupel_service.errors import QueueFull, Stopping
from cupel_service.program import Slot

_log = logging.getLogger(__name__)

YIELD_S = 2.0
"""After so long, another holder is asked as well as the one that is giving its box back."""


class Holder(Protocol):
    """Who holds a box and does not use it now."""

    async def park(self) -> None:
        """Gives the box back if nothing is lost by it; else offers it again, as pinned."""

    async def evict(self) -> None:
        """Gives the box back, whatever is lost by it."""


class Lending:
    """Lends slots.

    Args:
        slots: All of them, free.
        wait_s: How long a borrower waits at most.
        grace_s: For how long a pinned holder keeps its box however many wait.
    """

    def __init__(self, slots: Sequence[Slot], *, wait_s: float, grace_s: float) -> None:
        self._free = deque(slots)
        self._wait_s = wait_s
        self._grace_s = grace_s
        self._waiting: deque[asyncio.Future[Slot]] = deque()
        self._idle: OrderedDict[Holder, None] = OrderedDict()  # the longest idle first
        self._pinned: OrderedDict[Holder, float] = OrderedDict()  # since when, likewise
        self._yielding: dict[asyncio.Task[None], float] = {}  # since when

    @property
    def waiting(self) -> int:
        """How many wait for a box."""
        return len(self._waiting)

    async def borrow(self) -> Slot:
        """A slot for the caller alone, until it is given back.

        Raises:
            QueueFull: None came free in time.
        """
        if self._free and not self._waiting:
            return self._free.popleft()
        turn: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._serve()
        try:
            async with asyncio.timeout(self._wait_s):
                return await turn
        except BaseException as error:
            with suppress(ValueError):
                self._waiting.remove(turn)
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.give_back(turn.result())  # it came at the moment of giving up
            if isinstance(error, TimeoutError):
                raise self._full() from None
            raise

    def give_back(self, slot: Slot) -> None:
        """Takes a slot back, its box as if it were new."""
        self._free.append(slot)
        self._serve()

    def offer(self, holder: Holder, *, pinned_since_s: float | None = None) -> None:
        """Notes that a holder does not use its box now.

        Args:
            holder: Who.
            pinned_since_s: Since when (on the monotonic clock) it has been idle, if parking it
                would lose something; None if it can be parked.
        """
        self.withdraw(holder)
        if pinned_since_s is None:
            self._idle[holder] = None
        else:
            self._pinned[holder] = pinned_since_s
        self._serve()

    def withdraw(self, holder: Holder) -> None:
        """Notes that a holder uses its box, or has none any more."""
        self._idle.pop(holder, None)
        self._pinned.pop(holder, None)

    def tick(self) -> None:
        """Looks again whether a pinned holder's grace is over; to be called now and then."""
        self._serve()

    async def stop(self) -> None:
        """Ends what is under way; who waits is turned away."""
        for turn in self._waiting:
            if not turn.done():
                turn.set_exception(Stopping("the service is stopping"))
        self._waiting.clear()
        for task in tuple(self._yielding):
            task.cancel()
        await asyncio.gather(*tuple(self._yielding), return_exceptions=True)

    def _full(self) -> QueueFull:
        return QueueFull(
            f"every box for sessions has been in use for {self._wait_s:g} s: come back later, "
            "or raise CUPEL_SESSION_BOXES",
            max(1, round(self._wait_s / 10)),
        )

    def _serve(self) -> None:
        while self._waiting and self._free:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(self._free.popleft())
        while len(self._waiting) > self._expected():
            if not self._ask_one():
                return

    def _expected(self) -> int:
        """How many boxes are likely to come soon: one whose agent is stopped may take a minute."""
        late_s = time.monotonic() - YIELD_S
        return sum(since_s > late_s for since_s in self._yielding.values())

    def _ask_one(self) -> bool:
        """Asks the longest idle holder for its box; says whether there was one."""
        if self._idle:
            holder, _ = self._idle.popitem(last=False)
            giving = holder.park()
        elif self._pinned:
            holder, since_s = min(self._pinned.items(), key=lambda item: item[1])
            if time.monotonic() - since_s < self._grace_s:
                return False
            del self._pinned[holder]
            giving = holder.evict()
        else:
            return False
        task = asyncio.get_running_loop().create_task(giving)
        self._yielding[task] = time.monotonic()
        task.add_done_callback(self._yielded)
        return True

    def _yielded(self, task: asyncio.Task[None]) -> None:
        self._yielding.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("session: a box was not given back: %s", type(error).__name__)
        self._serve()


class Turns:
    """Bounds how many commands run at one time; who waits goes in the order of coming.

    Args:
        number: So many.
        wait_s: How long one waits at most.
    """

    def __init__(self, number: int, wait_s: float) -> None:
        self.number = number
        self._wait_s = wait_s
        self._semaphore = asyncio.Semaphore(number)

    async def __aenter__(self) -> None:
        try:
            async with asyncio.timeout(self._wait_s):
                await self._semaphore.acquire()
        except TimeoutError:
            raise QueueFull(
                f"{self.number} commands have been running for {self._wait_s:g} s: come back "
                "later, or raise CUPEL_SESSION_COMMANDS",
                max(1, round(self._wait_s / 10)),
            ) from None

    async def __aexit__(self, *_: object) -> None:
        self._semaphore.release()
