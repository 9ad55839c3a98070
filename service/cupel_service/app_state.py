"""Where an app keeps its running service."""

from __future__ import annotations

from fastapi import FastAPI, Request

from cupel_service.errors import SessionsUnavailable, Stopping
from cupel_service.runtime import Runtime
from cupel_service.sessions.registry import Sessions


def set_runtime(app: FastAPI, runtime: Runtime | None) -> None:
    """Notes the service that an app runs, or that it runs none."""
    app.state.runtime = runtime


def app_runtime(app: FastAPI) -> Runtime | None:
    """The service that an app runs now, if it does."""
    runtime: Runtime | None = getattr(app.state, "runtime", None)
    return runtime


def runtime_or_none(request: Request) -> Runtime | None:
    """The service that answers a request, if it has started and not ended."""
    return app_runtime(request.app)


def runtime_of(request: Request) -> Runtime:
    """The service that answers a request.

    Raises:
        Stopping: It has not started yet, or has ended.
    """
    runtime = runtime_or_none(request)
    if runtime is None:
        raise Stopping("the service is not running: it has not started yet, or has stopped")
    return runtime


def sessions_of(request: Request) -> Sessions:
    """The sessions of the service that answers a request.

    Raises:
        SessionsUnavailable: It has no boxes for them.
        Stopping: It has not started yet, or has ended.
    """
    sessions = runtime_of(request).sessions
    if sessions is None:
        raise SessionsUnavailable
    return sessions
