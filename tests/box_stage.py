"""Runs small programs in a box: C compiled on this host, Python, or what the box shows."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from textwrap import dedent

from cupel_sandbox.box import MEBIBYTE, SUBMISSION, Box, Outcome, Run, RunLimits
from cupel_sandbox.pool import Host
from cupel_sandbox.toolchains import find_toolchains

TOOLCHAINS = {toolchain.name: toolchain for toolchain in find_toolchains()}
MOUNTS = tuple(mount for toolchain in TOOLCHAINS.values() for mount in toolchain.mounts)

GCC = ("gcc", "-static", "-O2", "-fno-builtin", "-w", "-D_GNU_SOURCE", "-pthread", "-x", "c", "-")

SLOWNESS = float(os.environ.get("CUPEL_TEST_SLOWNESS", "1"))
"""How many times slower than a common machine this one is (an emulated one, say)."""

OWNER = 0 if os.geteuid() == 0 else 1000
"""Who owns what a run cannot change, as the run sees it: in an ordinary user's box it does."""

LIMITS = RunLimits(
    cpu_s=5.0 * SLOWNESS, wall_s=30.0 * SLOWNESS, memory_bytes=256 * MEBIBYTE, processes=32
)
"""Wide enough for a busy machine: what a test is about, it narrows itself."""

QUICK = replace(LIMITS, cpu_s=0.3)
"""For programs that would run for ever."""


class Compiler:
    """Compiles C programs on this host, each once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def c(self, source: str) -> bytes:
        """The static executable of a C program."""
        text = dedent(source)
        file = self._folder / hashlib.sha256(text.encode()).hexdigest()[:16]
        if not file.exists():
            subprocess.run([*GCC, "-o", str(file)], input=text.encode(), check=True)
        return file.read_bytes()


def stage_in(host: Host, box: Box, compiler: Compiler) -> Stage:
    """A stage in a box of that host."""
    python = "/usr/bin/python3"  # of the image
    if host.facts.box == "native":
        python = TOOLCHAINS["python"].executable
    return Stage(box, compiler, python, host.facts.box == "docker")


@dataclass(frozen=True, slots=True)
class Stage:
    """A box, and how programs get into it."""

    box: Box
    compiler: Compiler
    python_executable: str
    in_container: bool = False
    _placed: set[str] = field(default_factory=set)

    def prepare(
        self,
        source: str,
        *arguments: str,
        limits: RunLimits = LIMITS,
        stdin: bytes | str = b"",
        writable_submission: bool = False,
    ) -> Run:
        """Puts a C program into the box; returns how to run it."""
        executable = self.compiler.c(source)
        name = f"program-{hashlib.sha256(executable).hexdigest()[:12]}"
        if name not in self._placed:
            self.box.put(name, executable, executable=True)
            self._placed.add(name)
        return Run(
            (f"{SUBMISSION}/{name}", *arguments),
            stdin=stdin,
            limits=limits,
            writable_submission=writable_submission,
        )

    def prepare_python(
        self,
        source: str,
        *arguments: str,
        limits: RunLimits = LIMITS,
        stdin: bytes | str = b"",
        environment: Mapping[str, str] | None = None,
        writable_submission: bool = False,
    ) -> Run:
        """The same for a Python program."""
        text = dedent(source).encode()
        name = f"{hashlib.sha256(text).hexdigest()[:12]}.py"
        if name not in self._placed:
            self.box.put(name, text)
            self._placed.add(name)
        return Run(
            (self.python_executable, "-I", "-S", f"{SUBMISSION}/{name}", *arguments),
            stdin=stdin,
            limits=limits,
            environment=environment or {},
            writable_submission=writable_submission,
        )

    def only(self, run: Run) -> Outcome:
        """The outcome of one run."""
        (outcome,) = self.box.run([run])
        return outcome

    def c(
        self,
        source: str,
        *arguments: str,
        limits: RunLimits = LIMITS,
        stdin: bytes | str = b"",
        writable_submission: bool = False,
    ) -> Outcome:
        """Runs a C program."""
        return self.only(
            self.prepare(
                source,
                *arguments,
                limits=limits,
                stdin=stdin,
                writable_submission=writable_submission,
            )
        )

    def python(
        self,
        source: str,
        *arguments: str,
        limits: RunLimits = LIMITS,
        stdin: bytes | str = b"",
        environment: Mapping[str, str] | None = None,
        writable_submission: bool = False,
    ) -> Outcome:
        """Runs a Python program."""
        return self.only(
            self.prepare_python(
                source,
                *arguments,
                limits=limits,
                stdin=stdin,
                environment=environment,
                writable_submission=writable_submission,
            )
        )

    def prints(self, source: str, *arguments: str, limits: RunLimits = LIMITS) -> str:
        """What a Python program prints; that it ends well is asserted."""
        outcome = self.python(source, *arguments, limits=limits)
        assert outcome.exit_code == 0, (outcome.limit, outcome.signal, outcome.stderr.decode())
        return outcome.stdout.decode().strip()

    def sh(self, command: str, *, limits: RunLimits = LIMITS) -> Outcome:
        """Runs a line of shell."""
        environment = {"PATH": "/usr/bin:/bin"}
        return self.only(Run(("/bin/sh", "-c", command), limits=limits, environment=environment))

    def is_usable(self) -> bool:
        """Whether the box runs an innocent program as if nothing had happened."""
        outcome = self.only(Run(("/bin/echo", "well"), limits=LIMITS))
        return (outcome.exit_code, outcome.stdout, outcome.limit) == (0, b"well\n", None)
