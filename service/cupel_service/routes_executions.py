"""Running code once: a tool for a model, or a step of an episode."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from cupel.session_schema import ExecutionRequest, ExecutionResult
from cupel_service.app_state import sessions_of
from cupel_service.openapi import answer, body, faults, idempotency_key
from cupel_service.requests import read_document, read_key
from cupel_service.sessions.commands import run_python
from cupel_service.sessions.replays import begin

router = APIRouter(tags=["executions"])


@router.post(
    "/v1/executions",
    summary="Run a program once",
    openapi_extra=idempotency_key()
    | body(
        ExecutionRequest,
        examples={
            "with input": {"source": "print(int(input()) + 1)\n", "stdin": "1\n"},
            "with files": {
                "source": "open('out.txt', 'w').write(open('in.txt').read().upper())\n",
                "files": {"in.txt": "words\n"},
                "outputs": ["out.txt"],
                "limits": {"cpu_s": 2.0},
            },
        },
    ),
    responses=answer(200, ExecutionResult)
    | faults(401, 403, 404, 410, 413, 422, 429, 500, 501, 503),
)
async def execute(request: Request) -> Response:
    """Runs a program to its end and answers how it ended: its own faults are values there.

    With `session`, the source is a piece of Python for that session's interpreter, which keeps its
    variables from one piece to the next.
    """
    sessions = sessions_of(request)
    key = await read_key(request)
    document = await read_document(request, ExecutionRequest)
    if document.session is None:
        work = sessions.executions.once(key, lambda: begin(sessions.execute(document)))
    else:
        session = sessions.find(document.session)
        work = session.replays.once(key, lambda: begin(run_python(session, document)))
    result = await work.result()
    return Response(result.model_dump_json(), media_type="application/json")
