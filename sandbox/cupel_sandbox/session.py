"""What a session is asked for: its limits, its commands, its paths."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field

from cupel_sandbox.box import MEBIBYTE, WORK
from cupel_sandbox.errors import BoxRefused

_WORDS_MAX = 512  # WORDS_MAX of runner.h
_WORDS_BYTES_MAX = MEBIBYTE


@dataclass(frozen=True, slots=True)
class WorkspaceLimits:
    """What a whole session may use.

    Args:
        cpu_s: CPU time of all its processes together.
        wall_s: Its total life.
        memory_bytes: Of all its processes and files. The kernel kills processes one by one for it,
            the largest first; only where use is sampled does it end the session.
        processes: Processes and threads at one time, the agent among them.
        open_files: File descriptors per process.
        file_bytes: Largest file that it may write.
    """

    cpu_s: float = 300.0
    wall_s: float = 3600.0
    memory_bytes: int = 512 * MEBIBYTE
    processes: int = 64
    open_files: int = 256
    file_bytes: int = 1024 * MEBIBYTE


@dataclass(frozen=True, slots=True)
class Command:
    """A program to execute.

    Args:
        argv: The program, found along the environment's PATH if it holds no slash, and its
            arguments.
        stdin: All that it reads from standard input; None leaves that open: see `Workspace.send`.
        environment: Its whole environment; nothing is inherited.
        cwd: Where it starts.
    """

    argv: tuple[str, ...]
    stdin: bytes | None = b""
    environment: Mapping[str, str] = field(default_factory=dict)
    cwd: str = WORK


def below_work(path: str) -> str:
    """A path relative to `/work`, without detours.

    Raises:
        BoxRefused: It is not below `/work`.
    """
    whole = posixpath.normpath(posixpath.join(WORK, path))
    if "\0" in whole or not (whole == WORK or whole.startswith(f"{WORK}/")):
        raise BoxRefused(f"{path!r} is no path below {WORK}")
    return posixpath.relpath(whole, WORK)


def check_words(command: Command) -> None:
    """Looks whether an agent takes the words of a command.

    Raises:
        BoxRefused: There are too many or too long ones, or one has a NUL byte.
    """
    variables = [f"{name}={value}" for name, value in command.environment.items()]
    words = [*command.argv, *variables, command.cwd]
    if not command.argv:
        raise BoxRefused("a command without a program")
    if max(len(command.argv), len(variables)) > _WORDS_MAX:
        raise BoxRefused(f"a command of more than {_WORDS_MAX} words or variables")
    if any("\0" in word for word in words):
        raise BoxRefused("a word of a command holds a NUL byte")
    if sum(len(word.encode()) for word in words) > _WORDS_BYTES_MAX:
        raise BoxRefused(f"a command of more than {_WORDS_BYTES_MAX} bytes")
