"""A session as the asynchronous client sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from cupel._requests import Call, error_of
from cupel._retry import Retries
from cupel._session_requests import OUTPUT_BYTES, TIMEOUT_S, CommandLines, SessionCalls
from cupel.errors import ConnectionLost, CupelError, InvalidRequest, NotFound, SessionEnded
from cupel.schema import Language
from cupel.session_schema import (
    CommandResult,
    ExecutionResult,
    FileEntry,
    OutputEvent,
    ProcessInfo,
    SessionInfo,
    SnapshotInfo,
    SubmitResult,
)

if TYPE_CHECKING:
    from cupel._async_client import AsyncClient


class AsyncSession:
    """A box kept for one episode. See `Session` for what each call does.

    Made by `AsyncClient.session`; `async with` opens and closes it.
    """

    def __init__(self, client: AsyncClient, opening: Call[SessionInfo]) -> None:
        self._client = client
        self._opening = opening
        self._opened: SessionCalls | None = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def id(self) -> str:
        """The service's name for it."""
        return self._calls.session_id

    async def open(self) -> SessionInfo:
        """Opens it."""
        info = await self._client._send(self._opening)
        self._opened = SessionCalls(info.id)
        return info

    async def close(self) -> None:
        """Ends it; nothing if it is over."""
        if self._opened is None:
            return
        closing, self._opened = self._opened.close(), None
        try:
            await self._client._send(closing)
        except (SessionEnded, NotFound):
            return

    async def info(self) -> SessionInfo:
        """What there is to know of it; also when it is over."""
        return await self._client._send(self._calls.info())

    async def run(
        self,
        command: str,
        *,
        timeout_s: float = TIMEOUT_S,
        stdin: str | bytes = "",
        output_bytes: int = OUTPUT_BYTES,
        environment: Mapping[str, str] | None = None,
        cwd: str = ".",
    ) -> CommandResult:
        """Runs a shell command to its end."""
        call = self._calls.run(command, timeout_s, stdin, output_bytes, environment, cwd)
        return await self._client._send(call)

    async def stream(
        self,
        command: str,
        *,
        timeout_s: float = TIMEOUT_S,
        stdin: str | bytes = "",
        output_bytes: int = OUTPUT_BYTES,
        environment: Mapping[str, str] | None = None,
        cwd: str = ".",
    ) -> AsyncGenerator[OutputEvent | CommandResult, None]:
        """Runs a shell command and yields what it prints as it does; last, its result."""
        call = self._calls.run(
            command, timeout_s, stdin, output_bytes, environment, cwd, stream=True
        )
        client, lines = self._client, CommandLines()
        retries = Retries(client._settings.retry)
        while True:
            seen = lines.progress
            try:
                with client._settings.errors_translated():
                    response = await client._http.send(call.request(client._http), stream=True)
                    try:
                        if not response.is_success:
                            await response.aread()
                            raise error_of(response)
                        async for chunk in response.aiter_bytes():
                            for event in lines.feed(chunk):
                                yield event
                                if isinstance(event, CommandResult):
                                    return
                    finally:
                        await response.aclose()
                raise ConnectionLost("the answer ended before the command's result")
            except CupelError as error:
                if lines.progress > seen:
                    retries.progressed()
                pause_s = retries.pause_s(error)
            lines.reconnected()
            await asyncio.sleep(pause_s)

    async def start(
        self,
        command: str,
        *,
        stdin: str | bytes = "",
        output_bytes: int = OUTPUT_BYTES,
        environment: Mapping[str, str] | None = None,
        cwd: str = ".",
    ) -> AsyncProcess:
        """Starts a shell command in the background."""
        call = self._calls.start(command, stdin, output_bytes, environment, cwd)
        return AsyncProcess(self._client, self._calls, (await self._client._send(call)).id)

    async def processes(self) -> tuple[ProcessInfo, ...]:
        """The background processes, also those that ended lately."""
        return await self._client._send(self._calls.processes())

    async def python(
        self, source: str, *, timeout_s: float = TIMEOUT_S, output_bytes: int = OUTPUT_BYTES
    ) -> ExecutionResult:
        """Runs a piece of Python in the session's interpreter, which keeps its variables."""
        return await self._client._send(self._calls.python(source, timeout_s, output_bytes))

    async def write(self, path: str, content: str | bytes, *, executable: bool = False) -> None:
        """Puts a file into the working folder."""
        await self._client._send(self._calls.write(path, content, executable=executable))

    async def read(self, path: str) -> bytes:
        """Gets a regular file of the working folder."""
        return await self._client._send(self._calls.read(path))

    async def delete(self, path: str) -> None:
        """Removes a file, or a folder with all that it holds."""
        await self._client._send(self._calls.delete(path))

    async def list(self, path: str = ".") -> tuple[FileEntry, ...]:
        """What a folder holds, by name."""
        return await self._client._send(self._calls.list(path))

    async def snapshot(self) -> SnapshotInfo:
        """Saves the working folder."""
        return await self._client._send(self._calls.snapshot())

    async def restore(self, snapshot: str | SnapshotInfo) -> SessionInfo:
        """Puts a snapshot in place of the working folder; what runs in the session is killed."""
        return await self._client._send(self._calls.restore(snapshot))

    async def delete_snapshot(self, snapshot: str | SnapshotInfo) -> None:
        """Forgets a snapshot of this session."""
        await self._client._send(self._calls.delete_snapshot(snapshot))

    async def submit(self, path: str, language: Language | str | None = None) -> SubmitResult:
        """Judges a file of the working folder by the session's problem."""
        return await self._client._send(self._calls.submit(path, language))

    @property
    def _calls(self) -> SessionCalls:
        if self._opened is None:
            raise InvalidRequest("the session is not open: use it within `async with`")
        return self._opened


class AsyncProcess:
    """A background process of a session."""

    def __init__(self, client: AsyncClient, calls: SessionCalls, process_id: str) -> None:
        self._client = client
        self._calls = calls
        self.id = process_id

    async def output(self) -> ProcessInfo:
        """Whether it runs, and what it has printed so far."""
        return await self._client._send(self._calls.process(self.id))

    async def kill(self) -> ProcessInfo:
        """Kills it with its descendants; nothing if it has ended."""
        return await self._client._send(self._calls.kill(self.id))
