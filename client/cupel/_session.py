"""A session as the synchronous client sees it."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
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
    from cupel._client import Client


class Session:
    """A box kept for one episode: commands, files, an interpreter, submissions.

    Made by `Client.session`; `with` opens and closes it. What a command does wrong is in its
    result; every call may raise any `CupelError`, above all SessionEnded where the session is over.
    Paths are those of files below the working folder, `/work`; no call follows a symbolic link out
    of it. Calls of one session may be made from several threads.
    """

    def __init__(self, client: Client, opening: Call[SessionInfo]) -> None:
        self._client = client
        self._opening = opening
        self._opened: SessionCalls | None = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def id(self) -> str:
        """The service's name for it."""
        return self._calls.session_id

    def open(self) -> SessionInfo:
        """Opens it; `with` does.

        Raises:
            Overloaded: The service had no room for as long as this client waits.
            NotFound: There is no such problem, or no such snapshot.
        """
        info = self._client._send(self._opening)
        self._opened = SessionCalls(info.id)
        return info

    def close(self) -> None:
        """Ends it; nothing if it is over."""
        if self._opened is None:
            return
        closing, self._opened = self._opened.close(), None
        try:
            self._client._send(closing)
        except (SessionEnded, NotFound):
            return

    def info(self) -> SessionInfo:
        """What there is to know of it; also when it is over."""
        return self._client._send(self._calls.info())

    def run(
        self,
        command: str,
        *,
        timeout_s: float = TIMEOUT_S,
        stdin: str | bytes = "",
        output_bytes: int = OUTPUT_BYTES,
        environment: Mapping[str, str] | None = None,
        cwd: str = ".",
    ) -> CommandResult:
        """Runs a shell command to its end.

        Args:
            command: As typed into `sh` in the working folder.
            timeout_s: It is killed then, with its descendants; `timed_out` says so.
            stdin: What it reads.
            output_bytes: Kept of each output stream; of more, the middle is cut out.
            environment: Variables on top of the session's.
            cwd: Where it starts, within the working folder.

        Returns:
            How it ended and what it printed. A broken connection never runs it twice.
        """
        call = self._calls.run(command, timeout_s, stdin, output_bytes, environment, cwd)
        return self._client._send(call)

    def stream(
        self,
        command: str,
        *,
        timeout_s: float = TIMEOUT_S,
        stdin: str | bytes = "",
        output_bytes: int = OUTPUT_BYTES,
        environment: Mapping[str, str] | None = None,
        cwd: str = ".",
    ) -> Generator[OutputEvent | CommandResult, None, None]:
        """Runs a shell command and yields what it prints as it does; last, its result.

        Args:
            command: As for `run`, and so are the others; but only the first `output_bytes` of each
                stream are yielded.
            timeout_s: As for `run`.
            stdin: As for `run`.
            output_bytes: As for `run`.
            environment: As for `run`.
            cwd: As for `run`.
        """
        call = self._calls.run(
            command, timeout_s, stdin, output_bytes, environment, cwd, stream=True
        )
        client, lines = self._client, CommandLines()
        retries = Retries(client._settings.retry)
        while True:
            seen = lines.progress
            try:
                with client._settings.errors_translated():
                    response = client._http.send(call.request(client._http), stream=True)
                    try:
                        if not response.is_success:
                            response.read()
                            raise error_of(response)
                        for chunk in response.iter_bytes():
                            for event in lines.feed(chunk):
                                yield event
                                if isinstance(event, CommandResult):
                                    return
                    finally:
                        response.close()
                raise ConnectionLost("the answer ended before the command's result")
            except CupelError as error:
                if lines.progress > seen:
                    retries.progressed()
                pause_s = retries.pause_s(error)
            lines.reconnected()
            time.sleep(pause_s)

    def start(
        self,
        command: str,
        *,
        stdin: str | bytes = "",
        output_bytes: int = OUTPUT_BYTES,
        environment: Mapping[str, str] | None = None,
        cwd: str = ".",
    ) -> Process:
        """Starts a shell command in the background, such as a server.

        While it runs, the session keeps its box. It lives until it ends by itself, is killed, or
        the session is over; `restore` kills it, too.
        """
        call = self._calls.start(command, stdin, output_bytes, environment, cwd)
        return Process(self._client, self._calls, self._client._send(call).id)

    def processes(self) -> tuple[ProcessInfo, ...]:
        """The background processes, also those that ended lately."""
        return self._client._send(self._calls.processes())

    def python(
        self, source: str, *, timeout_s: float = TIMEOUT_S, output_bytes: int = OUTPUT_BYTES
    ) -> ExecutionResult:
        """Runs a piece of Python in the session's interpreter, which keeps its variables.

        As in a notebook, the value of a last expression is printed, and an exception is text on
        standard error (then `exit_code` is 1). A piece that takes longer than `timeout_s` costs the
        interpreter its life: `timed_out` and `restarted` say so, and the next one begins anew.
        """
        return self._client._send(self._calls.python(source, timeout_s, output_bytes))

    def write(self, path: str, content: str | bytes, *, executable: bool = False) -> None:
        """Puts a file into the working folder, with the folders above it.

        Args:
            path: Below the working folder.
            content: All of it.
            executable: Whether it can be run.
        """
        self._client._send(self._calls.write(path, content, executable=executable))

    def read(self, path: str) -> bytes:
        """Gets a regular file of the working folder.

        Raises:
            NotFound: There is none at this path.
            InvalidRequest: It is no regular file, or lies outside the working folder.
        """
        return self._client._send(self._calls.read(path))

    def delete(self, path: str) -> None:
        """Removes a file, or a folder with all that it holds."""
        self._client._send(self._calls.delete(path))

    def list(self, path: str = ".") -> tuple[FileEntry, ...]:
        """What a folder holds, by name."""
        return self._client._send(self._calls.list(path))

    def snapshot(self) -> SnapshotInfo:
        """Saves the working folder, for this session or a new one.

        Returns:
            What `restore`, and `Client.session(snapshot=...)`, take. It outlives the session for a
            while (CUPEL_SNAPSHOT_KEPT_S).
        """
        return self._client._send(self._calls.snapshot())

    def restore(self, snapshot: str | SnapshotInfo) -> SessionInfo:
        """Puts a snapshot in place of the working folder; what runs in the session is killed."""
        return self._client._send(self._calls.restore(snapshot))

    def delete_snapshot(self, snapshot: str | SnapshotInfo) -> None:
        """Forgets a snapshot of this session."""
        self._client._send(self._calls.delete_snapshot(snapshot))

    def submit(self, path: str, language: Language | str | None = None) -> SubmitResult:
        """Judges a file of the working folder by the session's problem.

        Args:
            path: The program.
            language: By default the session's, else by the name's ending.

        Returns:
            `feedback` for the policy; `rewards` and `judgement` for the trainer alone.

        Raises:
            NotFound: There is no such file.
            InvalidRequest: No submission is left, or the session has no problem.
        """
        return self._client._send(self._calls.submit(path, language))

    @property
    def _calls(self) -> SessionCalls:
        if self._opened is None:
            raise InvalidRequest("the session is not open: use it within `with`")
        return self._opened


class Process:
    """A background process of a session."""

    def __init__(self, client: Client, calls: SessionCalls, process_id: str) -> None:
        self._client = client
        self._calls = calls
        self.id = process_id

    def output(self) -> ProcessInfo:
        """Whether it runs, and what it has printed so far."""
        return self._client._send(self._calls.process(self.id))

    def kill(self) -> ProcessInfo:
        """Kills it with its descendants; nothing if it has ended."""
        return self._client._send(self._calls.kill(self.id))
