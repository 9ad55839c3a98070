"""A session's Python interpreter: a driver in the box, one piece of code at a time."""

from __future__ import annotations

import asyncio
import functools
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from cupel.session_schema import CommandResult
from cupel_sandbox.box import WORK
from cupel_sandbox.errors import WorkspaceEnded
from cupel_sandbox.workspace import Command, CommandExit, Stream
from cupel_service.sessions.capture import Capture
from cupel_service.sessions.running import InThread, Workspace, call_soon, result_of

_END_BYTES_MAX = 64


class Interpreter:
    """One Python process in a workspace; it belongs to that workspace and ends with it.

    Args:
        workspace: Where it runs.
        in_thread: How the workspace is called.
        python: The interpreter's path inside the box.
        environment: Its whole environment.
    """

    def __init__(
        self, workspace: Workspace, in_thread: InThread, python: str, environment: Mapping[str, str]
    ) -> None:
        self._workspace = workspace
        self._in_thread = in_thread
        token = secrets.token_hex(16)
        self._mark = f"\0{token}\0".encode()
        argv = (python, "-c", _driver(), token)
        self._command = Command(argv, stdin=None, environment=environment, cwd=WORK)
        self._turn = asyncio.Lock()
        self._ended: asyncio.Future[CommandExit] = asyncio.get_running_loop().create_future()
        self._number: int | None = None
        self._piece: _Piece | None = None
        self._guard = Lock()

    @property
    def alive(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._number is not None and not self._ended.done()

    @property
    def over(self) -> bool:
        """Whether it has ended: another one must be made."""
        return self._ended.done()

    async def run(self, source: str, timeout_s: float, kept_bytes: int) -> CommandResult:
        """Runs a piece of code; afterwards `over` says whether it took the interpreter along.

        Args:
            source: Python.
            timeout_s: How long it may take.
            kept_bytes: Kept of each output stream.

        Raises:
            WorkspaceEnded: The workspace is over.
            BoxLost: Its box has died.
        """
        async with self._turn:
            loop = asyncio.get_running_loop()
            begun_s = loop.time()
            piece = _Piece(Capture(kept_bytes), self._mark)
            with self._guard:
                self._piece = piece
            await self._feed(source)
            either: set[asyncio.Future[_End] | asyncio.Future[CommandExit]]
            either = {piece.done, self._ended}
            await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            timed_out = not (piece.done.done() or self._ended.done())
            if timed_out or piece.capture.flooded:
                await self._kill()
            with self._guard:
                self._piece = None
            piece.capture.close()
            if piece.done.done() and not piece.capture.flooded:
                end = piece.done.result()
                how = CommandExit(end.exit_code, None, end.cpu_s, loop.time() - begun_s)
            else:
                await asyncio.wait({self._ended})
                how = self._ended.result()
                if how.exit_code is None and how.signal is None:
                    raise self._workspace.ended or WorkspaceEnded("the session is over")
                how = CommandExit(how.exit_code, how.signal, how.cpu_s, loop.time() - begun_s)
            return result_of(piece.capture, how, timed_out=timed_out)

    async def _feed(self, source: str) -> None:
        loop = asyncio.get_running_loop()
        if self._number is None:
            self._number = await self._in_thread(
                self._workspace.start,
                self._command,
                self._take,
                lambda how: call_soon(loop, self._note_end, how),
            )
        content = source.encode("utf-8", "replace")
        message = b"%d\n" % len(content) + content
        await self._in_thread(self._workspace.send, self._number, message)

    async def _kill(self) -> None:
        if self._number is not None:
            await self._in_thread(self._workspace.kill, self._number)

    def _note_end(self, how: CommandExit) -> None:
        if not self._ended.done():
            self._ended.set_result(how)

    def _take(self, stream: Stream, data: bytes) -> None:
        """In the workspace's thread; what comes between two pieces belongs to neither."""
        with self._guard:
            piece = self._piece
        if piece is not None:
            piece.take(stream, data)


@dataclass(frozen=True, slots=True)
class _End:
    """What the driver says of a piece, on both streams."""

    exit_code: int
    cpu_s: float


class _Piece:
    """The output of one piece of code, up to the mark on each stream."""

    def __init__(self, capture: Capture, mark: bytes) -> None:
        self.capture = capture
        self._loop = asyncio.get_running_loop()
        self.done: asyncio.Future[_End] = self._loop.create_future()
        self._mark = mark
        self._held = {Stream.STDOUT: b"", Stream.STDERR: b""}
        self._ends: dict[Stream, _End] = {}

    def take(self, stream: Stream, data: bytes) -> None:
        if stream in self._ends:
            return
        data = self._held[stream] + data
        at = data.find(self._mark)
        if at < 0:
            keep = _overlap(data, self._mark)
            self._held[stream] = data[len(data) - keep :]
            self.capture.append(stream, data[: len(data) - keep])
            if self.capture.flooded:
                self._set(_End(0, 0.0))
            return
        end = data.find(b"\n", at)
        if end < 0:
            self.capture.append(stream, data[:at])
            self._held[stream] = data[at : at + len(self._mark) + _END_BYTES_MAX]
            return
        self.capture.append(stream, data[:at])
        self._held[stream] = b""
        self._ends[stream] = _parse_end(data[at + len(self._mark) : end])
        if len(self._ends) == len(self._held):
            self._set(self._ends[Stream.STDOUT])

    def _set(self, end: _End) -> None:
        call_soon(self._loop, lambda: None if self.done.done() else self.done.set_result(end))


def _parse_end(words: bytes) -> _End:
    """What follows a mark; a program in the box may have forged it, hence the bounds."""
    match = re.fullmatch(rb"(\d{1,3}) (\d{1,18})", words)
    if match is None:
        return _End(1, 0.0)
    return _End(min(int(match[1]), 255), int(match[2]) / 1e9)


def _overlap(data: bytes, mark: bytes) -> int:
    """How many bytes at the end of `data` may be the beginning of a mark."""
    for size in range(min(len(data), len(mark) - 1), 0, -1):
        if data.endswith(mark[:size]):
            return size
    return 0


@functools.cache
def _driver() -> str:
    return Path(__file__).with_name("python_driver.py").read_text(encoding="utf-8")
