"""A fixed number of slots, each with a box that is replaced when it is lost."""

from __future__ import annotations

import contextlib
import logging
import threading

from cupel_sandbox.errors import BoxLost, SandboxError
from cupel_sandbox.native import BoxFacts, NativeBox, NativeBoxConfig, NativeHost
from cupel_sandbox.toolchains import Toolchain

_log = logging.getLogger(__name__)


class Slot:
    """One place for one program at a time. Used by one thread; `interrupt` may come from any."""

    def __init__(self, host: NativeHost) -> None:
        self._host = host
        self._guard = threading.Lock()
        self._interrupted = False
        self._box = host.open_box()

    @property
    def box(self) -> NativeBox:
        """The box that is there now; after a BoxLost, call `replace` first."""
        return self._box

    def replace(self) -> None:
        """Destroys the box and builds a new one.

        Raises:
            CannotStart: The host does not give a new box.
            SandboxError: The pool is stopping.
        """
        self._box.close()
        with self._guard:
            if self._interrupted:
                raise SandboxError("the pool is stopping; its boxes are not replaced")
            self._box = self._host.open_box()

    def interrupt(self) -> None:
        """Kills the box and whatever runs in it, for good."""
        with self._guard:
            self._interrupted = True
            self._box.kill()

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


class Pool:
    """All slots of a service.

    Args:
        config: How the boxes are built.
        slots: How many programs may run at one time; more than the physical cores makes the times
            of programs depend on each other.
        toolchains: The compilers and interpreters that the boxes show.
    """

    def __init__(
        self, config: NativeBoxConfig, slots: int, toolchains: tuple[Toolchain, ...] = ()
    ) -> None:
        if slots < 1:
            raise ValueError("a pool needs at least one slot")
        self._config = config
        self._count = slots
        self._toolchains = toolchains
        self._host: NativeHost | None = None
        self._slots: tuple[Slot, ...] = ()

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The slots, once the pool has started."""
        return self._slots

    @property
    def toolchains(self) -> tuple[Toolchain, ...]:
        """The compilers and interpreters inside the boxes."""
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
        self._host = NativeHost(self._config)
        slots: list[Slot] = []
        try:
            for _ in range(self._count):
                slots.append(Slot(self._host))  # noqa: PERF401 - those made before a failure must be closed
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
