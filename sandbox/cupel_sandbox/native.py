"""Native boxes: Linux namespaces, cgroups and seccomp, with the runner as PID 1. No daemon."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import subprocess
import threading
from dataclasses import dataclass
from typing import IO

from cupel_sandbox.box import Box
from cupel_sandbox.build import build_runner
from cupel_sandbox.cgroup import CgroupTree, open_cgroups, start_janitor
from cupel_sandbox.errors import CannotStart
from cupel_sandbox.facts import BoxFacts
from cupel_sandbox.runner_box import Death, RunnerBox
from cupel_sandbox.toolchains import Toolchain, find_toolchains

LAYERS = frozenset({"cgroup", "seccomp"})
"""Isolation layers that an operator may give up by name."""

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
        self._janitor = start_janitor(self._runner, self._cgroups) if self._cgroups else None
        degraded = [] if self._cgroups else ["cgroup"]
        if "seccomp" in config.allow_degraded:
            degraded.append("seccomp")
        self.facts = BoxFacts(
            box="native",
            scratch_bytes=config.scratch_bytes,
            cgroup="none" if not self._cgroups else "v1" if self._cgroups.version == 1 else "v2",
            seccomp="seccomp" not in config.allow_degraded,
            user="root" if os.geteuid() == 0 else "ordinary",
            degraded=tuple(degraded),
        )

    def find_toolchains(self, box: Box) -> tuple[Toolchain, ...]:
        """The compilers and interpreters of this host, which its boxes show."""
        del box  # they show the host's own directories: no need to look inside
        return find_toolchains()

    def open_box(self) -> RunnerBox:
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
        return RunnerBox(
            _NativeChannel([str(self._runner), "box", *options], self._cgroups, number), _remedy
        )

    def close(self) -> None:
        """Removes the cgroups. The boxes must be closed. Idempotent."""
        if self._cgroups:
            self._cgroups.close()
        if self._janitor:
            self._janitor.communicate()
            self._janitor = None


class _NativeChannel:
    """Pipes to a runner that is a child of this process."""

    def __init__(self, command: list[str], cgroups: CgroupTree | None, number: int) -> None:
        self._cgroups = cgroups
        self._number = number
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
        self._in = _stream(self._process.stdin).fileno()
        self._out = _stream(self._process.stdout).fileno()
        self._ready = select.poll()
        self._ready.register(self._out, select.POLLIN)

    def send(self, data: bytes) -> None:
        """See Channel.send."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._in, view) :]

    def receive(self, timeout_s: float) -> bytes:
        """See Channel.receive."""
        if not self._ready.poll(timeout_s * 1000):
            raise TimeoutError
        return os.read(self._out, _PIPE_BYTES)

    def death(self) -> Death:
        """See Channel.death."""
        self.kill()
        with contextlib.suppress(OSError, ValueError):
            said = _stream(self._process.stderr).read(4096)
            return Death(said.decode("utf-8", "replace").strip())
        return Death()

    def kill(self) -> None:
        """See Channel.kill."""
        with self._closing, contextlib.suppress(OSError):
            # The runner dies with the shim (its parent-death signal), and everything with it.
            self._process.kill()
            # It also ends at the end of its pipe; dup2 lets go of our end without freeing the
            # number, which another thread may be about to write to.
            if not self._closed:
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._in, inheritable=False)
                os.close(null)

    def close(self) -> None:
        """See Channel.close."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
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
            if self._cgroups:
                self._cgroups.remove_box(self._number)


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
