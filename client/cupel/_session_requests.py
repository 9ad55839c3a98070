"""One request builder for both clients' executions and sessions, as `_requests` is for the rest.

Everything that must not happen twice is sent under an Idempotency-Key: a command whose connection
broke is asked for again by the same bytes, and answered by what it did the first time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from cupel._batches import Lines
from cupel._requests import NDJSON, Call, as_invalid_request, new_key, reads, to_json
from cupel.errors import CupelError, InvalidRequest, Refused, SessionEnded, UnexpectedAnswer
from cupel.schema import Language, Problem, RewardSpec, encode_data
from cupel.session_schema import (
    OUTPUT_BYTES,
    CommandEnd,
    CommandRequest,
    CommandResult,
    ExecutionLimits,
    ExecutionRequest,
    ExecutionResult,
    FileEntry,
    FileList,
    OutputEvent,
    ProcessInfo,
    ProcessList,
    ProcessRequest,
    RestoreRequest,
    SessionInfo,
    SessionLimits,
    SessionRequest,
    SnapshotInfo,
    SubmitRequest,
    SubmitResult,
)

EXECUTIONS_PATH = "/v1/executions"
SESSIONS_PATH = "/v1/sessions"
TIMEOUT_S = 60.0
"""How long a command may take, unless the caller says otherwise."""

_START_S = 120.0  # on top of a command's own time: waiting for a box, and for its folder
_Model = TypeVar("_Model", bound=BaseModel)
_line: TypeAdapter[OutputEvent | CommandEnd] = TypeAdapter(
    Annotated[OutputEvent | CommandEnd, Field(union_mode="left_to_right")]
)


def execute_call(
    source: str,
    language: Language | str,
    stdin: str | bytes,
    files: Mapping[str, str | bytes] | None,
    outputs: Iterable[str],
    limits: ExecutionLimits | None,
    session_id: str | None = None,
) -> Call[ExecutionResult]:
    """Runs a program once, or a piece of Python in a session's interpreter.

    Raises:
        InvalidRequest: A field is not valid.
    """
    request = _document(
        "execution",
        ExecutionRequest,
        language=language,
        source=source,
        stdin=_data(stdin),
        files={path: _data(content) for path, content in (files or {}).items()},
        outputs=tuple(outputs),
        limits=limits or ExecutionLimits(),
        session=session_id,
    )
    work_s = _START_S + request.limits.effective_wall_s
    return _post(EXECUTIONS_PATH, ExecutionResult, request, work_s=work_s)


def open_call(
    problem: str | Problem | None,
    language: Language | str | None,
    reward: RewardSpec | None,
    extra_rewards: Mapping[str, RewardSpec] | None,
    limits: SessionLimits | None,
    environment: Mapping[str, str] | None,
    snapshot: str | SnapshotInfo | None,
) -> Call[SessionInfo]:
    """Opens a session.

    Raises:
        InvalidRequest: A field is not valid.
    """
    request = _document(
        "session",
        SessionRequest,
        problem=problem,
        language=language,
        reward=reward,
        extra_rewards=dict(extra_rewards or {}),
        limits=limits or SessionLimits(),
        environment=dict(environment or {}),
        snapshot=_snapshot_id(snapshot) if snapshot is not None else None,
    )
    return _post(SESSIONS_PATH, SessionInfo, request, work_s=_START_S)


class SessionCalls:
    """The calls of one session.

    Args:
        session_id: As the service named it.
    """

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self._path = f"{SESSIONS_PATH}/{session_id}"

    def info(self) -> Call[SessionInfo]:
        """What there is to know of it."""
        return Call("GET", self._path, reads(SessionInfo))

    def close(self) -> Call[None]:
        """Ends it."""
        return Call("DELETE", self._path, lambda _: None)

    def run(
        self,
        command: str,
        timeout_s: float,
        stdin: str | bytes,
        output_bytes: int,
        environment: Mapping[str, str] | None,
        cwd: str,
        *,
        stream: bool = False,
    ) -> Call[CommandResult]:
        """Runs a command.

        Raises:
            InvalidRequest: A field is not valid.
        """
        request = _document(
            "command",
            CommandRequest,
            command=command,
            timeout_s=timeout_s,
            stdin=_data(stdin),
            output_bytes=output_bytes,
            environment=dict(environment or {}),
            cwd=cwd,
        )
        accept = NDJSON if stream else "application/json"
        work_s = _START_S + timeout_s
        return _post(f"{self._path}/exec", CommandResult, request, work_s=work_s, accept=accept)

    def python(self, source: str, timeout_s: float, output_bytes: int) -> Call[ExecutionResult]:
        """Runs a piece of Python in the session's interpreter."""
        try:
            limits = ExecutionLimits(wall_s=timeout_s, output_bytes=output_bytes)
        except ValidationError as error:
            raise as_invalid_request("execution", error) from error
        return execute_call(source, Language.PYTHON, "", None, (), limits, self.session_id)

    def start(
        self,
        command: str,
        stdin: str | bytes,
        output_bytes: int,
        environment: Mapping[str, str] | None,
        cwd: str,
    ) -> Call[ProcessInfo]:
        """Starts a command in the background.

        Raises:
            InvalidRequest: A field is not valid.
        """
        request = _document(
            "process",
            ProcessRequest,
            command=command,
            stdin=_data(stdin),
            output_bytes=output_bytes,
            environment=dict(environment or {}),
            cwd=cwd,
        )
        return _post(f"{self._path}/processes", ProcessInfo, request, work_s=_START_S)

    def processes(self) -> Call[tuple[ProcessInfo, ...]]:
        """All background processes."""
        read = reads(ProcessList)
        return Call("GET", f"{self._path}/processes", lambda body: read(body).processes)

    def process(self, process_id: str) -> Call[ProcessInfo]:
        """A background process, and what it printed."""
        return Call("GET", f"{self._path}/processes/{process_id}", reads(ProcessInfo))

    def kill(self, process_id: str) -> Call[ProcessInfo]:
        """Kills a background process and its descendants."""
        return Call("DELETE", f"{self._path}/processes/{process_id}", reads(ProcessInfo))

    def write(self, path: str, content: str | bytes, *, executable: bool) -> Call[None]:
        """Puts a file."""
        content = content.encode() if isinstance(content, str) else content
        query = "?executable=true" if executable else ""
        return Call(
            "PUT",
            self._file(path) + query,
            lambda _: None,
            content,
            content_type="application/octet-stream",
            work_s=_START_S,
        )

    def read(self, path: str) -> Call[bytes]:
        """Gets a file."""
        return Call("GET", self._file(path), bytes, accept="*/*", work_s=_START_S)

    def delete(self, path: str) -> Call[None]:
        """Removes a file, or a folder with all that it holds."""
        return Call("DELETE", self._file(path), lambda _: None, work_s=_START_S)

    def list(self, path: str) -> Call[tuple[FileEntry, ...]]:
        """Lists a folder."""
        read = reads(FileList)
        query = f"?path={quote(path, safe='')}"
        return Call(
            "GET", f"{self._path}/files{query}", lambda body: read(body).entries, work_s=_START_S
        )

    def snapshot(self) -> Call[SnapshotInfo]:
        """Saves the working folder."""
        path = f"{self._path}/snapshots"
        return Call("POST", path, reads(SnapshotInfo), key=new_key(), work_s=_START_S)

    def delete_snapshot(self, snapshot: str | SnapshotInfo) -> Call[None]:
        """Forgets a snapshot."""
        return Call("DELETE", f"{self._path}/snapshots/{_snapshot_id(snapshot)}", lambda _: None)

    def restore(self, snapshot: str | SnapshotInfo) -> Call[SessionInfo]:
        """Puts a snapshot in place of the working folder.

        Raises:
            InvalidRequest: It is not the name of one.
        """
        request = _document("restore", RestoreRequest, snapshot=_snapshot_id(snapshot))
        return _post(f"{self._path}/restore", SessionInfo, request, work_s=_START_S)

    def submit(self, path: str, language: Language | str | None) -> Call[SubmitResult]:
        """Judges a file.

        Raises:
            InvalidRequest: A field is not valid.
        """
        request = _document("submission", SubmitRequest, path=path, language=language)
        return _post(f"{self._path}/submit", SubmitResult, request, work_s=_START_S)

    def _file(self, path: str) -> str:
        # Whoever forwards a URL may resolve its dot segments: none is sent.
        parts = [part for part in path.removeprefix("/work/").split("/") if part not in ("", ".")]
        if not parts or ".." in parts or path.removeprefix("/work/").startswith("/"):
            raise InvalidRequest(f"{path!r} is not the path of a file below the working folder")
        return f"{self._path}/files/" + "/".join(quote(part, safe="") for part in parts)


class CommandLines:
    """Reads a streamed command, also over several connections: each event is yielded once."""

    def __init__(self) -> None:
        self._seen = 0
        self._position = 0
        self._lines = Lines()

    @property
    def progress(self) -> int:
        """How many events have been seen."""
        return self._seen

    def reconnected(self) -> None:
        """The service begins again with the first event."""
        self._position = 0
        self._lines = Lines()

    def feed(self, chunk: bytes) -> list[OutputEvent | CommandResult]:
        """What a piece of the answer brings that was not there before; the result comes last.

        Raises:
            CupelError: The command has no result, or this is no answer to a command.
        """
        events: list[OutputEvent | CommandResult] = []
        for line in self._lines.feed(chunk):
            try:
                event = _line.validate_json(line)
            except ValidationError as error:
                raise UnexpectedAnswer(
                    f"not a line of a streamed command ({error.error_count()} faults)"
                ) from error
            if isinstance(event, CommandEnd):
                events.append(_result(event))
                continue
            self._position += 1
            if self._position > self._seen:
                self._seen = self._position
                events.append(event)
        return events


def _result(end: CommandEnd) -> CommandResult:
    if end.result is not None:
        return end.result
    raise _error(end)


def _error(end: CommandEnd) -> CupelError:
    text = end.error or "the service does not say why"
    if end.status == httpx.codes.GONE:
        return SessionEnded(text, status=end.status, by_host=end.by_host is not False)
    return Refused(text, status=end.status)


def _post(
    path: str,
    model: type[_Model],
    request: BaseModel,
    *,
    work_s: float,
    accept: str = "application/json",
) -> Call[_Model]:
    body = to_json(request)
    return Call("POST", path, reads(model), body, accept, key=new_key(), work_s=work_s)


def _document(what: str, model: type[_Model], **fields: object) -> _Model:
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise as_invalid_request(what, error) from error


def _data(content: str | bytes) -> object:
    return content if isinstance(content, str) else encode_data(content)


def _snapshot_id(snapshot: str | SnapshotInfo) -> str:
    return snapshot if isinstance(snapshot, str) else snapshot.id


__all__ = ["OUTPUT_BYTES", "TIMEOUT_S", "CommandLines", "SessionCalls", "execute_call", "open_call"]
