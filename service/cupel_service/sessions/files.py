"""Files of a session: up, down, away. The box itself sees to it that no link leads out of it."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

from cupel.schema import Data, encode_data
from cupel.session_schema import FileEntry, FileList
from cupel_sandbox.box import MEBIBYTE, WORK
from cupel_sandbox.errors import BoxRefused
from cupel_sandbox.workspace import Command, Entry
from cupel_service.errors import NotThere, ServiceError
from cupel_service.requests import InvalidRequest
from cupel_service.sessions import running
from cupel_service.sessions.session import Session

READ_BYTES_MAX = 64 * MEBIBYTE
"""Largest file that is read at once."""
OUTPUTS_BYTES_MAX = 16 * MEBIBYTE
"""All files that one execution brings back, in bytes."""
ENTRIES_MAX = 10_000

_DELETE_S = 30.0
_KINDS = {"file": "file", "directory": "directory", "link": "link"}


def box_path(path: str) -> str:
    """A path relative to the working folder; `.` is the folder itself.

    Raises:
        InvalidRequest: It leads elsewhere.
    """
    below = posixpath.normpath(posixpath.join(WORK, path))
    if (
        "\0" in path
        or ".." in path.split("/")
        or not (below == WORK or below.startswith(f"{WORK}/"))
    ):
        raise InvalidRequest("the path is not one below the working folder")
    return posixpath.relpath(below, WORK)


def file_path(path: str) -> str:
    """The same, of something in the working folder.

    Raises:
        InvalidRequest: It leads elsewhere, or is the folder itself.
    """
    below = box_path(path)
    if below == ".":
        raise InvalidRequest("the path is the working folder itself, not a file in it")
    return below


async def write_file(session: Session, path: str, content: bytes, *, executable: bool) -> None:
    """Puts a file, with the folders above it.

    Raises:
        InvalidRequest: It cannot be put there.
    """
    below = file_path(path)
    async with session.used() as workspace:
        try:
            await session.house.in_thread(workspace.write, below, content, executable=executable)
        except BoxRefused as error:
            raise InvalidRequest(f"the file cannot be written: {error}") from error


async def read_file(session: Session, path: str, bytes_max: int = READ_BYTES_MAX) -> bytes:
    """Gets a regular file.

    Raises:
        NotThere: There is none.
        InvalidRequest: It is something else, or too large.
    """
    below = file_path(path)
    async with session.used(writes=False) as workspace:
        return await read_from(session, workspace, below, bytes_max)


async def list_files(session: Session, path: str) -> FileList:
    """What a folder holds.

    Raises:
        NotThere: There is none.
        InvalidRequest: It is no folder.
    """
    below = box_path(path)
    async with session.used(writes=False) as workspace:
        try:
            entries = await session.house.in_thread(workspace.list, below)
        except BoxRefused as error:
            raise refusal("folder", error) from error
    return FileList(path=below, entries=tuple(_entry(each) for each in entries[:ENTRIES_MAX]))


async def delete_file(session: Session, path: str) -> None:
    """Removes a file, or a folder with all that it holds; nothing if it is not there.

    Raises:
        InvalidRequest: It cannot be removed.
    """
    below = file_path(path)
    # By a command: what a program of the box may remove, its user may, and nothing else.
    command = Command(
        ("rm", "-rf", "--", f"{WORK}/{below}"), environment=session.house.environment, cwd=WORK
    )
    async with session.used() as workspace:
        house = session.house
        begun = await running.start(workspace, house.in_thread, command, kept_bytes=1024)
        result = await running.finish(workspace, house.in_thread, begun, _DELETE_S)
    if result.exit_code != 0:
        raise InvalidRequest(f"it cannot be removed: {result.stderr.strip()}")


async def read_from(
    session: Session, workspace: running.Workspace, below: str, bytes_max: int
) -> bytes:
    """Gets a regular file from a workspace that is in use already.

    Raises:
        NotThere: There is none.
        InvalidRequest: It is something else, or too large.
    """
    try:
        return await session.house.in_thread(workspace.read, below, bytes_max)
    except BoxRefused as error:
        raise refusal("file", error) from error


async def read_outputs(
    session: Session, workspace: running.Workspace, paths: Iterable[str]
) -> tuple[dict[str, Data], dict[str, str]]:
    """Gets files: those that are there, and why each of the others is not."""
    files: dict[str, Data] = {}
    missing: dict[str, str] = {}
    left_bytes = OUTPUTS_BYTES_MAX
    for path in paths:
        try:
            content = await read_from(session, workspace, file_path(path), left_bytes)
        except (NotThere, InvalidRequest) as error:
            missing[path] = str(error)
            continue
        left_bytes -= len(content)
        files[path] = encode_data(content)
    return files, missing


def refusal(what: str, error: BoxRefused) -> ServiceError:
    """What a box's refusal to read something is to the one who asked for it."""
    words = str(error)
    if "No such file or directory" in words or "Not a directory" in words:
        return NotThere(f"there is no {what} at this path")
    return InvalidRequest(f"no {what} that can be read: {words}")


def _entry(entry: Entry) -> FileEntry:
    name = entry.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return FileEntry.model_validate(
        {"name": name, "kind": _KINDS.get(entry.kind, "other"), "size_bytes": entry.size_bytes}
    )
