"""A workspace: a box kept for one session, in which commands run and share a folder.

One interactive run holds it all: one user, one accounting, one process tree. Its program is the
agent (`runner/agent.c`), which is put into the box and is as untrusted as the commands that it
executes: what it says is parsed with bounds, and what makes no sense ends the workspace, never its
user.
"""

from __future__ import annotations

import functools
import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from cupel_sandbox.agent_protocol import (
    INPUT_AHEAD_BYTES,
    Action,
    CommandExit,
    Entry,
    Forged,
    Report,
    ReportReader,
    Stream,
    decode_entries,
    decode_exit,
    decode_number,
    decode_output,
    encode_action,
    encode_exec,
)
from cupel_sandbox.box import MEBIBYTE, SUBMISSION, Outcome, Run, RunLimits
from cupel_sandbox.build import build_runner
from cupel_sandbox.errors import BoxLost, BoxRefused, SandboxError, WorkspaceEnded
from cupel_sandbox.interactive import PENDING_BYTES_MAX, Feed, InteractiveRun
from cupel_sandbox.protocol import encode_frame
from cupel_sandbox.session import Command, WorkspaceLimits, below_work, check_words

__all__ = [
    "Command",
    "CommandExit",
    "Entry",
    "Stream",
    "Workspace",
    "WorkspaceLimits",
]

_TICK_S = 1.0
_ANSWER_S = 60.0  # an agent that owes an answer and is silent for so long has been stopped
_SLOWEST_BYTES_PER_S = 4 * MEBIBYTE
_CLOSE_S = 2.0  # then what still runs is killed without an outcome
_COMPLAINT_BYTES_MAX = 4096
_LISTING_BYTES_MAX = 32 * MEBIBYTE
_UNBOUNDED_BYTES = 2**62  # output goes on as it comes: whoever takes it bounds it
_NO_EXIT = CommandExit(None, None, 0.0, 0.0)


class SessionBox(Protocol):
    """What a workspace needs of its box: a RunnerBox has it."""

    def put(self, path: str, content: bytes, *, executable: bool = False) -> None:
        """See Box.put."""

    def interact(self, run: Run) -> InteractiveRun:
        """See RunnerBox.interact."""

    def reset(self) -> None:
        """See Box.reset."""

    def kill(self) -> None:
        """See RunnerBox.kill."""


@dataclass(slots=True)
class _Going:
    """A command that has not ended."""

    feed: Feed
    on_output: Callable[[Stream, bytes], None]
    on_exit: Callable[[CommandExit], None]
    must_end_at: float | None = None


class _Gathered:
    """What an action on files says, and its end."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._done = threading.Event()
        self.output = bytearray()
        self.complaint = bytearray()
        self.exit = _NO_EXIT

    def on_output(self, stream: Stream, data: bytes) -> None:
        if stream == Stream.STDERR:
            self.complaint += data[: _COMPLAINT_BYTES_MAX - len(self.complaint)]
            return
        self.output += data
        if len(self.output) > self._bytes_max:
            raise Forged("more than was asked for")

    def on_exit(self, ended: CommandExit) -> None:
        self.exit = ended
        self._done.set()

    def wait(self, timeout_s: float) -> bool:
        return self._done.wait(timeout_s)


class _Count:
    def __init__(self) -> None:
        self.known = threading.Event()
        self.processes = 0


class Workspace:
    """A session's place in a box. Thread-safe, but for `close`, which comes last and once.

    Paths are relative to `/work`, or absolute below it; no symbolic link on them is followed.

    Every method but `close` raises WorkspaceEnded once the session is over (it met a limit, its
    agent was killed or does not answer, or it was closed), and BoxLost if its box has died.

    Callbacks are called by the thread that reads from the box, one at a time: while one waits,
    nothing more of this session is read, which holds its commands up. They must not raise, nor call
    a method that waits for an answer (`alive`, `read`, `write`, `list`, `save`, `load`, `close`).

    Args:
        box: A box that is clean; it is the workspace's alone until `close`.
        limits: What the session may use.
        answer_s: How long the agent may owe an answer (for files, plus a second per 4 MiB), and a
            command live on that was killed. Then the session ends.

    Raises:
        BoxLost: The box has died.
        BoxRefused: The agent cannot be put into it.
    """

    def __init__(
        self, box: SessionBox, limits: WorkspaceLimits, answer_s: float = _ANSWER_S
    ) -> None:
        self._answer_s = answer_s
        self._box = box
        self._numbers = itertools.count(1)
        self._guard = threading.Lock()
        self._going: dict[int, _Going] = {}
        self._counts: dict[int, _Count] = {}
        self._ended: SandboxError | None = None
        self._given_up = ""
        self._closed = False
        self._run = _start_agent(box, limits)
        self._reader = threading.Thread(target=self._read, name="workspace", daemon=True)
        self._reader.start()

    @property
    def ended(self) -> SandboxError | None:
        """Why the session is over: what every method raises now. None while it goes on."""
        return self._ended

    # ---- commands

    def start(
        self,
        command: Command,
        on_output: Callable[[Stream, bytes], None],
        on_exit: Callable[[CommandExit], None],
    ) -> int:
        """Starts a command, and does not wait for it.

        Args:
            command: What to execute. That it cannot be is an exit of 126 or 127, with the reason on
                its standard error.
            on_output: Called with what it writes, as it comes.
            on_exit: Called once, last, when its first process has ended, whatever it has left in
                the background; or when the session is over.

        Returns:
            The command's number.

        Raises:
            BoxRefused: Too many or too long words, or one with a NUL byte.
        """
        check_words(command)
        number = next(self._numbers)
        frame = encode_exec(
            number, command.argv, command.environment, command.cwd, command.stdin != b""
        )
        self._begin(number, frame, on_output, on_exit, command.stdin)
        return number

    def send(self, number: int, data: bytes) -> None:
        """Sends bytes to a command's standard input, if it still goes; what it does not read waits.

        Raises:
            BoxRefused: It does not read, and 64 MiB wait already; or its input has ended.
        """
        with self._guard:
            self._check()
            if data and number in self._going:
                self._going[number].feed.put(data)

    def end_input(self, number: int) -> None:
        """Closes a command's standard input after what was sent. Idempotent."""
        with self._guard:
            self._check()
            if number in self._going:
                self._going[number].feed.end()

    def kill(self, number: int) -> None:
        """Kills a command and what can be told to be of it, and does not wait for its end.

        That is its process group and session and its descendants; of a command that has ended, what
        it left in the background of its group and session. What has left all of them lives until
        the session ends.
        """
        with self._guard:
            self._check()
            if number in self._going:
                self._going[number].must_end_at = time.monotonic() + self._answer_s
            self._send(encode_frame(Action.KILL, number))

    def alive(self) -> int:
        """How many processes there are besides the agent, as it says."""
        number, count = next(self._numbers), _Count()
        with self._guard:
            self._check()
            self._counts[number] = count
            self._send(encode_frame(Action.COUNT, number))
        self._await(count.known.wait, self._answer_s)
        self._check()
        return count.processes

    # ---- files

    def write(self, path: str, content: bytes, *, executable: bool = False) -> None:
        """Writes a file, whole or not at all; folders on its way are made.

        Raises:
            BoxRefused: The path leaves `/work` or cannot be written, or there is no room.
        """
        below = below_work(path)
        self._act(Action.WRITE_FILE, below, len(content), 0, content=content, executable=executable)

    def read(self, path: str, max_bytes: int) -> bytes:
        """Reads a regular file.

        Raises:
            BoxRefused: There is none at that path below `/work`, or it is larger than `max_bytes`.
        """
        return self._act(Action.READ_FILE, below_work(path), max_bytes, max_bytes)

    def list(self, path: str) -> tuple[Entry, ...]:
        """What a folder holds, by name.

        Raises:
            BoxRefused: There is no folder at that path below `/work`.
        """
        try:
            return decode_entries(
                self._act(Action.LIST, below_work(path), _LISTING_BYTES_MAX, _LISTING_BYTES_MAX)
            )
        except Forged as forged:
            raise self._give_up(f"its agent said what makes no sense: {forged}") from forged

    def save(self, max_bytes: int) -> bytes:
        """The working folder as an archive, which only `load` understands.

        Files, folders and symbolic links are in it, with their modes and times; hard links become
        files of their own. Processes that write meanwhile may be caught halfway.

        Raises:
            BoxRefused: It is larger than `max_bytes`, or holds what cannot be read.
        """
        return self._act(Action.SAVE, "", max_bytes, max_bytes)

    def load(self, archive: bytes) -> None:
        """Replaces the working folder by what was saved, in this box or another.

        Raises:
            BoxRefused: It is no archive, or there is no room; the working folder is left in part.
        """
        self._act(Action.LOAD, "", len(archive), 0, content=archive)

    # ---- the end

    def close(self) -> Outcome | None:
        """Ends everything; afterwards the box is as new.

        Returns:
            How the session's run ended and what it used; None if it had to be killed.

        Raises:
            BoxLost: The box has died, or could not be proven clean; close it.
        """
        if not self._closed:
            self._closed = True
            self._given_up = self._given_up or "it was closed"
            self._finish()
            self._box.reset()
        return self._run.outcome

    def _finish(self) -> None:
        if self._reader.is_alive():
            self._run.end_input()
            self._reader.join(_CLOSE_S)
        if self._reader.is_alive():
            self._run.cancel()
            self._reader.join(_ANSWER_S)
        if self._reader.is_alive():
            self._box.kill()
            raise BoxLost("the session's reader does not come to its end")
        if isinstance(self._ended, BoxLost):
            raise self._ended

    # ---- asking

    def _check(self) -> None:
        if self._ended:
            raise self._ended

    def _send(self, frame: bytes) -> None:
        """Sends to the agent; guarded, since its input is one stream."""
        self._run.send(frame)

    def _begin(
        self,
        number: int,
        frame: bytes,
        on_output: Callable[[Stream, bytes], None],
        on_exit: Callable[[CommandExit], None],
        content: bytes | None,
    ) -> None:
        def transmit(piece: bytes) -> None:
            self._send(encode_frame(Action.INPUT, number, piece))

        feed = Feed(transmit, INPUT_AHEAD_BYTES, max(PENDING_BYTES_MAX, len(content or b"")))
        with self._guard:
            self._check()
            self._going[number] = _Going(feed, on_output, on_exit)
            self._send(frame)
            if content:
                feed.put(content)
            if content is not None:
                feed.end()

    def _act(
        self,
        action: Action,
        path: str,
        max_bytes: int,
        output_bytes_max: int,
        *,
        content: bytes = b"",
        executable: bool = False,
    ) -> bytes:
        """An action on files: its output, once it has ended well."""
        gathered = _Gathered(output_bytes_max)
        number = next(self._numbers)
        frame = encode_action(action, number, path, max_bytes, executable=executable)
        self._begin(number, frame, gathered.on_output, gathered.on_exit, content)
        self._await(gathered.wait, self._answer_s + max_bytes / _SLOWEST_BYTES_PER_S)
        if gathered.exit.exit_code != 0:
            if gathered.exit == _NO_EXIT:
                self._check()
            complaint = gathered.complaint.decode("utf-8", "replace").strip()
            raise BoxRefused(complaint or "it was killed")
        return bytes(gathered.output)

    def _await(self, wait: Callable[[float], bool], timeout_s: float) -> None:
        if not wait(timeout_s):
            raise self._give_up("its agent does not answer")

    def _give_up(self, reason: str) -> SandboxError:
        """Ends the session, whose agent does not do what it should."""
        self._given_up = self._given_up or reason
        self._run.cancel()
        self._reader.join(_ANSWER_S)
        return self._ended or WorkspaceEnded(reason)

    # ---- reading

    def _read(self) -> None:
        """What the session's own thread does, from its start to its end."""
        ended: SandboxError | None = None
        try:
            try:
                self._read_reports()
            except Forged as forged:
                self._given_up = f"its agent said what makes no sense: {forged}"
                self._run.cancel()
            self._run.finish()
        except (BoxLost, BoxRefused) as error:
            ended = error
        finally:
            self._end(ended or WorkspaceEnded(self._why_ended(), self._run.outcome))

    def _read_reports(self) -> None:
        reports = ReportReader()
        while True:
            try:
                data = self._run.receive(_TICK_S)
            except TimeoutError:
                data = None
            if data == b"":
                return
            for kind, number, payload in reports.feed(data or b""):
                self._take_report(kind, number, payload)
            self._check_kills()

    def _take_report(self, kind: Report, number: int, payload: bytes) -> None:
        with self._guard:
            going = self._going.get(number)
            count = self._counts.pop(number, None) if kind == Report.COUNTED else None
            if going and kind == Report.TAKEN and not going.feed.taken(decode_number(payload)):
                raise Forged("more input was taken than was sent")
            if going and kind == Report.EXIT:
                del self._going[number]
        if count:
            count.processes = decode_number(payload)
            count.known.set()
        elif not going:
            raise Forged(f"a report of {number}, which does not go")
        elif kind == Report.OUTPUT:
            going.on_output(*decode_output(payload))
        elif kind == Report.EXIT:
            going.on_exit(decode_exit(payload))

    def _check_kills(self) -> None:
        now = time.monotonic()
        with self._guard:
            late = any(
                going.must_end_at and now > going.must_end_at for going in self._going.values()
            )
        if late:
            raise Forged("a command does not end that was killed")

    def _why_ended(self) -> str:
        outcome = self._run.outcome
        if outcome and outcome.limit:
            return f"the session met its {outcome.limit.name.lower().replace('_', ' ')} limit"
        if self._given_up:
            return f"the session is over: {self._given_up}"
        words = outcome.stderr.decode("utf-8", "replace").strip() if outcome else ""
        return f"the session is over: its agent was ended from inside {words[:200]}".strip()

    def _end(self, ended: SandboxError) -> None:
        with self._guard:
            self._ended = ended
            going, self._going = self._going, {}
            counts, self._counts = self._counts, {}
        for each in going.values():
            each.on_exit(_NO_EXIT)
        for count in counts.values():
            count.known.set()


@functools.cache
def _agent() -> bytes:
    return build_runner().read_bytes()


def _start_agent(box: SessionBox, limits: WorkspaceLimits) -> InteractiveRun:
    box.put("agent", _agent(), executable=True)
    return box.interact(
        Run(
            (f"{SUBMISSION}/agent", "agent"),
            limits=RunLimits(
                cpu_s=limits.cpu_s,
                wall_s=limits.wall_s,
                memory_bytes=limits.memory_bytes,
                processes=limits.processes,
                output_bytes=_UNBOUNDED_BYTES,
                file_bytes=limits.file_bytes,
                open_files=limits.open_files,
            ),
        )
    )
