"""Which compilers and interpreters this host has, and which directories a box must show."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cupel_sandbox.box import Box, Run
from cupel_sandbox.errors import BoxRefused


@dataclass(frozen=True, slots=True)
class Toolchain:
    """A compiler or interpreter that can be used inside a box.

    Args:
        name: `c`, `cpp` or `python`.
        executable: Its absolute path, the same on the host and in a box; empty if it is missing.
        version: The first line that it prints of its own version.
        mounts: Directories that a box must show besides the standard ones.
        reason: Why it is missing and what to install; empty if it is there.
    """

    name: str
    executable: str
    version: str = ""
    mounts: tuple[str, ...] = ()
    reason: str = ""

    @property
    def available(self) -> bool:
        """Whether programs of this language can be run here."""
        return bool(self.executable)


def find_toolchains() -> tuple[Toolchain, ...]:
    """Looks for the toolchains of every language, once, on this host."""
    return (
        _find_compiler("c", ("gcc", "cc", "clang"), "a C compiler (apt install gcc)"),
        _find_compiler("cpp", ("g++", "c++", "clang++"), "a C++ compiler (apt install g++)"),
        _find_python(),
    )


def _find_compiler(name: str, candidates: tuple[str, ...], wanted: str) -> Toolchain:
    for candidate in candidates:
        # Only the system's own directories: a box shows those and nothing of the host's homes.
        found = shutil.which(candidate, path="/usr/bin:/bin")
        if found:
            return Toolchain(name, os.path.normpath(found), _first_line(found, "--version"))
    return Toolchain(name, "", reason=f"not found: {wanted}")


def _find_python() -> Toolchain:
    """The system's Python, or else the interpreter that this service itself runs on."""
    system = Path("/usr/bin/python3")
    if system.exists():
        executable = str(system.resolve())
        if executable.startswith("/usr/bin/"):
            return Toolchain("python", executable, _first_line(executable, "--version"))
    executable = str(Path(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}"))
    if not Path(executable).exists():
        return Toolchain(
            "python", "", reason="not found: a Python interpreter (apt install python3)"
        )
    return Toolchain(
        "python", executable, _first_line(executable, "--version"), mounts=(sys.base_prefix,)
    )


_IN_IMAGES = (
    ("c", ("/usr/bin/gcc", "/usr/local/bin/gcc", "/usr/bin/cc"), "a C compiler (gcc)"),
    ("cpp", ("/usr/bin/g++", "/usr/local/bin/g++", "/usr/bin/c++"), "a C++ compiler (g++)"),
    ("python", ("/usr/bin/python3", "/usr/local/bin/python3"), "a Python interpreter (python3)"),
)


def toolchains_in(box: Box) -> tuple[Toolchain, ...]:
    """Looks for the toolchains of every language inside a box, by starting them.

    Args:
        box: A box that nobody else uses meanwhile.

    Raises:
        BoxLost: It has died.
    """
    return tuple(_find_in(box, name, paths, wanted) for name, paths, wanted in _IN_IMAGES)


def _find_in(box: Box, name: str, paths: tuple[str, ...], wanted: str) -> Toolchain:
    environment = {"PATH": "/usr/bin:/bin"}
    for path in paths:
        with contextlib.suppress(BoxRefused):
            (outcome,) = box.run([Run((path, "--version"), environment=environment)])
            if outcome.exit_code == 0:
                said = outcome.stdout.decode("utf-8", "replace")
                return Toolchain(name, path, said.partition("\n")[0].strip())
    return Toolchain(name, "", reason=f"not in the image: {wanted}")


def _first_line(executable: str, flag: str) -> str:
    shown = subprocess.run(
        [executable, flag], capture_output=True, text=True, check=False, timeout=20
    )
    return (shown.stdout or shown.stderr).partition("\n")[0].strip()
