"""Registering problems. Their hidden tests go in and never come out."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from cupel.schema import Identifier, Problem, ProblemList, ProblemSummary
from cupel_service.app_state import runtime_of
from cupel_service.openapi import answer, body, example_problem, faults
from cupel_service.requests import read_document

router = APIRouter(tags=["problems"])

ProblemId = Annotated[Identifier, Path(description="The problem's name.", examples=["two-sum"])]


@router.put(
    "/v1/problems/{problem_id}",
    summary="Register or replace a problem",
    openapi_extra=body(Problem, examples={"two-sum": example_problem()}),
    responses=answer(200, ProblemSummary)
    | answer(201, ProblemSummary)
    | faults(401, 403, 413, 422, 500, 503, 507),
)
async def put_problem(problem_id: ProblemId, request: Request) -> Response:
    """Registers a problem: 201 if it is new, 200 if it replaces one or changes nothing."""
    store = runtime_of(request).store
    problem = await read_document(request, Problem)
    stored = await asyncio.to_thread(store.put, problem_id, problem)
    return Response(
        stored.summary.model_dump_json(),
        201 if stored.created else 200,
        media_type="application/json",
    )


@router.get(
    "/v1/problems/{problem_id}",
    summary="What may be read of a problem",
    responses=answer(200, ProblemSummary) | faults(401, 403, 404, 422, 500, 503),
)
async def get_problem(problem_id: ProblemId, request: Request) -> Response:
    """Answers everything but the hidden tests."""
    summary = await asyncio.to_thread(runtime_of(request).store.summary, problem_id)
    return Response(summary.model_dump_json(), media_type="application/json")


@router.delete(
    "/v1/problems/{problem_id}",
    summary="Forget a problem",
    status_code=204,
    responses=faults(401, 403, 404, 422, 500, 503),
)
async def delete_problem(problem_id: ProblemId, request: Request) -> Response:
    """Forgets a problem; submissions that are being judged by it are judged to their end."""
    await asyncio.to_thread(runtime_of(request).store.delete, problem_id)
    return Response(status_code=204)


@router.get(
    "/v1/problems",
    summary="All problems",
    responses=answer(200, ProblemList) | faults(401, 403, 500, 503),
)
async def list_problems(request: Request) -> Response:
    """Answers what may be read of every problem, by id."""
    problems = ProblemList(problems=await asyncio.to_thread(runtime_of(request).store.summaries))
    return Response(problems.model_dump_json(), media_type="application/json")
