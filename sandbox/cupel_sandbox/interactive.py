"""A program that is fed and listened to while it runs."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from cupel_sandbox.box import Outcome
from cupel_sandbox.errors import BoxLost, BoxRefused
from cupel_sandbox.protocol import TAKEN, Reply, Request, decode_outcome, encode_frame

PIECE_BYTES = 64 * 1024
_AHEAD_BYTES = 1024 * 1024  # of input that the program has not read; see runner/protocol.c
PENDING_BYTES_MAX = 64 * 1024 * 1024
"""How much input may wait here for a program that does not read."""
_CANCEL_S = 60.0


class Feed:
    """Input on its way to somebody who says how much of it was taken. Not thread-safe, never waits.

    Args:
        transmit: Sends one piece; an empty one is the end.
        ahead_bytes: How much may be sent beyond what was taken; a multiple of a piece.
        pending_bytes_max: How much may wait here.
    """

    def __init__(
        self,
        transmit: Callable[[bytes], None],
        ahead_bytes: int = _AHEAD_BYTES,
        pending_bytes_max: int = PENDING_BYTES_MAX,
    ) -> None:
        self._transmit = transmit
        self._room_bytes = ahead_bytes
        self._sent_bytes = 0  # and not taken
        self._pending: deque[bytes] = deque()
        self._pending_bytes = 0
        self._pending_bytes_max = pending_bytes_max
        self._ending = False
        self._ended = False

    def put(self, data: bytes) -> None:
        """Sends data, or keeps it until there is room.

        Raises:
            BoxRefused: Too much waits already, or the input has ended.
        """
        if self._ending:
            raise BoxRefused("its input has ended")
        if self._pending_bytes + len(data) > self._pending_bytes_max:
            raise BoxRefused("it does not read its input, of which too much waits already")
        for begin in range(0, len(data), PIECE_BYTES):
            self._pending.append(data[begin : begin + PIECE_BYTES])
        self._pending_bytes += len(data)
        self._push()

    def end(self) -> None:
        """Ends the input after what was put. Idempotent."""
        self._ending = True
        self._push()

    def taken(self, size: int) -> bool:
        """Notes that so many bytes were taken; False if there were not so many."""
        if size > self._sent_bytes:
            return False
        self._sent_bytes -= size
        self._push()
        return True

    def _push(self) -> None:
        while self._pending and self._sent_bytes + len(self._pending[0]) <= self._room_bytes:
            piece = self._pending.popleft()
            self._pending_bytes -= len(piece)
            self._sent_bytes += len(piece)
            self._transmit(piece)
        if self._ending and not self._pending and not self._ended:
            self._ended = True
            self._transmit(b"")


class Frames(Protocol):
    """What an interactive run needs of its box."""

    def send_input(self, frame: bytes) -> None:
        """Sends a frame; raises BoxLost."""

    def receive_frame(self, timeout_s: float) -> tuple[int, int, bytes]:
        """The next frame; raises TimeoutError or BoxLost."""

    def broken(self, reason: str) -> BoxLost:
        """The error of a box whose runner does what no runner does."""


class InteractiveRun:
    """A program whose input is sent and whose output is read while it runs.

    `send`, `end_input` and `cancel` may be called from any thread and never wait for the program;
    `receive` belongs to one. The run must be received to its end: only then is the box free again.
    """

    def __init__(self, frames: Frames, number: int) -> None:
        self._frames = frames
        self._number = number
        self._guard = threading.Lock()
        self._feed = Feed(self._transmit)
        self._cancelled = False
        self._outcome: Outcome | None = None
        self._over = False

    def send(self, data: bytes) -> None:
        """Sends bytes to its standard input; what it does not read yet waits here.

        Raises:
            BoxRefused: It does not read, and too much waits; or its input was ended.
            BoxLost: The box has died.
        """
        with self._guard:
            self._feed.put(data)

    def end_input(self) -> None:
        """Closes its standard input after what was sent. Idempotent.

        Raises:
            BoxLost: The box has died.
        """
        with self._guard:
            self._feed.end()

    def cancel(self) -> None:
        """Kills it with everything that it started; `receive` then comes to the end. Idempotent.

        Raises:
            BoxLost: The box has died.
        """
        with self._guard:
            if not self._cancelled:
                self._cancelled = True
                self._frames.send_input(encode_frame(Request.CANCEL, self._number))

    def receive(self, timeout_s: float) -> bytes:
        """What it has written to its standard output, at least a byte; nothing once it is over.

        Raises:
            TimeoutError: It wrote nothing in that time, and lives.
            BoxRefused: It could not be started.
            BoxLost: The box has died.
        """
        while not self._over:
            kind, number, payload = self._frames.receive_frame(timeout_s)
            if number != self._number:
                raise self._frames.broken(f"answer {kind} to request {number}")
            if kind == Reply.OUTPUT:
                return payload
            if kind == Reply.TAKEN:
                self._note_taken(payload)
                continue
            self._over = True
            if kind == Reply.OUTCOME:
                self._outcome = decode_outcome(payload)
            elif kind == Reply.REFUSED:
                raise BoxRefused(payload.decode("utf-8", "replace"))
            elif kind != Reply.CANCELLED:
                raise self._frames.broken(f"answer {kind} to an interactive run")
        return b""

    def finish(self, timeout_s: float = _CANCEL_S) -> Outcome | None:
        """Drops what it still writes until it is over; see `outcome`.

        Raises:
            BoxLost: The box has died, or the run is not over in that time.
        """
        try:
            while self.receive(timeout_s):
                pass
        except TimeoutError as error:
            raise self._frames.broken("an interactive run does not end") from error
        return self._outcome

    @property
    def outcome(self) -> Outcome | None:
        """How it ended, once it is over, with an empty `stdout`; None if it was cancelled."""
        return self._outcome

    def _note_taken(self, payload: bytes) -> None:
        (size,) = TAKEN.unpack(payload)
        with self._guard:
            if not self._feed.taken(size):
                raise self._frames.broken("more input was taken than was sent")

    def _transmit(self, piece: bytes) -> None:
        self._frames.send_input(encode_frame(Request.INPUT, self._number, piece))
