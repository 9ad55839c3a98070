"""The OpenAPI document, drawn from the schema's models.

Routes read and write raw JSON themselves, since validating thousands of judgements twice would cost
more than judging some of them; so each route says here which documents it takes and answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from cupel.schema import (
    Health,
    Info,
    Judgement,
    JudgementsRequest,
    JudgementsResponse,
    Problem,
    ProblemDetails,
    ProblemList,
    ProblemSummary,
    RewardsRequest,
    RewardsResponse,
    Submission,
)
from cupel.session_schema import (
    CommandEnd,
    CommandRequest,
    CommandResult,
    ExecutionRequest,
    ExecutionResult,
    FileList,
    OutputEvent,
    ProcessInfo,
    ProcessList,
    ProcessRequest,
    RestoreRequest,
    SessionInfo,
    SessionRequest,
    SnapshotInfo,
    SubmitRequest,
    SubmitResult,
)
from cupel_service.answers import NDJSON
from cupel_service.problem_details import MEDIA_TYPE
from cupel_service.requests import KEY_CHARACTERS_MAX, KEY_HEADER, KEY_PATTERN

Fragment = dict[str, Any]  # a part of an OpenAPI document is any JSON object
Answers = dict[int | str, Fragment]

_REQUESTS = (
    Submission,
    JudgementsRequest,
    RewardsRequest,
    Problem,
    ExecutionRequest,
    SessionRequest,
    CommandRequest,
    ProcessRequest,
    RestoreRequest,
    SubmitRequest,
)
_RESPONSES = (
    JudgementsResponse,
    Judgement,
    RewardsResponse,
    ProblemSummary,
    ProblemList,
    Health,
    Info,
    ProblemDetails,
    ExecutionResult,
    SessionInfo,
    CommandResult,
    OutputEvent,
    CommandEnd,
    ProcessInfo,
    ProcessList,
    FileList,
    SnapshotInfo,
    SubmitResult,
)

_FAULTS = {
    401: "No API key, or a wrong one.",
    403: "Without API keys only this machine is served.",
    404: "A problem, session, file, process or snapshot that is not there.",
    410: "The session is over: `detail` says why, `by_host` whose doing it was.",
    413: "Too many bytes, or more submissions than the queue ever holds.",
    422: "Not a valid request (`errors` lists each place), or a key of another request.",
    429: "The queue, or every box for sessions, is full: nothing was taken. Try again after "
    "`Retry-After` seconds.",
    500: "A fault of the service; its log says more.",
    501: "This service keeps no boxes for sessions and executions; `detail` says what to set.",
    503: "Starting, stopping, or without its queue. Try again after `Retry-After` seconds.",
    507: "No room for the problem or the snapshot; nothing was changed.",
}


def body(*models: type[BaseModel], examples: Mapping[str, object]) -> Fragment:
    """The request body of a route: a document of one of the models.

    Args:
        models: Of the schema.
        examples: By name.
    """
    schemas = [_reference(model) for model in models]
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas},
                    "examples": {name: {"value": value} for name, value in examples.items()},
                }
            },
        }
    }


def idempotency_key() -> Fragment:
    """The parameter of a route whose requests can be shown again."""
    return {
        "parameters": [
            {
                "name": KEY_HEADER,
                "in": "header",
                "required": False,
                "description": (
                    "The client's name for this request, such as a new UUID. Who sends the same "
                    "request with it again gets the same judgements, none made twice, also from "
                    "a service that was killed meanwhile."
                ),
                "schema": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": KEY_CHARACTERS_MAX,
                    "pattern": KEY_PATTERN,
                },
            }
        ]
    }


def bytes_body() -> Fragment:
    """The request body of a route that takes any bytes."""
    schema = {"type": "string", "format": "binary"}
    return {
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": schema}},
        }
    }


def bytes_answer(status: int) -> Answers:
    """A good answer of a route that answers any bytes."""
    schema = {"type": "string", "format": "binary"}
    content = {"application/octet-stream": {"schema": schema}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content}}


def answer(status: int, model: type[BaseModel], *, lines: str = "") -> Answers:
    """A good answer of a route.

    Args:
        status: Its HTTP status.
        model: The schema's model of it.
        lines: What each line is, if it may also come as newline-delimited JSON.
    """
    content: Fragment = {"application/json": {"schema": _reference(model)}}
    if lines:
        content[NDJSON] = {"schema": {"type": "string", "description": lines}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content}}


def faults(*statuses: int) -> Answers:
    """The errors that a route may answer."""
    content = {MEDIA_TYPE: {"schema": _reference(ProblemDetails)}}
    return {status: {"description": _FAULTS[status], "content": content} for status in statuses}


def example_problem() -> Fragment:
    """A small problem for the documentation."""
    return {
        "title": "Two sum",
        "statement": "Read two integers and print their sum.",
        "limits": {"cpu_s": 1.0},
        "tests": [
            {"name": "small", "input": "1 2\n", "output": "3\n", "tier": 1},
            {"name": "large", "input": "1000000 2000000\n", "output": "3000000\n", "tier": 2},
        ],
    }


def example_completion() -> str:
    """A model's answer for the documentation."""
    return "Add them:\n```python\nprint(sum(map(int, input().split())))\n```\n"


class DocumentedApi(FastAPI):
    """An app whose OpenAPI document holds the schema's models."""

    def openapi(self) -> Fragment:
        """The OpenAPI document; made once."""
        if self.openapi_schema is None:
            document = super().openapi()
            _, definitions = models_json_schema(
                [(model, "validation") for model in _REQUESTS]
                + [(model, "serialization") for model in _RESPONSES],
                ref_template="#/components/schemas/{model}",
            )
            document["components"] = {
                "schemas": definitions["$defs"],
                "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            }
            document["security"] = [{}, {"key": []}]
        return super().openapi()


def _reference(model: type[BaseModel]) -> Fragment:
    return {"$ref": f"#/components/schemas/{model.__name__}"}
