"""What a session is asked to do: commands, background processes, pieces of Python."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from cupel.schema import decode_data
from cupel.session_schema import (
    CommandRequest,
    CommandResult,
    ExecutionRequest,
    ExecutionResult,
    ProcessInfo,
    ProcessRequest,
)
from cupel_sandbox.box import WORK
from cupel_sandbox.errors import BoxRefused
from cupel_sandbox.workspace import Command
from cupel_service.requests import InvalidRequest
from cupel_service.sessions import running
from cupel_service.sessions.capture import Capture
from cupel_service.sessions.files import box_path, read_outputs
from cupel_service.sessions.replays import Work
from cupel_service.sessions.session import Session

KILLED_GONE_S = 10.0
"""How long the answer to a kill waits for the process to be gone."""


@dataclass(slots=True)
class CommandWork(Work[CommandResult]):
    """A command that goes on whoever listens.

    Args:
        task: Runs it.
        started: What it prints, once it has been started.
    """

    started: asyncio.Future[Capture]


def begin_command(session: Session, request: CommandRequest) -> CommandWork:
    """Starts a command, as soon as there is a box for its session."""
    loop = asyncio.get_running_loop()
    started: asyncio.Future[Capture] = loop.create_future()

    async def run() -> CommandResult:
        try:
            return await _run(session, request, started)
        finally:
            if not started.done():
                started.cancel()  # who waits for it asks the task why

    return CommandWork(loop.create_task(run()), started)


async def _run(
    session: Session, request: CommandRequest, started: asyncio.Future[Capture]
) -> CommandResult:
    house = session.house
    command = shell_command(
        session, request.command, decode_data(request.stdin), request.environment, request.cwd
    )
    async with session.used() as workspace, house.commands:
        begun = await _start(session, workspace, command, request.output_bytes)
        started.set_result(begun.capture)
        session.commands_run += 1
        return await running.finish(workspace, house.in_thread, begun, request.timeout_s)


async def start_process(session: Session, request: ProcessRequest) -> ProcessInfo:
    """Starts a command in the background.

    Raises:
        InvalidRequest: It cannot be started, or too many run.
    """
    command = shell_command(
        session, request.command, decode_data(request.stdin), request.environment, request.cwd
    )
    async with session.used() as workspace:
        session.processes.make_room()
        begun = await _start(session, workspace, command, request.output_bytes)
        session.commands_run += 1
        return session.processes.add(request.command, begun).info()


async def kill_process(session: Session, process_id: str) -> ProcessInfo:
    """Kills a background process, and waits a little for its end.

    Raises:
        NotThere: There is none of this name.
    """
    background = session.processes.get(process_id)
    if background.running:
        async with session.used() as workspace:
            await session.house.in_thread(workspace.kill, background.started.number)
            await asyncio.wait({background.started.ended}, timeout=KILLED_GONE_S)
    return background.info()


async def run_python(session: Session, request: ExecutionRequest) -> ExecutionResult:
    """Runs a piece of code in the session's interpreter.

    Raises:
        InvalidRequest: There is no Python in the boxes, or a file's path is not good.
    """
    house = session.house
    if not house.python:
        raise InvalidRequest("there is no Python in the boxes of this service")
    async with session.used() as workspace, house.commands:
        for path, content in request.files.items():
            await _write(session, workspace, path, decode_data(content))
        interpreter = await session.interpreter(workspace)
        session.commands_run += 1
        result = await interpreter.run(
            request.source, request.limits.effective_wall_s, request.limits.output_bytes
        )
        files, missing = await read_outputs(session, workspace, request.outputs)
        return ExecutionResult(
            **result.model_dump(), files=files, missing=missing, restarted=interpreter.over
        )


def shell_command(
    session: Session, line: str, stdin: bytes, environment: Mapping[str, str], cwd: str
) -> Command:
    """A line of shell as the workspace takes it."""
    return Command(
        (session.house.shell, "-c", line),
        stdin,
        {**session.environment, **environment},
        f"{WORK}/{box_path(cwd)}",
    )


async def _start(
    session: Session, workspace: running.Workspace, command: Command, kept_bytes: int
) -> running.Started:
    try:
        return await running.start(workspace, session.house.in_thread, command, kept_bytes)
    except BoxRefused as error:
        raise InvalidRequest(f"the command cannot be started: {error}") from error


async def _write(session: Session, workspace: running.Workspace, path: str, content: bytes) -> None:
    try:
        await session.house.in_thread(workspace.write, box_path(path), content)
    except BoxRefused as error:
        raise InvalidRequest(f"{path}: {error}") from error
