"""What every request passes before a route sees it: who asks, how much, and what if we fail.

Pure ASGI: a middleware of requests and responses would hold whole bodies and hide disconnects.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Iterable
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cupel_service.faults import frames_of
from cupel_service.problem_details import problem_response, service_error_response
from cupel_service.requests import RequestTooLarge
from cupel_service.settings import is_loopback

_log = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/docs", "/openapi.json"})
"""What needs no key: it says nothing of problems, submissions or the host."""


class FaultBoundary:
    """Turns an unexpected exception into a 500 that says nothing of the request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_noting(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, send_noting)
        except Exception as error:  # noqa: BLE001 (the last one to know of it)
            _log.error(
                "%s %s: %s at %s",
                scope["method"],
                _route_of(scope),
                type(error).__name__,
                frames_of(error),
            )
            if not started:
                answer = problem_response(
                    HTTPStatus.INTERNAL_SERVER_ERROR,
                    "a defect of the service: its log says where. Please report it",
                )
                await answer(scope, receive, send)


class Keys:
    """Lets in whoever shows one of the API keys as a bearer token."""

    def __init__(self, app: ASGIApp, keys: Iterable[str]) -> None:
        self._app = app
        self._keys = tuple(key.encode() for key in keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request, or answers 401."""
        if (
            scope["type"] != "http"
            or scope["path"] in OPEN_PATHS
            or self._knows(Headers(scope=scope).get("authorization", ""))
        ):
            await self._app(scope, receive, send)
            return
        answer = problem_response(
            HTTPStatus.UNAUTHORIZED,
            "an API key is needed: send it as `Authorization: Bearer KEY`",
            headers={"WWW-Authenticate": "Bearer"},
        )
        await answer(scope, receive, send)

    def _knows(self, authorization: str) -> bool:
        scheme, _, shown = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return False
        # Every key is compared, in constant time each: the time tells nothing of any.
        matches = [hmac.compare_digest(shown.strip().encode(), key) for key in self._keys]
        return any(matches)


class LocalOnly:
    """Keeps a service without keys from web pages that a browser on this machine shows.

    A page can make the browser send requests to loopback, under its own name rebound to 127.0.0.1
    (then Host is foreign) or blindly across origins (then Origin is).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request, or answers 403."""
        if scope["type"] == "http" and not self._is_local(Headers(scope=scope)):
            answer = problem_response(
                HTTPStatus.FORBIDDEN,
                "without API keys only this machine is served: use http://127.0.0.1 or "
                "http://localhost as the address, or set CUPEL_API_KEYS",
            )
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_local(self, headers: Headers) -> bool:
        origin = headers.get("origin")
        return _names_loopback("//" + headers.get("host", "")) and (
            origin is None or _names_loopback(origin)
        )


class BodyLimit:
    """Refuses bodies over a size: by their declared length at once, else as they stream in."""

    def __init__(self, app: ASGIApp, bytes_max: int) -> None:
        self._app = app
        self._bytes_max = bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request, or answers 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdecimal() and int(declared) > self._bytes_max:
            answer = service_error_response(RequestTooLarge(self._bytes_max))
            await answer(scope, receive, send)
            return
        received_bytes = 0

        async def receive_counting() -> Message:
            nonlocal received_bytes
            message = await receive()
            received_bytes += len(message.get("body", b""))
            if received_bytes > self._bytes_max:
                raise RequestTooLarge(self._bytes_max)
            return message

        await self._app(scope, receive_counting, send)


def _names_loopback(url: str) -> bool:
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:
        return False


def _route_of(scope: Scope) -> str:
    """The route's pattern: a path itself may hold anything that a client chose to put there."""
    return getattr(scope.get("route"), "path", "unknown path")
