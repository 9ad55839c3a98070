"""Workspaces in memory, so that sessions are tested without a sandbox.

A command is one line of words: `echo X` prints X, `cat PATH` prints a file, `put PATH X` writes
one, `append PATH X` adds to one, `both` prints on both streams, `flood N` prints N bytes, `wait`
waits until the stage's `gate` opens, `forever` until it is killed, `spawn` leaves a process behind,
`die` ends the workspace, `lose` the box, all else exits with 127.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fake_boxes import FakePool, FakeSlot

from cupel_sandbox.box import Limit, Outcome
from cupel_sandbox.errors import BoxLost, BoxRefused, SandboxError, WorkspaceEnded
from cupel_sandbox.workspace import Command, CommandExit, Entry, Stream, WorkspaceLimits
from cupel_service.boxes import SessionBoxes
from cupel_service.program import Slot

OnOutput = Callable[[Stream, bytes], None]
OnExit = Callable[[CommandExit], None]


@dataclass
class Stage:
    """What happens in all fake workspaces of a test."""

    gate: threading.Event = field(default_factory=threading.Event)
    waiting: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    ran: list[str] = field(default_factory=list)
    saves: int = 0
    loads: int = 0
    opened: int = 0
    lost_at_open: int = 0  # so many boxes turn out to be dead when they are opened
    in_use: dict[int, FakeWorkspace] = field(default_factory=dict)

    def boxes(self, count: int) -> SessionBoxes:
        return SessionBoxes(FakePool(count), self.open)

    def open(self, slot: Slot, limits: WorkspaceLimits) -> FakeWorkspace:
        assert isinstance(slot, FakeSlot)
        assert id(slot) not in self.in_use, "two sessions in one box"
        if self.lost_at_open:
            self.lost_at_open -= 1
            raise BoxLost("it ended unexpectedly")
        self.opened += 1
        workspace = FakeWorkspace(self, id(slot), limits)
        self.in_use[id(slot)] = workspace
        return workspace


class FakeWorkspace:
    def __init__(self, stage: Stage, slot: int, limits: WorkspaceLimits) -> None:
        self.stage = stage
        self.limits = limits
        self.files: dict[str, bytes] = {}
        self.left = 0
        self.ended: SandboxError | None = None
        self._slot = slot
        self._going: dict[int, tuple[OnExit, threading.Event]] = {}
        self._outputs: dict[int, tuple[OnOutput, bytes]] = {}
        self._number = 0
        self._guard = threading.RLock()

    def start(self, command: Command, on_output: OnOutput, on_exit: OnExit) -> int:
        with self._guard:
            self._check()
            self._number += 1
            number = self._number
            self._going[number] = (on_exit, threading.Event())
        if command.argv[1:2] == ("-c",) and len(command.argv) == 4:
            self._outputs[number] = (on_output, f"\0{command.argv[3]}\0".encode())
            return number
        line = " ".join(command.argv) if command.argv[0] == "rm" else command.argv[2]
        self.stage.ran.append(line)
        action, _, rest = line.partition(" ")
        if action in ("wait", "forever"):
            on_output(Stream.STDOUT, b"waiting\n")
            thread = threading.Thread(target=self._wait, args=(number, action), daemon=True)
            thread.start()
        else:
            self._exit(number, self._act(action, rest, on_output))
        return number

    def _act(self, action: str, rest: str, on_output: OnOutput) -> int:  # noqa: C901 (a table)
        path, _, text = rest.partition(" ")
        match action:
            case "echo":
                on_output(Stream.STDOUT, rest.encode() + b"\n")
            case "both":
                on_output(Stream.STDOUT, b"out\n")
                on_output(Stream.STDERR, b"err\n")
            case "cat":
                on_output(Stream.STDOUT, self.files.get(path, b"(none)"))
            case "put":
                self.files[path] = text.encode()
            case "append":
                self.files[path] = self.files.get(path, b"") + text.encode()
            case "flood":
                for _ in range(int(rest) // 1000):
                    on_output(Stream.STDOUT, b"x" * 1000)
            case "spawn":
                self.left += 1
            case "rm":
                self.files.pop(rest.removeprefix("-rf -- /work/"), None)
            case "die":
                self._end(WorkspaceEnded("its agent was ended from inside", _outcome(Limit.MEMORY)))
            case "lose":
                self._end(BoxLost("the engine was stopped", by_host=True))
            case _:
                return 127
        return 0

    def _wait(self, number: int, action: str) -> None:
        on_exit, killed = self._going[number]
        del on_exit
        self.stage.waiting.release()
        while not killed.wait(0.005):
            if action == "wait" and self.stage.gate.is_set():
                return self._exit(number, 0)
        return self._exit(number, None)

    def _exit(self, number: int, code: int | None) -> None:
        with self._guard:
            going = self._going.pop(number, None)
        if going is not None:
            going[0](CommandExit(code, 9 if code is None else None, 0.01, 0.02))

    def send(self, number: int, data: bytes) -> None:
        self._check()
        on_output, mark = self._outputs[number]
        source = data.partition(b"\n")[2]
        if source == b"hang":
            return
        for stream in Stream:
            on_output(stream, source if stream is Stream.STDOUT else b"")
            for piece in (mark[:7], mark[7:] + b"0 ", b"5\n"):  # torn, as a pipe may tear it
                on_output(stream, piece)

    def kill(self, number: int) -> None:
        self._check()
        with self._guard:
            going = self._going.get(number)
        if going is not None:
            going[1].set()
            if number in self._outputs:
                self._exit(number, None)

    def alive(self) -> int:
        self._check()
        return len(self._going) + self.left

    def write(self, path: str, content: bytes, *, executable: bool = False) -> None:
        self._check()
        self.files[path] = content

    def read(self, path: str, max_bytes: int) -> bytes:
        self._check()
        if path not in self.files:
            raise BoxRefused(f"{path}: No such file or directory")
        return self.files[path]

    def list(self, path: str) -> tuple[Entry, ...]:
        self._check()
        return tuple(
            Entry(name, "file", len(content), executable=False, modified_s=0.0)
            for name, content in sorted(self.files.items())
        )

    def save(self, max_bytes: int) -> bytes:
        self._check()
        self.stage.saves += 1
        content = json.dumps({path: data.hex() for path, data in self.files.items()}).encode()
        if len(content) > max_bytes:
            raise BoxRefused("larger than asked for")
        return content

    def load(self, archive: bytes) -> None:
        self._check()
        self.stage.loads += 1
        held: dict[str, Any] = json.loads(archive)
        self.files = {path: bytes.fromhex(data) for path, data in held.items()}

    def close(self) -> Outcome | None:
        self.stage.in_use.pop(self._slot, None)
        lost = self.ended if isinstance(self.ended, BoxLost) else None
        self._end(WorkspaceEnded("it was closed"))
        if lost is not None:
            raise lost
        return _outcome(None)

    def _end(self, error: SandboxError) -> None:
        with self._guard:
            self.ended = self.ended or error
            going, self._going = self._going, {}
        for on_exit, killed in going.values():
            killed.set()
            on_exit(CommandExit(None, None, 0.0, 0.0))

    def _check(self) -> None:
        if self.ended is not None:
            raise self.ended


def _outcome(limit: Limit | None) -> Outcome:
    return Outcome(
        exit_code=0 if limit is None else None,
        signal=None if limit is None else 9,
        limit=limit,
        cpu_s=0.25,
        user_s=0.25,
        system_s=0.0,
        wall_s=0.5,
        memory_bytes=1000,
        processes=1,
        stdout=b"",
        stderr=b"",
        stdout_bytes=0,
        stderr_bytes=0,
    )
