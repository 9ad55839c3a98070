"""How a request's body becomes a document, and what is said of one that does not fit.

Answers never repeat what was sent: sources and tests are secret, and an answer may end in a log.
Types are strict: a boolean where a number belongs is a mistake, and guessing would hide it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cupel.schema import JudgementsRequest, Submission
from cupel_service.errors import ServiceError

KEY_HEADER = "Idempotency-Key"
KEY_CHARACTERS_MAX = 200
KEY_PATTERN = "^[!-~]+$"
"""Visible ASCII: what any proxy passes on unchanged."""

_ERRORS_SHOWN = 20
_LOCATION_CHARACTERS = 200

_Document = TypeVar("_Document", bound=BaseModel)


class InvalidRequest(ServiceError):
    """The request is not what the API takes.

    Args:
        message: What is wrong, in one line.
        errors: One line for each place, with its location.
    """

    def __init__(self, message: str, errors: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.errors = tuple(errors)


class RequestTooLarge(ServiceError):
    """The request's body has more bytes than the service takes."""

    def __init__(self, bytes_max: int) -> None:
        super().__init__(
            f"the request has more than {bytes_max} bytes: split it, register its problems once "
            "instead of sending them inline, or raise CUPEL_REQUEST_BYTES_MAX"
        )


async def read_document(request: Request, model: type[_Document]) -> _Document:
    """Reads the body as one kind of document.

    Args:
        request: The HTTP request.
        model: The schema's model of the document.

    Raises:
        InvalidRequest: It is not JSON, or not such a document.
    """
    return _validate(model, await request.body())


@dataclass(frozen=True, slots=True)
class RequestKey:
    """What a client calls its request, so that it can show it again.

    Args:
        key: Its name for it.
        digest: SHA-256 of the path and the body, in hexadecimal.
    """

    key: str
    digest: str

    def named(self, submissions: Sequence[Submission]) -> list[Submission]:
        """Gives an id to each submission without one: the same ones whenever the key is shown."""
        return [
            submission if submission.id is not None else self._named(submission, index)
            for index, submission in enumerate(submissions)
        ]

    def _named(self, submission: Submission, index: int) -> Submission:
        text = f"{self.digest} {index} {self.key}"
        name = hashlib.sha256(text.encode("ascii")).hexdigest()[:32]
        return submission.model_copy(update={"id": name})


async def read_key(request: Request) -> RequestKey | None:
    """Reads the Idempotency-Key header, where there is one.

    Raises:
        InvalidRequest: It is not a key.
    """
    shown = request.headers.getlist(KEY_HEADER)
    if not shown:
        return None
    key = shown[0]
    if len(shown) > 1 or len(key) > KEY_CHARACTERS_MAX or not re.fullmatch(KEY_PATTERN, key):
        raise InvalidRequest(
            f"{KEY_HEADER} must be one header of 1 to {KEY_CHARACTERS_MAX} visible ASCII "
            "characters: a new UUID for each request will do"
        )
    digest = hashlib.sha256(request.url.path.encode() + b"\n")
    digest.update(await request.body())
    return RequestKey(key, digest.hexdigest())


async def read_submissions(request: Request) -> JudgementsRequest:
    """Reads one submission or many.

    Raises:
        InvalidRequest: The body is neither.
    """
    body = await request.body()
    try:
        return JudgementsRequest.model_validate_json(body, strict=True)
    except ValidationError as error:
        # Trying the larger document first, as it is the one whose speed matters; the two have no
        # field in common, so what lacks `submissions` can only be meant as a single submission.
        if not any(
            item["type"] == "missing" and item["loc"] == ("submissions",)
            for item in error.errors(include_url=False, include_context=False, include_input=False)
        ):
            raise _invalid(error) from None
    return JudgementsRequest(submissions=(_validate(Submission, body),))


def _validate(model: type[_Document], body: bytes) -> _Document:
    try:
        return model.model_validate_json(body, strict=True)
    except ValidationError as error:
        # `from None`: a traceback in a log would quote the request.
        raise _invalid(error) from None


def _invalid(error: ValidationError) -> InvalidRequest:
    return InvalidRequest(
        "the request's body is not valid", explain_errors(error.errors(include_url=False))
    )


def explain_errors(errors: Sequence[ErrorDetails]) -> tuple[str, ...]:
    """Says where a document is wrong and why, without its values.

    Args:
        errors: What pydantic found.

    Returns:
        Lines such as `submissions.3.language: Input should be 'c', 'cpp' or 'python'`.
    """
    # A list whose items are wrong is also called too short, which would only mislead.
    items = [item for item in errors if item["type"] != "too_short"] or errors
    shown = [f"{_location(item)}: {_message(item)}" for item in items[:_ERRORS_SHOWN]]
    if len(items) > _ERRORS_SHOWN:
        shown.append(f"and {len(items) - _ERRORS_SHOWN} more")
    return tuple(shown)


def _location(item: ErrorDetails) -> str:
    # A name in the location can be a client's own unknown field, of any length.
    return ".".join(str(part) for part in item["loc"])[:_LOCATION_CHARACTERS] or "body"


def _message(item: ErrorDetails) -> str:
    if item["type"] == "union_tag_invalid":  # pydantic's own words repeat the tag
        return f"must be one of {item['ctx']['expected_tags']}"
    return item["msg"].removeprefix("Value error, ")
