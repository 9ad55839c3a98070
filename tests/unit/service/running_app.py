"""An app with fake boxes and a client in one event loop, for the tests of the HTTP API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fake_boxes import FakePool
from fastapi import FastAPI

from cupel_service.app import create_app
from cupel_service.app_state import app_runtime
from cupel_service.boxes import SessionBoxes
from cupel_service.queue.contract import Dispatcher
from cupel_service.settings import Settings

LOOPBACK = "http://127.0.0.1:8400"


@dataclass(frozen=True)
class Service:
    app: FastAPI
    pool: FakePool
    client: httpx.AsyncClient

    @property
    def dispatcher(self) -> Dispatcher:
        runtime = app_runtime(self.app)
        assert runtime is not None
        return runtime.dispatcher

    async def has_started(self, count: int = 1) -> None:
        """Waits until that many `wait` programs run."""
        for _ in range(count):
            assert await asyncio.to_thread(self.pool.waiting.acquire, timeout=60)


@asynccontextmanager
async def service(
    folder: Path,
    pool: FakePool | None = None,
    session_boxes: SessionBoxes | None = None,
    **fields: Any,
) -> AsyncIterator[Service]:
    settings = Settings.model_validate({"data_dir": folder, "stop_grace_s": 60.0, **fields})
    pool = pool or FakePool()
    app = create_app(settings, pool, session_boxes)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=LOOPBACK) as client:
            try:
                yield Service(app, pool, client)
            finally:
                pool.gate.set()
    assert pool.closed


def within(
    folder: Path,
    scenario: Callable[[Service], Awaitable[None]],
    pool: FakePool | None = None,
    session_boxes: SessionBoxes | None = None,
    **fields: Any,
) -> None:
    """Runs a scenario against a fresh service."""

    async def run() -> None:
        async with service(folder, pool, session_boxes, **fields) as running:
            await scenario(running)

    asyncio.run(run())


async def settled() -> None:
    """Lets every task on the loop go as far as it can without another thread."""
    for _ in range(100):
        await asyncio.sleep(0)


def problem_of(response: httpx.Response, status: int) -> Mapping[str, Any]:
    """The problem details of a response, checked to be one."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    details: Mapping[str, Any] = json.loads(response.content)
    assert details["status"] == status
    return details
