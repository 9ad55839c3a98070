"""The floor that benches compare with: a program started and waited for, and nothing else.

`posix_spawn` uses vfork, the fastest way to start a program; standard input is a file in memory,
standard output a pipe that is read to its end, standard error goes to /dev/null.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ended:
    """How a bare program ended, and what it printed."""

    exit_code: int
    output: bytes


@contextmanager
def stdin_file(content: bytes) -> Iterator[int]:
    """Holds a program's input in memory.

    Args:
        content: The input.

    Yields:
        A file descriptor; `spawn_and_wait` reads it from the start each time.
    """
    descriptor = os.memfd_create("stdin")
    try:
        os.write(descriptor, content)
        yield descriptor
    finally:
        os.close(descriptor)


def spawn_and_wait(argv: Sequence[str], environment: Mapping[str, str], stdin: int) -> Ended:
    """Runs a program without any sandbox. Only for programs that this project wrote.

    Args:
        argv: Its absolute path and its arguments.
        environment: Its whole environment.
        stdin: From `stdin_file`.

    Returns:
        How it ended.
    """
    os.lseek(stdin, 0, os.SEEK_SET)
    reader, writer = os.pipe()
    try:
        pid = os.posix_spawn(
            argv[0],
            list(argv),
            environment,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, stdin, 0),
                (os.POSIX_SPAWN_DUP2, writer, 1),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            ],
        )
    finally:
        os.close(writer)
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        output = pipe.readall()
    _, status, _ = os.wait4(pid, 0)
    return Ended(os.waitstatus_to_exitcode(status), output)
