"""One command on its way through a workspace: its output, its end, its time limit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import ParamSpec, Protocol, TypeVar

from cupel.session_schema import CommandResult, ExceededLimit
from cupel_sandbox.box import Outcome
from cupel_sandbox.errors import SandboxError, WorkspaceEnded
from cupel_sandbox.workspace import Command, CommandExit, Entry, Stream
from cupel_service.sessions.capture import Capture

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Workspace(Protocol):
    """What sessions need of `cupel_sandbox.workspace.Workspace`; see there for the promises."""

    @property
    def ended(self) -> SandboxError | None:
        """Why it is over, once it is."""

    def start(
        self,
        command: Command,
        on_output: Callable[[Stream, bytes], None],
        on_exit: Callable[[CommandExit], None],
    ) -> int:
        """Starts a command."""

    def send(self, number: int, data: bytes) -> None:
        """Sends to its standard input."""

    def kill(self, number: int) -> None:
        """Kills it with its descendants."""

    def alive(self) -> int:
        """How many processes there are besides the agent."""

    def write(self, path: str, content: bytes, *, executable: bool = False) -> None:
        """Puts a file."""

    def read(self, path: str, max_bytes: int) -> bytes:
        """Gets a file."""

    def list(self, path: str) -> tuple[Entry, ...]:
        """Lists a folder."""

    def save(self, max_bytes: int) -> bytes:
        """Saves the working folder."""

    def load(self, archive: bytes) -> None:
        """Puts a saved folder in place."""

    def close(self) -> Outcome | None:
        """Ends everything; the box can be used again."""


class InThread(Protocol):
    """Calls a blocking function in a thread of its own."""

    def __call__(
        self, function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Awaitable[_T]:
        """What the function returns or raises."""


@dataclass(slots=True)
class Started:
    """A command that has been started.

    Args:
        number: As the workspace calls it.
        capture: What it prints.
        ended: How it ended, once it has.
        begun_s: When, on the monotonic clock.
    """

    number: int
    capture: Capture
    ended: asyncio.Future[CommandExit]
    begun_s: float


async def start(
    workspace: Workspace, in_thread: InThread, command: Command, kept_bytes: int
) -> Started:
    """Starts a command and captures what it prints.

    Args:
        workspace: Where.
        in_thread: How the workspace is called.
        command: What.
        kept_bytes: Kept of each output stream.

    Raises:
        BoxRefused: It cannot be started.
        WorkspaceEnded: The workspace is over.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[CommandExit] = loop.create_future()
    number: list[int] = []
    flooded = False

    def kill_flood() -> None:
        nonlocal flooded
        flooded = True
        if number and not ended.done():
            loop.run_in_executor(None, workspace.kill, number[0])

    def note_end(how: CommandExit) -> None:
        if not ended.done():
            ended.set_result(how)
        capture.close()

    capture = Capture(kept_bytes, lambda: call_soon(loop, kill_flood))
    number.append(
        await in_thread(
            workspace.start, command, capture.append, lambda how: call_soon(loop, note_end, how)
        )
    )
    if flooded:  # faster than it could be told by whom
        kill_flood()
    return Started(number[0], capture, ended, time.monotonic())


async def finish(
    workspace: Workspace, in_thread: InThread, started: Started, timeout_s: float
) -> CommandResult:
    """Waits for a command's end, and brings it about at its time limit.

    Args:
        workspace: Where it runs.
        in_thread: How the workspace is called.
        started: The command.
        timeout_s: How long it may take.

    Raises:
        WorkspaceEnded: The workspace is over, and the command with it.
        BoxLost: Its box has died.
    """
    await asyncio.wait({started.ended}, timeout=timeout_s)
    timed_out = not started.ended.done()
    if timed_out:
        await in_thread(workspace.kill, started.number)
        await asyncio.wait({started.ended})  # the workspace itself ends where that does not help
    how = started.ended.result()
    if how.exit_code is None and how.signal is None:
        raise workspace.ended or WorkspaceEnded("the session is over")
    return result_of(started.capture, how, timed_out=timed_out)


def result_of(capture: Capture, how: CommandExit, *, timed_out: bool) -> CommandResult:
    """A command's end in the words of the wire."""
    limit = ExceededLimit.WALL if timed_out else None
    if capture.flooded:
        limit = ExceededLimit.OUTPUT
    return CommandResult(
        exit_code=how.exit_code,
        signal=how.signal,
        timed_out=timed_out,
        limit=limit,
        stdout=capture.text(Stream.STDOUT),
        stderr=capture.text(Stream.STDERR),
        stdout_bytes=capture.written_bytes(Stream.STDOUT),
        stderr_bytes=capture.written_bytes(Stream.STDERR),
        cpu_s=how.cpu_s,
        wall_s=how.wall_s,
    )


def call_soon(
    loop: asyncio.AbstractEventLoop, function: Callable[..., object], *args: object
) -> None:
    """Calls a function on an event loop from any thread; nothing if that has ended."""
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
        return  # the loop has ended: nobody waits any more
