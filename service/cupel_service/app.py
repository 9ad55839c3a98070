"""The HTTP API as an ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from cupel_service import (
    routes_executions,
    routes_judgements,
    routes_operations,
    routes_problems,
    routes_session_files,
    routes_sessions,
)
from cupel_service.api_keys import read_api_keys
from cupel_service.app_state import set_runtime
from cupel_service.boxes import Pool, SessionBoxes, make_pool, make_session_boxes
from cupel_service.embedded_service import embedded_service
from cupel_service.middleware import BodyLimit, FaultBoundary, Keys, LocalOnly
from cupel_service.openapi import DocumentedApi
from cupel_service.problem_details import answer_errors
from cupel_service.runtime import Runtime
from cupel_service.settings import Settings

_DESCRIPTION = (
    "Judges programs against hidden tests in a sandbox, and turns the verdicts into rewards. "
    "Times are seconds, sizes are bytes. Every error is an `application/problem+json` document."
)


def create_app(
    settings: Settings, pool: Pool | None = None, session_boxes: SessionBoxes | None = None
) -> FastAPI:
    """Makes the application; boxes, store and queue live from its lifespan's start to its end.

    Args:
        settings: The service's settings. With a queue in Redis the app has no boxes of its own.
        pool: Its boxes, not yet started; by default those that the settings choose.
        session_boxes: Those of sessions; by default those that the settings choose, but none where
            `pool` is given.

    Returns:
        The application. Its lifespan raises CannotServe where the service cannot start.

    Raises:
        CannotServe: The file of API keys cannot be used.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with _running(settings, pool, session_boxes) as runtime:
            set_runtime(app, runtime)
            yield
        set_runtime(app, None)

    app = DocumentedApi(
        title="Cupel",
        version=version("cupel"),
        description=_DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
    )
    for routes in (
        routes_judgements,
        routes_problems,
        routes_executions,
        routes_sessions,
        routes_session_files,
        routes_operations,
    ):
        app.include_router(routes.router)
    answer_errors(app)
    # Added last is met first: a request passes from the bottom of this list to its top.
    app.add_middleware(BodyLimit, bytes_max=settings.request_bytes_max)
    keys = read_api_keys(settings)
    if keys:
        app.add_middleware(Keys, keys=keys)
    else:
        app.add_middleware(LocalOnly)
    app.add_middleware(FaultBoundary)
    return app


def _running(
    settings: Settings, pool: Pool | None, session_boxes: SessionBoxes | None
) -> AbstractAsyncContextManager[Runtime]:
    """The service in the form that the settings choose."""
    if pool is None and session_boxes is None:
        session_boxes = make_session_boxes(settings)
    if settings.queue is None:
        return embedded_service(settings, pool or make_pool(settings), session_boxes)
    # Imported here: a service without a cluster starts faster without Redis' libraries.
    from cupel_service.cluster_service import cluster_service

    return cluster_service(settings, settings.queue, session_boxes)
