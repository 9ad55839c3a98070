"""What a box is: one program at a time, under limits, and the facts of how it ended.

The sandbox knows outcomes only. Whether an outcome is right or wrong is the judge's to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

MEBIBYTE = 1024 * 1024

WORK = "/work"
"""Working directory of every run: writable, empty at its start, wiped at its end."""
SUBMISSION = "/sub"
"""Where `put` places files: readable by every run until the next reset, writable by none."""


class Limit(IntEnum):
    """Which limit ended a run (0 on the wire: none)."""

    CPU = 1
    WALL = 2
    MEMORY = 3
    OUTPUT = 4
    FILE_SIZE = 5
    PROCESSES = 6


@dataclass(frozen=True, slots=True)
class RunLimits:
    """What one run may use; each holds for its whole process tree.

    Args:
        cpu_s: The tree is killed when its CPU time passes this many seconds.
        wall_s: The same for wall time, less what the program waited for a core.
        memory_bytes: Peak of anonymous and shared memory (tmpfs counts, page cache of files not).
        processes: Processes and threads at one time: beyond it forks fail. A tree that goes on
            forking all the same (1000 times) is killed.
        output_bytes: Killed when standard output passes this; nothing beyond it is kept.
        stderr_bytes: Kept of standard error; the rest is counted and thrown away.
        file_bytes: Largest file that the program may write; what it writes is memory as well.
        open_files: File descriptors per process.
        stack_bytes: Stack of the main thread; None is as much as the memory limit allows.
    """

    cpu_s: float = 10.0
    wall_s: float = 30.0
    memory_bytes: int = 256 * MEBIBYTE
    processes: int = 64
    output_bytes: int = 16 * MEBIBYTE
    stderr_bytes: int = 64 * 1024
    file_bytes: int = 1024 * MEBIBYTE
    open_files: int = 256
    stack_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One program to run.

    Args:
        argv: The program by absolute path inside the box, and its arguments.
        stdin: What it reads from standard input, or the path of a file that was `put` before.
        limits: What it may use.
        environment: Its whole environment; nothing is inherited.
        memory_baseline_bytes: What an empty program of this language uses on this host: added to
            the memory limit and taken off the reported peak, so that limits mean the program's own.
        writable_submission: Let this run write to `/sub` (a compiler must); its files stay there.
    """

    argv: tuple[str, ...]
    stdin: bytes | str = b""
    limits: RunLimits = RunLimits()
    environment: Mapping[str, str] = field(default_factory=dict)
    memory_baseline_bytes: int = 0
    writable_submission: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended, and what it used. Times in seconds, sizes in bytes.

    Exactly one of `exit_code` and `signal` is set, also when a limit ended the run (then it is
    usually signal 9, sent by the runner or the kernel). `stdout` holds the first `output_bytes` of
    what was written, `stdout_bytes` how much was written until the end.
    """

    exit_code: int | None
    signal: int | None
    limit: Limit | None
    cpu_s: float
    user_s: float
    system_s: float
    wall_s: float
    memory_bytes: int
    processes: int
    stdout: bytes
    stderr: bytes
    stdout_bytes: int
    stderr_bytes: int


@dataclass(frozen=True, slots=True)
class BoxStatistics:
    """What a box has done since it was built.

    Args:
        runs: Programs started.
        cancelled: Of them, those that were ended because nobody wanted them any more.
        left_processes: Of those that ended by themselves, those that left others alive.
        left_files: Those that left files in scratch places.
        resets: How often `/sub` was emptied.
    """

    runs: int
    cancelled: int
    left_processes: int
    left_files: int
    resets: int


class Box(Protocol):
    """A place where programs run, one at a time, none of which can see or outlive another.

    Not thread-safe: one user at a time. After any BoxLost the box is dead; close it.
    """

    def put(self, path: str, content: bytes, *, executable: bool = False) -> None:
        """Places a file under `/sub`; `path` is relative to it.

        Raises:
            BoxRefused: The path leaves `/sub`, or the scratch disk is full.
            BoxLost: The box has died.
        """

    def get(self, path: str, max_bytes: int) -> bytes:
        """Reads a regular file under `/sub`; symbolic links are never followed.

        Raises:
            BoxRefused: No such regular file, or larger than `max_bytes`.
            BoxLost: The box has died.
        """

    def run(self, runs: Iterable[Run]) -> Iterator[Outcome]:
        """Runs programs one after another and yields their outcomes in order.

        The next run is sent while the one before it is still going. Closing the iterator early
        kills what is running and drops what is queued.

        Raises:
            BoxRefused: A request was malformed, or its program does not exist.
            BoxLost: The box has died; the run whose outcome was awaited was interrupted.
        """

    def reset(self) -> None:
        """Empties `/sub` and every scratch place, as if the box were new.

        Raises:
            BoxLost: The box could not be proven clean, and was destroyed.
        """

    def close(self) -> None:
        """Ends the box and everything in it. Idempotent; never raises."""
