"""Workspaces for tests: lines of shell in them, and what came of each."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from box_stage import SLOWNESS
from cupel_sandbox.errors import BoxLost
from cupel_sandbox.runner_box import RunnerBox
from cupel_sandbox.workspace import (
    Command,
    CommandExit,
    Stream,
    Workspace,
    WorkspaceLimits,
)

LIMITS = WorkspaceLimits(cpu_s=60.0 * SLOWNESS, wall_s=300.0 * SLOWNESS, processes=32)
ENVIRONMENT = {"PATH": "/usr/bin:/bin"}
PATIENCE_S = 60.0 * SLOWNESS


def until(condition: Callable[[], bool]) -> None:
    """Waits for something that happens soon."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.01)


@dataclass
class Shown:
    """A command that was started, and what came of it until now."""

    number: int = 0
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    ends: list[CommandExit] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def on_output(self, stream: Stream, data: bytes) -> None:
        assert not self.ends
        assert data
        (self.stdout if stream == Stream.STDOUT else self.stderr).extend(data)

    def on_exit(self, ended: CommandExit) -> None:
        self.ends.append(ended)
        self._over.set()

    def wait(self) -> CommandExit:
        """How it ended, once it has."""
        assert self._over.wait(PATIENCE_S), "the command does not end"
        (ended,) = self.ends
        return ended


def start(workspace: Workspace, *argv: str, stdin: bytes | None = b"", cwd: str = "/work") -> Shown:
    """Starts a command."""
    shown = Shown()
    command = Command(argv, stdin, ENVIRONMENT, cwd)
    shown.number = workspace.start(command, shown.on_output, shown.on_exit)
    return shown


def begin(workspace: Workspace, line: str, *, stdin: bytes | None = b"") -> Shown:
    """Starts a line of shell."""
    return start(workspace, "/bin/sh", "-c", line, stdin=stdin)


def sh(workspace: Workspace, line: str, *, stdin: bytes | None = b"") -> str:
    """What a line of shell prints; that it ends well is asserted."""
    shown = begin(workspace, line, stdin=stdin)
    ended = shown.wait()
    assert ended.exit_code == 0, (ended, shown.stdout, shown.stderr)
    return shown.stdout.decode()


@contextmanager
def opened(
    box: RunnerBox, limits: WorkspaceLimits = LIMITS, answer_s: float = PATIENCE_S
) -> Iterator[Workspace]:
    """A workspace that is closed at the end, if its box has not died."""
    workspace = Workspace(box, limits, answer_s)
    try:
        yield workspace
    finally:
        try:
            workspace.close()
        except BoxLost:
            box.close()
