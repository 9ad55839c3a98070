"""Files of a session, up and down."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from cupel.session_schema import BoxPath, FileList
from cupel_service.app_state import sessions_of
from cupel_service.openapi import answer, bytes_answer, bytes_body
from cupel_service.routes_sessions import FAULTS, SessionId
from cupel_service.sessions.files import delete_file, list_files, read_file, write_file

router = APIRouter(tags=["sessions"])

FilePath = Annotated[BoxPath, Path(description="Below the working folder.", examples=["main.py"])]


@router.get(
    "/v1/sessions/{session_id}/files",
    summary="What a folder holds",
    responses=answer(200, FileList) | FAULTS,
)
async def get_folder(
    session_id: SessionId,
    request: Request,
    path: Annotated[BoxPath, Query(description="Below the working folder.")] = ".",
) -> Response:
    """Lists a folder by name; links are named, not followed."""
    listing = await list_files(sessions_of(request).find(session_id), path)
    return Response(listing.model_dump_json(), media_type="application/json")


@router.get(
    "/v1/sessions/{session_id}/files/{path:path}",
    summary="Get a file",
    responses=bytes_answer(200) | FAULTS,
)
async def get_file(session_id: SessionId, path: FilePath, request: Request) -> Response:
    """Answers a regular file's bytes. No symbolic link on the path is followed."""
    content = await read_file(sessions_of(request).find(session_id), path)
    # Whatever a program wrote must not be taken for a page of this service.
    headers = {"X-Content-Type-Options": "nosniff", "Content-Disposition": "attachment"}
    return Response(content, media_type="application/octet-stream", headers=headers)


@router.put(
    "/v1/sessions/{session_id}/files/{path:path}",
    summary="Put a file",
    status_code=204,
    openapi_extra=bytes_body(),
    responses=FAULTS,
)
async def put_file(
    session_id: SessionId,
    path: FilePath,
    request: Request,
    executable: Annotated[bool, Query(description="Whether it can be run.")] = False,
) -> Response:
    """Writes the body to a file, whole or not at all, with the folders above it."""
    session = sessions_of(request).find(session_id)
    await write_file(session, path, await request.body(), executable=executable)
    return Response(status_code=204)


@router.delete(
    "/v1/sessions/{session_id}/files/{path:path}",
    summary="Remove a file",
    status_code=204,
    responses=FAULTS,
)
async def remove_file(session_id: SessionId, path: FilePath, request: Request) -> Response:
    """Removes a file, or a folder with all that it holds; nothing if it is not there."""
    await delete_file(sessions_of(request).find(session_id), path)
    return Response(status_code=204)
