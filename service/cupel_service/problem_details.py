"""Every error as `application/problem+json` (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from cupel.schema import ProblemDetails
from cupel_service.data_folder import StoreFull
from cupel_service.errors import (
    LanguageUnavailable,
    NotThere,
    ProblemUnknown,
    QueueFull,
    ServiceError,
    SessionOver,
    SessionsUnavailable,
    Stopping,
)
from cupel_service.queue.contract import KeyReused, QueueUnreachable, RequestExceedsQueue
from cupel_service.requests import InvalidRequest, RequestTooLarge, explain_errors
from cupel_service.storage import StoreUnreachable

MEDIA_TYPE = "application/problem+json"
STOPPING_RETRY_AFTER_S = 5
"""When to try a service again that is stopping, or without its store: about a restart's time."""

_STATUS: Mapping[type[ServiceError], HTTPStatus] = {
    InvalidRequest: HTTPStatus.UNPROCESSABLE_ENTITY,
    KeyReused: HTTPStatus.UNPROCESSABLE_ENTITY,
    LanguageUnavailable: HTTPStatus.UNPROCESSABLE_ENTITY,
    ProblemUnknown: HTTPStatus.NOT_FOUND,
    NotThere: HTTPStatus.NOT_FOUND,
    SessionOver: HTTPStatus.GONE,
    SessionsUnavailable: HTTPStatus.NOT_IMPLEMENTED,
    RequestExceedsQueue: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    RequestTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    QueueFull: HTTPStatus.TOO_MANY_REQUESTS,
    QueueUnreachable: HTTPStatus.SERVICE_UNAVAILABLE,
    Stopping: HTTPStatus.SERVICE_UNAVAILABLE,
    StoreFull: HTTPStatus.INSUFFICIENT_STORAGE,
    StoreUnreachable: HTTPStatus.SERVICE_UNAVAILABLE,
    ServiceError: HTTPStatus.INTERNAL_SERVER_ERROR,
}


def problem_response(
    status: int,
    detail: str = "",
    errors: Sequence[str] = (),
    headers: Mapping[str, str] | None = None,
    *,
    by_host: bool | None = None,
) -> Response:
    """An error as the API answers it.

    Args:
        status: The HTTP status.
        detail: What went wrong and what to do, in one line.
        errors: Each single fault, where there are several.
        headers: Further headers.
        by_host: Of a session that is over: whether the service ended it.
    """
    details = ProblemDetails(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        errors=tuple(errors),
        by_host=by_host,
    )
    return Response(
        details.model_dump_json(exclude_none=True),
        status,
        headers=dict(headers or {}),
        media_type=MEDIA_TYPE,
    )


def status_of(error: ServiceError) -> HTTPStatus:
    """The HTTP status that one of the service's own errors has."""
    return next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)


def service_error_response(error: ServiceError) -> Response:
    """The answer to a request that met one of the service's own errors."""
    headers = {}
    if isinstance(error, QueueFull | QueueUnreachable):
        headers["Retry-After"] = str(error.retry_after_s)
    elif isinstance(error, Stopping | StoreUnreachable):
        headers["Retry-After"] = str(STOPPING_RETRY_AFTER_S)
    elif isinstance(error, RequestTooLarge):
        headers["Connection"] = "close"  # the rest of the body is not read
    errors = error.errors if isinstance(error, InvalidRequest) else ()
    by_host = error.by_host if isinstance(error, SessionOver) else None
    return problem_response(status_of(error), str(error), errors, headers, by_host=by_host)


def answer_errors(app: FastAPI) -> None:
    """Makes an app answer every expected error as problem details."""

    @app.exception_handler(ServiceError)
    async def _service_error(_request: Request, error: ServiceError) -> Response:
        return service_error_response(error)

    @app.exception_handler(RequestValidationError)
    async def _parameters(_request: Request, error: RequestValidationError) -> Response:
        return problem_response(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "the request is not valid",
            explain_errors(error.errors()),
        )

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        details = {
            HTTPStatus.NOT_FOUND: "there is nothing at this path: /docs lists what there is",
            HTTPStatus.METHOD_NOT_ALLOWED: f"{request.method} is not possible here: see /docs",
        }
        detail = details.get(HTTPStatus(error.status_code), str(error.detail))
        return problem_response(error.status_code, detail, headers=error.headers)
