"""The cgroup directories of one service: found, made, handed to boxes, and removed.

    <parent>/cupel-<pid>-<random>/box-<n>            v1: once per controller
    <parent>/cupel-<pid>-<random>/box-<n>/run-<k>    v2: the runner makes one per run

Their owner holds a lock on them for as long as it lives, so that what a killed service left behind
is recognised and removed, also by one in another container, where process ids mean nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cupel_sandbox.errors import CannotStart

_V1_CONTROLLERS = ("memory", "pids", "cpuacct")
_LOCK_TRIES = 10
_NAME = re.compile(r"cupel-\d+-[0-9a-f]{16}")
_GIVE_UP = (
    "or give the layer up by name: --allow-degraded=cgroup (memory and CPU are then only sampled)"
)


@dataclass(frozen=True, slots=True)
class CgroupTree:
    """The directories of this process.

    Args:
        version: 1 or 2.
        bases: One directory per controller (v1) or one (v2), keyed by the runner's option name.
        locks: Descriptors that hold them.
    """

    version: int
    bases: tuple[tuple[str, Path], ...]
    locks: list[int] = field(default_factory=list)

    @property
    def directories(self) -> tuple[Path, ...]:
        """Every directory that must go when this process ends."""
        return tuple(base for _, base in self.bases)

    def make_box(self, number: int) -> tuple[str, ...]:
        """Makes the directories of one box; returns the runner's options that name them.

        Raises:
            CannotStart: The kernel refused.
        """
        options = []
        for key, base in self.bases:
            directory = base / f"box-{number}"
            try:
                directory.mkdir()
                if self.version == 2:
                    (directory / "cgroup.subtree_control").write_text("+memory +pids")
            except OSError as error:
                raise _cannot(f"cannot make the cgroup {directory}: {error.strerror}") from error
            options.append(f"{key}={directory}")
        return tuple(options)

    def remove_box(self, number: int) -> None:
        """Removes the directories of a box that has ended."""
        for _, base in self.bases:
            remove_cgroup(base / f"box-{number}")

    def close(self) -> None:
        """Removes everything. The boxes must have ended."""
        for base in self.directories:
            remove_cgroup(base)
        while self.locks:
            os.close(self.locks.pop())


def open_cgroups(*, top: bool = False) -> CgroupTree:
    """Finds where this process may make cgroups, removes what dead services left, makes its own.

    Args:
        top: At the top of the hierarchy, where the host's container engine finds the same path,
            rather than below this process's own cgroup.

    Raises:
        CannotStart: There is no such place; says why and what to do.
    """
    mounts = _read_mounts()
    parents = _find_v2(mounts) or _find_v1(mounts, top=top)
    if not parents:
        raise _cannot("this host shows no cgroup hierarchy with the memory and pids controllers")
    name = f"cupel-{os.getpid()}-{secrets.token_hex(8)}"
    version = 2 if parents[0][0] == "cgroup2" else 1
    tree = CgroupTree(version, tuple((key, parent / name) for key, parent in parents))
    for _, parent in parents:
        _sweep(parent)
    try:
        if version == 2:
            _delegate(parents[0][1])
        for directory in tree.directories:
            tree.locks.append(_make_locked(directory))
            if version == 2:
                (directory / "cgroup.subtree_control").write_text("+memory +pids")
    except OSError as error:
        tree.close()
        raise _cannot(
            f"cannot make cgroups below {parents[0][1]}: {error.strerror}",
        ) from error
    return tree


def start_janitor(runner: Path, tree: CgroupTree) -> subprocess.Popen[bytes]:
    """Starts the process that removes a tree when this one has ended, however it ends."""
    return subprocess.Popen(
        [str(runner), "janitor", *map(str, tree.directories)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _make_locked(directory: Path) -> int:
    """Makes a directory and takes its lock; returns the descriptor that holds it.

    Raises:
        OSError: The kernel refused.
    """
    for _ in range(_LOCK_TRIES):
        directory.mkdir(exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            # Another service's sweep may have come between, and taken it for abandoned.
            if directory.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)
    raise FileNotFoundError(2, "it was removed again and again", str(directory))


def _cannot(reason: str) -> CannotStart:
    return CannotStart(
        reason,
        "Run as root, or in a delegated cgroup (systemd-run --user --scope -p Delegate=yes ...), "
        + _GIVE_UP
        + ".",
    )


def _read_mounts() -> list[tuple[str, str, Path, frozenset[str]]]:
    """(type, root inside the hierarchy, mount point, options) of every cgroup mount."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ")[:3]
        fields = left.split(" ")
        if kind in {"cgroup", "cgroup2"}:
            found.append((kind, fields[3], Path(fields[4]), frozenset(options.split(","))))
    return found


def _own_cgroups() -> dict[str, str]:
    """Controller name (empty for v2) to this process's path in its hierarchy."""
    own = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            own[controller] = path
    return own


def _place(root: str, mount: Path, own: str) -> Path:
    """Where a cgroup path is visible: below the mount, whose root may itself lie deeper."""
    prefix = root.rstrip("/") + "/"
    return mount / own.removeprefix(prefix) if own.startswith(prefix) else mount


def _find_v2(mounts: Sequence[tuple[str, str, Path, frozenset[str]]]) -> list[tuple[str, Path]]:
    for kind, root, mount, _ in mounts:
        if kind != "cgroup2":
            continue
        offered = _words(mount / "cgroup.controllers")
        if not {"memory", "pids"} <= offered:
            continue
        own = _place(root, mount, _own_cgroups().get("", "/"))
        # Root may use the top, where no process needs to move; others need what was delegated.
        return [("cgroup2", mount if os.access(mount / "cgroup.procs", os.W_OK) else own)]
    return []


def _find_v1(
    mounts: Sequence[tuple[str, str, Path, frozenset[str]]], *, top: bool
) -> list[tuple[str, Path]]:
    own = {} if top else _own_cgroups()
    parents = []
    for controller in _V1_CONTROLLERS:
        for kind, root, mount, options in mounts:
            if kind == "cgroup" and controller in options:
                place = _place(root, mount, own.get(controller, "/"))
                parents.append((f"cgroup-{controller}", place if place.is_dir() else mount))
                break
    return parents if len(parents) == len(_V1_CONTROLLERS) else []


def _words(file: Path) -> set[str]:
    try:
        return set(file.read_text().split())
    except OSError:
        return set()


def _delegate(parent: Path) -> None:
    """Turns the controllers on for children of a v2 directory.

    Only the root of the hierarchy may hold processes beside children with controllers: elsewhere
    those that are there (this one, and the shell that started it, say) first move into a leaf.
    """
    control = parent / "cgroup.subtree_control"
    if {"memory", "pids"} <= _words(control):
        return
    try:
        control.write_text("+memory +pids")
    except OSError:
        leaf = parent / "cupel-service"
        leaf.mkdir(exist_ok=True)
        for pid in _words(parent / "cgroup.procs"):
            with contextlib.suppress(OSError):
                (leaf / "cgroup.procs").write_text(pid)
        control.write_text("+memory +pids")


def _sweep(parent: Path) -> None:
    """Removes what services that are no longer there have left.

    Everything in it is killed, so the name must be exactly ours: an operator may call a cgroup of
    other things `cupel-...` as well.
    """
    for directory in parent.glob("cupel-*-*"):
        if not _NAME.fullmatch(directory.name):
            continue
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_cgroup(directory)
        except BlockingIOError:
            pass  # its owner lives
        finally:
            os.close(descriptor)


def remove_cgroup(directory: Path, patience_s: float = 5.0) -> None:
    """Kills what is left in a cgroup and removes it with everything below; best effort.

    What cannot be removed now is removed by the janitor, or by the next service's sweep.
    """
    deadline = time.monotonic() + patience_s
    while directory.is_dir():
        for below in [*sorted(directory.rglob("*/"), key=lambda path: -len(path.parts)), directory]:
            if not below.is_dir():
                continue
            with contextlib.suppress(OSError):
                _kill_members(below)
            with contextlib.suppress(OSError):
                below.rmdir()
        if time.monotonic() > deadline:
            return
        if directory.is_dir():
            time.sleep(0.01)


def _kill_members(directory: Path) -> None:
    kill = directory / "cgroup.kill"
    if kill.exists():  # v2: it reaches other PID namespaces, too, as those of docker boxes are
        kill.write_text("1")
        return
    # 0 is what v2 shows of a process in one of those; to kill it would kill our own group.
    for pid in _words(directory / "cgroup.procs") - {"0"}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
