"""Native boxes: Linux namespaces, cgroups and seccomp, with the runner as PID 1. No daemon."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Literal

from cupel_sandbox.box import BoxStatistics, Outcome, Run
from cupel_sandbox.build import build_runner
from cupel_sandbox.cgroup import CgroupTree, open_cgroups
from cupel_sandbox.errors import BoxLost, BoxRefused, CannotStart
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

LAYERS = frozenset({"cgroup", "seccomp"})
"""Isolation layers that an operator may give up by name."""

_START_S = 20.0
_ANSWER_S = 60.0  # a runner that owes an answer and is silent for so long is lost
_WALL_MULTIPLE = 10  # the runner gives wall time back that a program waited for a core
_PIPE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class NativeBoxConfig:
    """How native boxes are built.

    Args:
        allow_degraded: Layers given up by name, of LAYERS.
        mounts: Directories of the host shown read-only besides the standard ones (toolchains).
        scratch_bytes: Size of the file system that programs may write; what they write counts as
            their memory all the same.
    """

    allow_degraded: frozenset[str] = frozenset()
    mounts: tuple[str, ...] = ()
    scratch_bytes: int = 4 * 1024**3


@dataclass(frozen=True, slots=True)
class BoxFacts:
    """What is in force for the boxes of this host."""

    box: str
    cgroup: Literal["v1", "v2", "none"]
    seccomp: bool
    user: Literal["root", "ordinary"]
    degraded: tuple[str, ...]


class NativeHost:
    """What all native boxes of this process share: the runner, the cgroups, the janitor.

    Raises:
        CannotStart: A layer cannot be had on this host and was not given up by name.
    """

    def __init__(self, config: NativeBoxConfig) -> None:
        unknown = config.allow_degraded - LAYERS
        if unknown:
            raise CannotStart(
                f"no layer is called {', '.join(sorted(unknown))}",
                f"--allow-degraded takes: {', '.join(sorted(LAYERS))}.",
            )
        self._config = config
        self._runner = build_runner()
        self._numbers = itertools.count()
        self._cgroups: CgroupTree | None = None
        try:
            self._cgroups = open_cgroups()
        except CannotStart:
            if "cgroup" not in config.allow_degraded:
                raise
        self._janitor = self._start_janitor() if self._cgroups else None
        degraded = [] if self._cgroups else ["cgroup"]
        if "seccomp" in config.allow_degraded:
            degraded.append("seccomp")
        self.facts = BoxFacts(
            box="native",
            cgroup="none" if not self._cgroups else "v1" if self._cgroups.version == 1 else "v2",
            seccomp="seccomp" not in config.allow_degraded,
            user="root" if os.geteuid() == 0 else "ordinary",
            degraded=tuple(degraded),
        )

    def _start_janitor(self) -> subprocess.Popen[bytes]:
        assert self._cgroups  # noqa: S101 - only called with cgroups
        return subprocess.Popen(
            [str(self._runner), "janitor", *map(str, self._cgroups.directories)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def open_box(self) -> NativeBox:
        """Builds a new box.

        Raises:
            CannotStart: The kernel refused a layer; says which and what to do.
        """
        number = next(self._numbers)
        options = [
            f"scratch-bytes={self._config.scratch_bytes}",
            f"uid-first={0x70000000 + number % 4096 * 4096}",
            f"seccomp={int(self.facts.seccomp)}",
            *(f"mount={directory}" for directory in self._config.mounts),
        ]
        if self._cgroups:
            options += self._cgroups.make_box(number)
        try:
            return NativeBox([str(self._runner), "box", *options], self._forget_box(number))
        except CannotStart:
            self._forget_box(number)()
            raise

    def _forget_box(self, number: int) -> _Forget:
        return _Forget(self._cgroups, number)

    def close(self) -> None:
        """Removes the cgroups. The boxes must be closed. Idempotent."""
        if self._cgroups:
            self._cgroups.close()
        if self._janitor:
            self._janitor.communicate()
            self._janitor = None


@dataclass(frozen=True, slots=True)
class _Forget:
    cgroups: CgroupTree | None
    number: int

    def __call__(self) -> None:
        if self.cgroups:
            self.cgroups.remove_box(self.number)


class NativeBox:
    """A box on this host; see the Box protocol for what its methods promise."""

    def __init__(self, command: list[str], forget: _Forget) -> None:
        self._forget = forget
        self._numbers = itertools.count(1)
        self._buffer = bytearray()
        self._lost = ""
        self._closing = threading.RLock()
        self._closed = False
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env={},
            cwd="/",
        )
        assert self._process.stdin  # noqa: S101 - for the type checker: they are pipes
        assert self._process.stdout  # noqa: S101
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        self._ready = select.poll()
        self._ready.register(self._out, select.POLLIN)
        self._greet()

    def _greet(self) -> None:
        try:
            kind, _, payload = self._receive(_START_S)
        except BoxLost as lost:
            self.close()
            raise CannotStart(f"a native box cannot be built: {lost}", _remedy(str(lost))) from lost
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

    def close(self) -> None:
        """See Box.close."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._lost = self._lost or "it was closed"
            process = self._process
            with contextlib.suppress(OSError):
                _stream(process.stdin).close()
            try:
                process.wait(timeout=1.0)  # the end of its pipe ends it
            except subprocess.TimeoutExpired:
                self.kill()
                process.wait()
            _stream(process.stdout).close()
            _stream(process.stderr).close()
            self._forget()

    def statistics(self) -> BoxStatistics:
        """What this box has done so far.

        Raises:
            BoxLost: The box has died.
        """
        return decode_counts(self._ask(Request.STATISTICS, b"", Reply.COUNTS))

    def kill(self) -> None:
        """Ends the box at once, from any thread; whoever waits for it sees BoxLost."""
        with self._closing, contextlib.suppress(OSError):
            # The runner dies with the shim (its parent-death signal), and everything with it.
            self._process.kill()
            # It also ends at the end of its pipe; dup2 lets go of our end without freeing the
            # number, which another thread may be about to write to.
            if not self._closed:
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._in, inheritable=False)
                os.close(null)

    # ---- frames ----

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
            raise BoxLost(self._lost)
        try:
            view = memoryview(frame)
            while view:
                view = view[os.write(self._in, view) :]
        except OSError as error:
            raise self._break(self._last_words() or "its pipe is closed") from error

    def _receive(self, timeout_s: float) -> tuple[int, int, bytes]:
        """The next frame: type, id, payload."""
        deadline = time.monotonic() + timeout_s
        while True:
            frame = self._take_frame()
            if frame:
                return frame
            if self._lost:
                raise BoxLost(self._lost)
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not self._ready.poll(left_s * 1000):
                raise self._break(f"no answer within {timeout_s:.0f} s")
            got = os.read(self._out, _PIPE_BYTES)
            if not got:
                raise self._break(self._last_words() or "it ended unexpectedly")
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
        self._lost = self._lost or reason
        self.kill()
        return BoxLost(self._lost)

    def _last_words(self) -> str:
        """What the runner said on its standard error before it ended."""
        stream = _stream(self._process.stderr)
        self.kill()
        return stream.read(4096).decode("utf-8", "replace").strip()


def _stream(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # noqa: S101 - for the type checker: all three are pipes
    return stream


def _remedy(reason: str) -> str:
    if "namespaces" in reason or "uid_map" in reason:
        return (
            "Run as root, or allow user namespaces "
            "(sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces > 0; "
            "in a container: --cap-add SYS_ADMIN)."
        )
    if "filter" in reason:
        return "The kernel needs CONFIG_SECCOMP_FILTER; or give it up: --allow-degraded=seccomp."
    if "/proc" in reason:
        return "In a container, /proc must not be masked (--security-opt systempaths=unconfined)."
    return "Run `cupel doctor` to see what this host offers."
