"""A pool whose boxes run tiny made-up programs, so that the service is tested without a sandbox.

A program is one line of words: `echo` prints its input, `print X` prints X, `wait` waits until the
pool's `gate` opens (or the pool is interrupted), `die` takes the box along, all else exits with 1.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cupel.schema import Language
from cupel_sandbox.box import MEBIBYTE, Outcome, Run
from cupel_sandbox.errors import BoxLost, BoxRefused, CannotStart
from cupel_sandbox.toolchains import Toolchain

PYTHON_ONLY = (
    Toolchain("c", "", reason="not found: a C compiler (apt install gcc)"),
    Toolchain("cpp", "", reason="not found: a C++ compiler (apt install g++)"),
    Toolchain("python", "/usr/bin/python3", "Python 3.11.2"),
)
BASELINE_BYTES = 7 * MEBIBYTE


@dataclass(frozen=True, slots=True)
class FakeFacts:
    box: str = "fake"
    cgroup: Literal["v1", "v2", "none"] = "v2"
    seccomp: bool = True
    user: Literal["root", "ordinary"] = "ordinary"
    degraded: tuple[str, ...] = ()
    runtime: str = ""
    image: str = ""
    accounting: str = "cgroup"
    scratch_bytes: int = 64 * MEBIBYTE
    box_memory_bytes: int = 0
    box_processes: int = 0


@dataclass
class FakePool:
    count: int = 1
    facts: FakeFacts = FakeFacts()
    toolchains: Sequence[Toolchain] = PYTHON_ONLY
    cannot_start: CannotStart | None = None
    gate: threading.Event = field(default_factory=threading.Event)
    waiting: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    interrupted: threading.Event = field(default_factory=threading.Event)
    ran: list[str] = field(default_factory=list)
    closed: bool = False
    slots: Sequence[FakeSlot] = ()

    def start(self) -> None:
        if self.cannot_start is not None:
            raise self.cannot_start
        self.slots = tuple(FakeSlot(self) for _ in range(self.count))

    def interrupt(self) -> None:
        self.interrupted.set()
        self.gate.set()

    def close(self) -> None:
        self.closed = True
        self.gate.set()


class FakeSlot:
    def __init__(self, pool: FakePool) -> None:
        self._pool = pool
        self.box = FakeBox(pool)

    def replace(self) -> None:
        if self._pool.interrupted.is_set():
            raise CannotStart("the pool was interrupted", "Start it again")
        self.box = FakeBox(self._pool)


class FakeBox:
    def __init__(self, pool: FakePool) -> None:
        self._pool = pool
        self._files: dict[str, bytes] = {}

    def put(self, path: str, content: bytes, *, executable: bool = False) -> None:
        self._files[path] = content

    def get(self, path: str, max_bytes: int) -> bytes:
        try:
            return self._files[path]
        except KeyError:
            raise BoxRefused(f"{path}: No such file or directory") from None

    def run(self, runs: Iterable[Run]) -> Iterator[Outcome]:
        for run in runs:
            yield self._run(run)

    def reset(self) -> None:
        self._files.clear()

    def close(self) -> None:
        self._files.clear()

    def _run(self, run: Run) -> Outcome:
        source = self._files.get("main.py", b"")  # none: a look for a shell
        action, _, argument = source.decode(errors="replace").strip().partition(" ")
        stdin = run.stdin if isinstance(run.stdin, bytes) else run.stdin.encode()
        if not action:  # the baseline is measured by an empty program
            return outcome(b"", memory_bytes=BASELINE_BYTES)
        self._pool.ran.append(action)
        match action:
            case "echo":
                return outcome(stdin)
            case "print":
                return outcome(argument.encode())
            case "wait":
                self._pool.waiting.release()
                assert self._pool.gate.wait(timeout=60)
                if self._pool.interrupted.is_set():
                    raise BoxLost("interrupted")
                return outcome(stdin)
            case "die":
                raise BoxLost("died")
            case _:
                return outcome(b"", exit_code=1)


def outcome(stdout: bytes, *, exit_code: int = 0, memory_bytes: int = MEBIBYTE) -> Outcome:
    return Outcome(
        exit_code=exit_code,
        signal=None,
        limit=None,
        cpu_s=0.01,
        user_s=0.01,
        system_s=0.0,
        wall_s=0.02,
        memory_bytes=memory_bytes,
        processes=1,
        stdout=stdout,
        stderr=b"",
        stdout_bytes=len(stdout),
        stderr_bytes=0,
    )


def echo_problem(tests: int = 2, **fields: Any) -> dict[str, Any]:
    """A problem that `echo` solves: test n of tier n."""
    return {
        "tests": [
            {"name": f"t{n}", "input": f"{n}\n", "output": f"{n}\n", "tier": n}
            for n in range(1, tests + 1)
        ],
        **fields,
    }


def python(source: str, **fields: Any) -> Mapping[str, Any]:
    """A submission of one of the programs above."""
    return {"problem": echo_problem(), "language": Language.PYTHON, "source": source, **fields}
