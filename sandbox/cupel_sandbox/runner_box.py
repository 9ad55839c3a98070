"""A box as its runner offers it: frames over a channel, whoever made the box and the channel."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from cupel_sandbox.box import BoxStatistics, Outcome, Run
from cupel_sandbox.errors import BoxLost, BoxRefused, CannotStart
from cupel_sandbox.interactive import InteractiveRun
from cupel_sandbox.protocol import (
    HEADER,
    VERSION,
    Reply,
    Request,
    decode_counts,
    decode_outcome,
    encode_frame,
    encode_get,
    encode_put,
    encode_run,
)

_START_S = 20.0
_ANSWER_S = 60.0  # a runner that owes an answer and is silent for so long is lost
_WALL_MULTIPLE = 10  # the runner gives wall time back that a program waited for a core


@dataclass(frozen=True, slots=True)
class Death:
    """How a runner came to its end.

    Args:
        words: What it said last, or what is known of its end; may be empty.
        by_host: It was ended from outside (the engine stopped, somebody removed the container): no
            program can have done it.
    """

    words: str = ""
    by_host: bool = False


class Channel(Protocol):
    """The control pipes of one runner. Used by one thread; `kill` may come from any."""

    def send(self, data: bytes) -> None:
        """Sends all of it.

        Raises:
            OSError: Nobody is there any more.
        """

    def receive(self, timeout_s: float) -> bytes:
        """What has arrived, at least a byte; nothing at the end.

        Raises:
            TimeoutError: Nothing arrived in that time.
        """

    def death(self) -> Death:
        """Ends what is left of the runner, and says how it ended."""

    def kill(self) -> None:
        """Ends the runner and everything in its box at once. Idempotent; never raises."""

    def close(self) -> None:
        """Ends the runner in good order, and lets go of everything. Idempotent; never raises."""


class RunnerBox:
    """A box; see the Box protocol for what its methods promise.

    Args:
        channel: To a runner that has just been started; closed with the box.
        remedy: Says for a runner's last words what an operator can do about it.

    Raises:
        CannotStart: The runner did not come up.
    """

    def __init__(self, channel: Channel, remedy: Callable[[str], str]) -> None:
        self._channel = channel
        self._numbers = itertools.count(1)
        self._buffer = bytearray()
        self._lost: BoxLost | None = None
        self._closing = threading.Lock()
        self._closed = False
        self._greet(remedy)

    def _greet(self, remedy: Callable[[str], str]) -> None:
        try:
            kind, _, payload = self._receive(_START_S)
        except BoxLost as lost:
            self.close()
            raise CannotStart(f"a box cannot be built: {lost}", remedy(str(lost))) from lost
        version = int.from_bytes(payload[:4], "little")
        if kind != Reply.HELLO or version != VERSION:
            self.close()
            raise CannotStart(
                f"the runner speaks protocol {version}, this package {VERSION}",
                "Remove the cached runner in ~/.cache/cupel.",
            )

    # ---- the Box protocol ----

    def put(self, path: str, content: bytes, *, executable: bool = False) -> None:
        """See Box.put."""
        self._ask(Request.PUT, encode_put(path, content, executable), Reply.DONE)

    def get(self, path: str, max_bytes: int) -> bytes:
        """See Box.get."""
        return self._ask(Request.GET, encode_get(path, max_bytes), Reply.CONTENT)

    def reset(self) -> None:
        """See Box.reset."""
        self._ask(Request.RESET, b"", Reply.DONE)

    def run(self, runs: Iterable[Run]) -> Iterator[Outcome]:
        """See Box.run."""
        going: deque[tuple[int, float]] = deque()  # ids and wall limits of what was sent
        waiting = iter(runs)
        try:
            self._send_next(waiting, going)
            while going:
                self._send_next(waiting, going)  # the runner finds it when it is done with the last
                number, wall_s = going[0]
                kind, answered, payload = self._receive(_WALL_MULTIPLE * wall_s + _ANSWER_S)
                going.popleft()
                if answered != number or kind not in {Reply.OUTCOME, Reply.REFUSED}:
                    raise self._break(f"answer {kind} to request {answered}, not {number}")
                if kind == Reply.REFUSED:
                    raise BoxRefused(payload.decode("utf-8", "replace"))
                yield decode_outcome(payload)
                if not going:
                    self._send_next(waiting, going)
        finally:
            self._cancel(going)

    def interact(self, run: Run) -> InteractiveRun:
        """Starts a program that is fed and listened to while it runs; its `stdin` is not used.

        Until it is over, the box is its alone: only `kill` may be called meanwhile.

        Raises:
            BoxLost: The box has died.
        """
        number = next(self._numbers)
        self._send(encode_frame(Request.STREAM, number, encode_run(run)))
        return InteractiveRun(self, number)

    def close(self) -> None:
        """See Box.close."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        self._lost = self._lost or BoxLost("it was closed")
        self._channel.close()

    def statistics(self) -> BoxStatistics:
        """What this box has done so far.

        Raises:
            BoxLost: The box has died.
        """
        return decode_counts(self._ask(Request.STATISTICS, b"", Reply.COUNTS))

    def kill(self) -> None:
        """Ends the box at once, from any thread; whoever waits for it sees BoxLost."""
        self._channel.kill()

    # ---- frames ----

    def send_input(self, frame: bytes) -> None:
        """Sends a frame beside the thread that receives, for an InteractiveRun.

        Raises:
            BoxLost: The box has died.
        """
        if self._lost:
            raise self._lost
        try:
            self._channel.send(frame)
        except OSError as error:
            self._channel.kill()  # the one who receives finds out what it died of
            raise BoxLost("its pipe is closed") from error

    def receive_frame(self, timeout_s: float) -> tuple[int, int, bytes]:
        """The next frame (type, id, payload), for an InteractiveRun.

        Raises:
            TimeoutError: Nothing has come; the box lives.
            BoxLost: The box has died.
        """
        return self._receive(timeout_s, patient=True)

    def broken(self, reason: str) -> BoxLost:
        """The error of a box whose runner does what no runner does."""
        return self._break(reason)

    def _send_next(self, waiting: Iterator[Run], going: deque[tuple[int, float]]) -> None:
        run = next(waiting, None)
        if run is not None:
            number = next(self._numbers)
            self._send(encode_frame(Request.RUN, number, encode_run(run)))
            going.append((number, run.limits.wall_s))

    def _cancel(self, going: deque[tuple[int, float]]) -> None:
        """Drops what was sent and is no longer wanted, and takes its answers off the pipe."""
        if not going or self._lost:
            return
        with contextlib.suppress(BoxLost):
            self._send(encode_frame(Request.CANCEL, going[-1][0]))
            for _ in range(len(going)):
                self._receive(_ANSWER_S)

    def _ask(self, request: Request, payload: bytes, expected: Reply) -> bytes:
        number = next(self._numbers)
        self._send(encode_frame(request, number, payload))
        kind, answered, content = self._receive(_ANSWER_S)
        if kind == Reply.REFUSED:
            raise BoxRefused(content.decode("utf-8", "replace"))
        if kind != expected or answered != number:
            raise self._break(f"answer {kind} to {request.name}")
        return content

    def _send(self, frame: bytes) -> None:
        if self._lost:
            raise self._lost
        try:
            self._channel.send(frame)
        except OSError as error:
            raise self._break("its pipe is closed") from error

    def _receive(self, timeout_s: float, *, patient: bool = False) -> tuple[int, int, bytes]:
        """The next frame: type, id, payload; TimeoutError only if patient."""
        deadline = time.monotonic() + timeout_s
        while True:
            frame = self._take_frame()
            if frame:
                return frame
            if self._lost:
                raise self._lost
            try:
                got = self._channel.receive(max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                if patient:
                    raise
                raise self._break(f"no answer within {timeout_s:.0f} s") from None
            except OSError as error:
                raise self._break("its pipe is closed") from error
            if not got:
                raise self._break("it ended unexpectedly")
            self._buffer += got

    def _take_frame(self) -> tuple[int, int, bytes] | None:
        buffer = self._buffer
        if len(buffer) < HEADER.size:
            return None
        size, kind, number = HEADER.unpack_from(buffer)
        end = size + 4
        if len(buffer) < end:
            return None
        payload = bytes(memoryview(buffer)[HEADER.size : end])
        del buffer[:end]
        return kind, number, payload

    def _break(self, reason: str) -> BoxLost:
        if self._lost is None:
            death = self._channel.death()
            self._lost = BoxLost(death.words or reason, by_host=death.by_host)
        return self._lost
