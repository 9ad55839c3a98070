"""A fixed number of slots, each with a box that is replaced when it is lost."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from cupel_sandbox.box import Box
from cupel_sandbox.errors import BoxLost, CannotStart, SandboxError
from cupel_sandbox.facts import BoxFacts
from cupel_sandbox.runner_box import RunnerBox
from cupel_sandbox.toolchains import Toolchain

_log = logging.getLogger(__name__)

PATIENCE_S = 60.0
"""For how long a slot tries to replace a lost box, where nothing else is said."""
_RETRY_S = 0.5


class Host(Protocol):
    """Where boxes come from."""

    @property
    def facts(self) -> BoxFacts:
        """What is in force for its boxes."""

    def open_box(self) -> RunnerBox:
        """Builds a new box.

        Raises:
            CannotStart: It cannot be had now; says why and what to do.
        """

    def find_toolchains(self, box: Box) -> tuple[Toolchain, ...]:
        """The compilers and interpreters inside its boxes, of which `box` is one."""

    def close(self) -> None:
        """Removes what belongs to it. The boxes must be closed. Idempotent."""


class Slot:
    """One place for one program at a time. Used by one thread; `interrupt` may come from any.

    Args:
        host: Where its boxes come from.
        patience_s: For how long a lost box is tried to be replaced.
    """

    def __init__(self, host: Host, patience_s: float = PATIENCE_S) -> None:
        self._host = host
        self._patience_s = patience_s
        self._guard = threading.Lock()
        self._interrupted = threading.Event()
        self._box = host.open_box()

    @property
    def box(self) -> RunnerBox:
        """The box that is there now; after a BoxLost, call `replace` first."""
        return self._box

    def replace(self) -> None:
        """Destroys the box and builds a new one, trying again for a while.

        Raises:
            CannotStart: The host does not give a new box.
            SandboxError: The pool is stopping.
        """
        self._box.close()
        deadline = time.monotonic() + self._patience_s
        while not self._interrupted.is_set():
            try:
                return self._open()
            except CannotStart as cannot:
                if time.monotonic() > deadline:
                    raise
                _log.warning("a lost box cannot be replaced yet: %s", cannot)
            self._interrupted.wait(_RETRY_S)
        raise _stopping()

    def _open(self) -> None:
        box = self._host.open_box()  # unguarded: an engine may take its time, interrupt must not
        with self._guard:
            if not self._interrupted.is_set():
                self._box = box
                return
        box.close()
        raise _stopping()

    def interrupt(self) -> None:
        """Kills the box and whatever runs in it, for good, and ends any waiting for a new one."""
        with self._guard:
            self._interrupted.set()
            box = self._box
        box.kill()

    def close(self) -> None:
        """Ends the box, and says in the log what it has done."""
        with contextlib.suppress(BoxLost):
            done = self._box.statistics()
            _log.info(
                "box: %d runs (%d cancelled, %d left processes behind, %d left files), %d resets",
                done.runs,
                done.cancelled,
                done.left_processes,
                done.left_files,
                done.resets,
            )
        self._box.close()


def _stopping() -> SandboxError:
    return SandboxError("the pool is stopping; its boxes are not replaced")


class Pool:
    """All slots of a service.

    Args:
        open_host: Makes the host of the boxes; raises CannotStart where there can be none.
        slots: How many programs may run at one time; more than the physical cores makes the times
            of programs depend on each other.
        patience_s: For how long each slot tries to replace a lost box: a container engine that is
            being restarted comes back.
    """

    def __init__(
        self, open_host: Callable[[], Host], slots: int, patience_s: float = PATIENCE_S
    ) -> None:
        if slots < 1:
            raise ValueError("a pool needs at least one slot")
        self._open_host = open_host
        self._count = slots
        self._patience_s = patience_s
        self._host: Host | None = None
        self._slots: tuple[Slot, ...] = ()
        self._toolchains: tuple[Toolchain, ...] = ()

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The slots, once the pool has started."""
        return self._slots

    @property
    def toolchains(self) -> tuple[Toolchain, ...]:
        """The compilers and interpreters inside the boxes, once the pool has started."""
        return self._toolchains

    @property
    def facts(self) -> BoxFacts:
        """What is in force for the boxes; known once the pool has started."""
        if self._host is None:
            raise SandboxError("the pool has not started")
        return self._host.facts

    def start(self) -> None:
        """Builds every box.

        Raises:
            CannotStart: A layer cannot be had on this host; nothing is left behind.
        """
        self._host = self._open_host()
        slots: list[Slot] = []
        try:
            for _ in range(self._count):
                # Not a comprehension: those made before a failure must be closed.
                slots.append(Slot(self._host, self._patience_s))  # noqa: PERF401
            self._toolchains = self._host.find_toolchains(slots[0].box)
        except BaseException:
            for slot in slots:
                slot.close()
            self._host.close()
            raise
        self._slots = tuple(slots)

    def interrupt(self) -> None:
        """Kills what runs in every box at once; whoever waits for it sees BoxLost."""
        for slot in self._slots:
            slot.interrupt()

    def close(self) -> None:
        """Ends every box and removes what belongs to them. Idempotent."""
        for slot in self._slots:
            slot.close()
        self._slots = ()
        if self._host is not None:
            self._host.close()
            self._host = None
