"""Sessions: boxes kept for episodes, their commands, processes, snapshots and submissions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel
from starlette.responses import Response, StreamingResponse

from cupel.session_schema import (
    CommandEnd,
    CommandRequest,
    CommandResult,
    Name,
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
from cupel_service.app_state import sessions_of
from cupel_service.errors import ServiceError, SessionOver
from cupel_service.openapi import answer, body, faults, idempotency_key
from cupel_service.problem_details import status_of
from cupel_service.requests import read_document, read_key
from cupel_service.sessions.capture import Capture
from cupel_service.sessions.commands import (
    CommandWork,
    begin_command,
    kill_process,
    start_process,
)
from cupel_service.sessions.replays import begin

router = APIRouter(tags=["sessions"])

SessionId = Annotated[Name, Path(description="As the service named it.")]
ProcessId = Annotated[Name, Path(description="As the session named it.")]
SnapshotId = Annotated[Name, Path(description="As the service named it.")]

FAULTS = faults(401, 403, 404, 410, 413, 422, 429, 500, 501, 503)


@router.post(
    "/v1/sessions",
    summary="Open a session",
    openapi_extra=idempotency_key()
    | body(
        SessionRequest,
        examples={
            "an episode": {"problem": "two-sum", "language": "python", "reward": {"coverage": 1}},
            "a box only": {"limits": {"idle_s": 60.0}},
        },
    ),
    responses=answer(201, SessionInfo) | FAULTS,
)
async def open_session(request: Request) -> Response:
    """Opens a session: the trainer says here what it is about, and what it is rewarded by."""
    sessions = sessions_of(request)
    key = await read_key(request)
    document = await read_document(request, SessionRequest)
    work = sessions.replays.once(key, lambda: begin(sessions.open(document)))
    return _json(await work.result(), 201)


@router.get(
    "/v1/sessions/{session_id}",
    summary="What there is to know of a session",
    responses=answer(200, SessionInfo) | FAULTS,
)
async def get_session(session_id: SessionId, request: Request) -> Response:
    """Answers also for a session that is over, with the reason, for as long as that is known."""
    return _json(sessions_of(request).about(session_id))


@router.delete(
    "/v1/sessions/{session_id}",
    summary="End a session",
    status_code=204,
    responses=FAULTS,
)
async def delete_session(session_id: SessionId, request: Request) -> Response:
    """Kills what runs in it and forgets its folder; its snapshots stay for a while."""
    await sessions_of(request).close(session_id)
    return Response(status_code=204)


@router.post(
    "/v1/sessions/{session_id}/exec",
    summary="Run a command",
    openapi_extra=idempotency_key()
    | body(CommandRequest, examples={"list": {"command": "ls -la", "timeout_s": 10.0}}),
    responses=answer(200, CommandResult, lines="One OutputEvent per line, then one CommandEnd.")
    | FAULTS,
)
async def run_command(session_id: SessionId, request: Request) -> Response:
    """Runs a shell command to its end, or to its time limit.

    With `Accept: application/x-ndjson` what it prints is answered as it does, line by line, and
    last its result. The command goes on if the connection breaks: who asks again under the same
    `Idempotency-Key` gets all of it, and it does not run twice.
    """
    session = sessions_of(request).find(session_id)
    key = await read_key(request)
    document = await read_document(request, CommandRequest)
    work = session.replays.once(key, lambda: begin_command(session, document))
    if NDJSON not in request.headers.get("accept", ""):
        return _json(await work.result())
    await asyncio.wait({work.started})
    if work.started.cancelled():
        await work.result()  # raises why it was never started
    return StreamingResponse(_lines(work, work.started.result()), media_type=NDJSON)


@router.post(
    "/v1/sessions/{session_id}/processes",
    summary="Start a background process",
    openapi_extra=idempotency_key()
    | body(ProcessRequest, examples={"server": {"command": "python3 -m http.server 8000"}}),
    responses=answer(201, ProcessInfo) | FAULTS,
)
async def post_process(session_id: SessionId, request: Request) -> Response:
    """Starts a shell command and does not wait for it. While it runs, the session keeps its box."""
    session = sessions_of(request).find(session_id)
    key = await read_key(request)
    document = await read_document(request, ProcessRequest)
    work = session.replays.once(key, lambda: begin(start_process(session, document)))
    return _json(await work.result(), 201)


@router.get(
    "/v1/sessions/{session_id}/processes",
    summary="All background processes",
    responses=answer(200, ProcessList) | FAULTS,
)
async def list_processes(session_id: SessionId, request: Request) -> Response:
    """Answers those that run, and the last ones that ended."""
    session = sessions_of(request).find(session_id)
    return _json(ProcessList(processes=session.processes.all()))


@router.get(
    "/v1/sessions/{session_id}/processes/{process_id}",
    summary="A background process, and what it printed",
    responses=answer(200, ProcessInfo) | FAULTS,
)
async def get_process(session_id: SessionId, process_id: ProcessId, request: Request) -> Response:
    """Answers whether it runs, and what it has printed so far."""
    session = sessions_of(request).find(session_id)
    return _json(session.processes.get(process_id).info())


@router.delete(
    "/v1/sessions/{session_id}/processes/{process_id}",
    summary="Kill a background process",
    responses=answer(200, ProcessInfo) | FAULTS,
)
async def delete_process(
    session_id: SessionId, process_id: ProcessId, request: Request
) -> Response:
    """Kills it with its descendants; nothing if it has ended."""
    session = sessions_of(request).find(session_id)
    return _json(await kill_process(session, process_id))


@router.post(
    "/v1/sessions/{session_id}/snapshots",
    summary="Save the working folder",
    openapi_extra=idempotency_key(),
    responses=answer(201, SnapshotInfo) | FAULTS | faults(507),
)
async def post_snapshot(session_id: SessionId, request: Request) -> Response:
    """Saves the working folder, for this session or a new one."""
    sessions = sessions_of(request)
    session = sessions.find(session_id)
    key = await read_key(request)
    work = session.replays.once(key, lambda: begin(sessions.snapshot(session)))
    return _json(await work.result(), 201)


@router.delete(
    "/v1/sessions/{session_id}/snapshots/{snapshot_id}",
    summary="Forget a snapshot",
    status_code=204,
    responses=FAULTS,
)
async def delete_snapshot(
    session_id: SessionId, snapshot_id: SnapshotId, request: Request
) -> Response:
    """Forgets a snapshot that this session made."""
    sessions = sessions_of(request)
    sessions.snapshots.delete(sessions.find(session_id).id, snapshot_id)
    return Response(status_code=204)


@router.post(
    "/v1/sessions/{session_id}/restore",
    summary="Put a snapshot in place of the working folder",
    openapi_extra=idempotency_key()
    | body(RestoreRequest, examples={"snapshot": {"snapshot": "0123456789abcdef01234567"}}),
    responses=answer(200, SessionInfo) | FAULTS,
)
async def restore_snapshot(session_id: SessionId, request: Request) -> Response:
    """Kills what runs in the session, and puts the snapshot's folder in place of its own."""
    sessions = sessions_of(request)
    session = sessions.find(session_id)
    key = await read_key(request)
    document = await read_document(request, RestoreRequest)
    work = session.replays.once(key, lambda: begin(sessions.restore(session, document.snapshot)))
    return _json(await work.result())


@router.post(
    "/v1/sessions/{session_id}/submit",
    summary="Judge a file",
    openapi_extra=idempotency_key()
    | body(SubmitRequest, examples={"a file": {"path": "main.py", "language": "python"}}),
    responses=answer(200, SubmitResult) | FAULTS,
)
async def submit_file(session_id: SessionId, request: Request) -> Response:
    """Judges a file by the session's problem, in an ordinary slot.

    `feedback` is what a policy may see: public tests in detail, hidden ones as counts. `rewards`
    and `judgement` are for the trainer alone.
    """
    sessions = sessions_of(request)
    session = sessions.find(session_id)
    key = await read_key(request)
    document = await read_document(request, SubmitRequest)
    work = session.replays.once(key, lambda: begin(sessions.submit(session, document)))
    return _json(await work.result())


async def _lines(work: CommandWork, capture: Capture) -> AsyncIterator[str]:
    async for event in capture.events():
        yield event.model_dump_json() + "\n"
    try:
        end = CommandEnd(result=await work.result())
    except ServiceError as error:
        by_host = error.by_host if isinstance(error, SessionOver) else None
        end = CommandEnd(error=str(error), status=status_of(error), by_host=by_host)
    yield end.model_dump_json(exclude_none=True) + "\n"


def _json(document: BaseModel, status: int = 200) -> Response:
    return Response(document.model_dump_json(), status, media_type="application/json")
