"""The HTTP API as an ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from cupel_sandbox.toolchains import Toolchain, find_toolchains
from cupel_service import routes_judgements, routes_operations, routes_problems
from cupel_service.app_state import set_runtime
from cupel_service.boxes import Pool, native_pool
from cupel_service.host import physical_cores
from cupel_service.middleware import BodyLimit, FaultBoundary, Keys, LocalOnly
from cupel_service.openapi import DocumentedApi
from cupel_service.problem_details import answer_errors
from cupel_service.runtime import running
from cupel_service.settings import Settings

_DESCRIPTION = (
    "Judges programs against hidden tests in a sandbox, and turns the verdicts into rewards. "
    "Times are seconds, sizes are bytes. Every error is an `application/problem+json` document."
)


def create_app(
    settings: Settings, pool: Pool | None = None, toolchains: Sequence[Toolchain] | None = None
) -> FastAPI:
    """Makes the application; boxes, store and queue live from its lifespan's start to its end.

    Args:
        settings: The service's settings.
        pool: Its boxes, not yet started; by default native ones.
        toolchains: Compilers and interpreters; by default what this host has.

    Returns:
        The application. Its lifespan raises CannotServe where the service cannot start.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        found = find_toolchains() if toolchains is None else tuple(toolchains)
        slots = settings.slots or physical_cores()
        boxes = native_pool(settings, slots, found) if pool is None else pool
        async with running(settings, boxes, found) as runtime:
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
    for routes in (routes_judgements, routes_problems, routes_operations):
        app.include_router(routes.router)
    answer_errors(app)
    # Added last is met first: a request passes from the bottom of this list to its top.
    app.add_middleware(BodyLimit, bytes_max=settings.request_bytes_max)
    if settings.api_keys:
        app.add_middleware(Keys, keys=[key.get_secret_value() for key in settings.api_keys])
    else:
        app.add_middleware(LocalOnly)
    app.add_middleware(FaultBoundary)
    return app
