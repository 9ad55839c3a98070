"""Runs the asynchronous client for a synchronous caller, in a thread with its own event loop.

A thread, because the caller may itself stand inside an event loop (a notebook); an event loop,
because its waits can be cancelled at once when the caller stops early or presses Ctrl-C, which
threads that block in a socket cannot.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class _Value(Generic[_Item]):
    item: _Item


@dataclass(frozen=True, slots=True)
class _Pump:
    loop: asyncio.AbstractEventLoop
    task: asyncio.Task[None]
    credit: asyncio.Semaphore


def iterate(
    stream: Callable[[], AsyncGenerator[_Item, None]], ahead: int
) -> Generator[_Item, None, None]:
    """Yields what an asynchronous generator yields.

    Args:
        stream: Makes the generator; called inside the thread's event loop.
        ahead: How many items may wait for a slow caller.
    """
    results: SimpleQueue[_Value[_Item] | _End] = SimpleQueue()
    started: Future[_Pump] = Future()

    async def pump() -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("the pump runs outside a task")
        credit = asyncio.Semaphore(ahead)
        started.set_result(_Pump(asyncio.get_running_loop(), task, credit))
        async with contextlib.aclosing(stream()) as items:
            async for item in items:
                await credit.acquire()
                results.put(_Value(item))

    def run() -> None:
        error: BaseException | None = None
        try:
            asyncio.run(pump())
        except BaseException as caught:  # noqa: BLE001 (raised again in the caller's thread)
            error = caught
        results.put(_End(error))

    thread = threading.Thread(target=run, name="cupel-client", daemon=True)
    thread.start()
    running = started.result()
    try:
        while isinstance(result := results.get(), _Value):
            with contextlib.suppress(RuntimeError):  # the loop has ended: nothing waits for credit
                running.loop.call_soon_threadsafe(running.credit.release)
            yield result.item
        if result.error is not None:
            raise result.error
    finally:
        with contextlib.suppress(RuntimeError):
            running.loop.call_soon_threadsafe(running.task.cancel)
        thread.join()
