"""What operators ask: does it live, is it ready, what does it run on."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from cupel.schema import Health, Info
from cupel_service.app_state import runtime_of, runtime_or_none
from cupel_service.openapi import answer, faults
from cupel_service.problem_details import STOPPING_RETRY_AFTER_S

router = APIRouter(tags=["operations"])


@router.get("/healthz", summary="Does it live", responses=answer(200, Health) | faults(403, 500))
async def healthz() -> Response:
    """Answers as long as the process serves requests at all."""
    return Response(Health(status="ok").model_dump_json(), media_type="application/json")


@router.get(
    "/readyz",
    summary="Does it take work",
    responses=answer(200, Health) | answer(503, Health) | faults(403, 500),
)
async def readyz(request: Request) -> Response:
    """Answers 200 while work is taken, else 503 with the reason."""
    runtime = runtime_or_none(request)
    if runtime is None:
        health = Health(status="starting", reason="boxes are being made")
    elif runtime.dispatcher.stopping:
        health = Health(status="stopping", reason="running submissions are being finished")
    elif runtime.obstacle:
        health = Health(status="starting", reason=runtime.obstacle)
    else:
        health = Health(status="ok")
    ready = health.status == "ok"
    return Response(
        health.model_dump_json(),
        200 if ready else 503,
        headers={} if ready else {"Retry-After": str(STOPPING_RETRY_AFTER_S)},
        media_type="application/json",
    )


@router.get(
    "/v1/info",
    summary="What it runs on",
    responses=answer(200, Info) | faults(401, 403, 500, 503),
)
async def info(request: Request) -> Response:
    """Answers what an experiment's record should hold of this service."""
    return Response(runtime_of(request).info.model_dump_json(), media_type="application/json")
