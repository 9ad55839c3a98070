"""The background processes of a session: what runs, what it printed, how it ended."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

from cupel.session_schema import ProcessInfo
from cupel_sandbox.workspace import Stream
from cupel_service.errors import NotThere
from cupel_service.requests import InvalidRequest
from cupel_service.sessions.running import Started

RUNNING_MAX = 32
ENDED_MAX = 16


@dataclass(slots=True)
class Background:
    """One of them.

    Args:
        id: Its name within the session.
        command: As it was given.
        started: In the workspace.
    """

    id: str
    command: str
    started: Started

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return not self.started.ended.done()

    def info(self) -> ProcessInfo:
        """What there is to know of it."""
        capture = self.started.capture
        how = self.started.ended.result() if self.started.ended.done() else None
        return ProcessInfo(
            id=self.id,
            command=self.command,
            running=how is None,
            exit_code=how.exit_code if how is not None else None,
            signal=how.signal if how is not None else None,
            stdout=capture.text(Stream.STDOUT),
            stderr=capture.text(Stream.STDERR),
            stdout_bytes=capture.written_bytes(Stream.STDOUT),
            stderr_bytes=capture.written_bytes(Stream.STDERR),
            cpu_s=how.cpu_s if how is not None else None,
            wall_s=how.wall_s if how is not None else time.monotonic() - self.started.begun_s,
        )


class Processes:
    """Those of one session that run, and the last ones that ended."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._known: dict[str, Background] = {}

    @property
    def running(self) -> int:
        """How many run now."""
        return sum(each.running for each in self._known.values())

    def make_room(self) -> None:
        """Makes sure that one more may be started.

        Raises:
            InvalidRequest: Too many run already.
        """
        if self.running >= RUNNING_MAX:
            raise InvalidRequest(f"{RUNNING_MAX} background processes run already: kill one")

    def add(self, command: str, started: Started) -> Background:
        """Notes one that has been started."""
        background = Background(str(next(self._numbers)), command, started)
        self._known[background.id] = background
        ended = [each.id for each in self._known.values() if not each.running]
        for old in ended[:-ENDED_MAX]:
            del self._known[old]
        return background

    def get(self, process_id: str) -> Background:
        """One by its name.

        Raises:
            NotThere: There is none, or it ended long ago.
        """
        try:
            return self._known[process_id]
        except KeyError:
            raise NotThere(f"the session has no background process {process_id!r}") from None

    def all(self) -> tuple[ProcessInfo, ...]:
        """What there is to know of each."""
        return tuple(each.info() for each in self._known.values())
