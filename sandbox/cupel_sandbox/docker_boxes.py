"""Docker boxes: hardened containers, each with the runner as PID 1, spoken to over their stdio.

    this process ──attached connection──> engine ──stdin──> runner (PID 1, root, few capabilities)
                 <──────────────────────         <─stdout──     └─> program (own uid, none)

The engine builds what a native box builds itself: namespaces, a read-only root (the image), tmpfs
for everything that may be written, no network. The runner looks whether it is so before it answers.
It keeps these capabilities and no other: SETUID and SETGID to become the run's user, KILL to end
what that user runs, CHOWN, FOWNER and DAC_OVERRIDE to seal and remove what runs leave, and, where
the engine can give it, SYS_RESOURCE to set an out-of-memory score that no program lowers again.

Limits and accounting of each run come from cgroups of the host, made by this process beside the
container's own and bound into it. A container ends when its connection does, so a killed service
leaves no running box; what is left of them is removed by the next start, and what an engine that
was away could not remove, by the next box.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from cupel_sandbox.box import Box
from cupel_sandbox.build import build_runner
from cupel_sandbox.cgroup import CgroupTree, open_cgroups, start_janitor
from cupel_sandbox.docker_channel import DockerChannel
from cupel_sandbox.docker_engine import (
    LABEL,
    RUNNER_FOLDER,
    Attached,
    connect,
    create_container,
    image_id,
    refusing,
    remove_container,
    remove_strays,
    runner_mount,
    runner_volume,
)
from cupel_sandbox.errors import CannotStart
from cupel_sandbox.facts import BoxFacts
from cupel_sandbox.runner_box import RunnerBox
from cupel_sandbox.toolchains import Toolchain, toolchains_in

_log = logging.getLogger(__name__)

_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID")
_SCORE_CAPABILITY = "SYS_RESOURCE"
_ABOUT_CAPABILITIES = re.compile(r"\bcap(s|set|_\w+|abilit\w+)\b", re.IGNORECASE)
_CGROUP_FOLDER = "/.cupel-cgroup"
_UIDS_FIRST, _UIDS = 0x70000000, 4096

# What the kernel tells every process about the host, and no program needs.
_MASKED = (
    "/proc/kcore", "/proc/keys", "/proc/key-users", "/proc/kallsyms", "/proc/timer_list",
    "/proc/latency_stats", "/proc/sched_debug", "/proc/kmsg", "/proc/vmallocinfo",
    "/proc/slabinfo", "/proc/pagetypeinfo", "/proc/modules", "/proc/pressure", "/proc/cmdline",
    "/proc/diskstats", "/proc/interrupts", "/proc/acpi", "/proc/asound", "/proc/scsi",
    "/proc/timer_stats", "/sys", "/dev/mqueue", "/dev/pts",
)  # fmt: skip
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@dataclass(frozen=True, slots=True)
class DockerBoxConfig:
    """How docker boxes are built.

    Args:
        image: The image of the boxes: any with the toolchains, whatever else it holds.
        runtime: Name of a runtime that the engine knows, such as runsc; None for its default.
        allow_degraded: Layers given up by name: `cgroup`, `seccomp` (the runner's own filter).
        scratch_bytes: Size of each tmpfs; what programs write counts as their memory all the same.
        memory_bytes: Memory of a whole container: of the runner, its buffers and what was `put`,
            and of the programs too where they have no cgroup of their own.
        processes: Processes of a whole container, likewise.
    """

    image: str = "cupel-sandbox"
    runtime: str | None = None
    allow_degraded: frozenset[str] = frozenset()
    scratch_bytes: int = 4 * 1024**3
    memory_bytes: int = 4 * 1024**3
    processes: int = 4096


class DockerHost:
    """What all docker boxes of this process share: the engine, the runner's volume, the cgroups.

    Raises:
        CannotStart: There is no engine, no such image or runtime, or a layer cannot be had and was
            not given up by name.
    """

    def __init__(self, config: DockerBoxConfig) -> None:
        self._config = config
        self._engine = connect()
        self._numbers = itertools.count()
        self._runtime = config.runtime or self._engine.default_runtime
        if self._runtime not in self._engine.runtimes:
            raise CannotStart(
                f"Docker knows no runtime {self._runtime}, only {', '.join(self._engine.runtimes)}",
                "Register it in /etc/docker/daemon.json, or choose one: CUPEL_DOCKER_RUNTIME.",
            )
        image = image_id(self._engine, config.image)
        remove_strays(self._engine)
        runner = build_runner()
        self._runner = runner.read_bytes()
        self._volume: str | None = None
        self._guard = threading.Lock()
        self._not_removed: set[str] = set()
        self._runner_volume()
        # In gVisor no process is the host's, and so none has a score there.
        self._capabilities = _CAPABILITIES + (() if self._is_gvisor else (_SCORE_CAPABILITY,))
        self._cgroups = self._open_cgroups()
        self._janitor = start_janitor(runner, self._cgroups) if self._cgroups else None
        self.facts = BoxFacts(
            box="docker",
            runtime=self._runtime,
            image=f"{config.image} {image.removeprefix('sha256:')[:12]}",
            cgroup="none" if not self._cgroups else "v1" if self._cgroups.version == 1 else "v2",
            seccomp="seccomp" not in config.allow_degraded,
            user="root",
            # gVisor was asked for by name; that it samples is said all the same.
            degraded=tuple(
                sorted(config.allow_degraded | (set() if self._cgroups else {"cgroup"}))
            ),
            scratch_bytes=config.scratch_bytes,
            box_memory_bytes=config.memory_bytes,
            box_processes=config.processes,
        )

    def _open_cgroups(self) -> CgroupTree | None:
        """The host's cgroups for runs; None where the runner must sample instead."""
        if self._is_gvisor or "cgroup" in self._config.allow_degraded:
            return None  # gVisor's programs are no processes of the host
        return open_cgroups(top=True)

    def _runner_volume(self) -> str:
        """The volume that holds the runner; looked into at first, and again after a failure."""
        with self._guard:
            if self._volume is None:
                self._volume = runner_volume(self._engine, self._config.image, self._runner)
            return self._volume

    @property
    def _is_gvisor(self) -> bool:
        return "runsc" in self._engine.runtimes[self._runtime]

    def open_box(self) -> RunnerBox:
        """Starts a container and greets its runner.

        Raises:
            CannotStart: The engine or the runner refused; says why and what to do.
        """
        capabilities = self._capabilities
        try:
            return self._open_box(capabilities)
        except CannotStart as refused:
            # An engine that lacks a capability (one in a container itself) cannot give it away.
            if capabilities == _CAPABILITIES or not _ABOUT_CAPABILITIES.search(refused.reason):
                raise
        _log.warning(
            "this engine cannot give a container SYS_RESOURCE: programs may leave the first place "
            "of the kernel's out-of-memory killer; all limits hold all the same"
        )
        self._capabilities = _CAPABILITIES
        return self._open_box(_CAPABILITIES)

    def _open_box(self, capabilities: Sequence[str]) -> RunnerBox:
        number = next(self._numbers)
        options = [
            f"uid-first={_UIDS_FIRST + number % _UIDS * _UIDS}",
            f"seccomp={int(self.facts.seccomp)}",
            f"gvisor={int(self._is_gvisor)}",
        ]
        mounts = [runner_mount(self._runner_volume())]
        if self._cgroups:
            for option in self._cgroups.make_box(number):
                key, _, directory = option.partition("=")
                target = f"{_CGROUP_FOLDER}/{key}"
                options.append(f"{key}={target}")
                mounts.append({"Type": "bind", "Source": directory, "Target": target})
        container = ""
        try:
            with refusing(f"cannot start a container of {self._config.image}", _REMEDY):
                container = create_container(
                    self._engine, self._container(options, mounts, capabilities)
                )
                connection = Attached(self._engine, container)
                try:
                    self._engine.api.start(container)
                except BaseException:
                    connection.close()
                    raise
        except CannotStart:
            if container:
                self._remove(container)
            self._forget(number)
            self._volume = None  # an engine that was set up anew, or pruned, has lost it
            raise
        self._remove_old()

        def end() -> None:
            self._remove(container)
            self._forget(number)

        return RunnerBox(DockerChannel(self._engine, container, connection, end), _remedy)

    def _container(
        self, options: list[str], mounts: list[Mapping[str, Any]], capabilities: Sequence[str]
    ) -> Mapping[str, Any]:  # the API's JSON
        config = self._config
        # Sticky and owned by root: a run may fill it, but not change its mode or owner.
        scratch = f"rw,nosuid,nodev,exec,mode=1777,size={config.scratch_bytes},nr_inodes=65536"
        host: dict[str, Any] = {
            "NetworkMode": "none",
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "CapAdd": list(capabilities),
            "SecurityOpt": ["no-new-privileges:true"],
            "PidsLimit": config.processes,
            "Memory": config.memory_bytes,
            "MemorySwap": config.memory_bytes,
            "IpcMode": "none",  # then /dev/shm is ours to mount
            "LogConfig": {"Type": "none"},  # the default driver writes all that we say to disk
            "Tmpfs": {
                "/work": scratch,
                "/tmp": scratch,  # noqa: S108 - the container's own
                "/dev/shm": scratch,  # noqa: S108
                "/sub": scratch.replace("1777", "0755"),
            },
            "Mounts": mounts,
            "Runtime": self._runtime,
            "MaskedPaths": list(_MASKED),
            "ReadonlyPaths": list(_READ_ONLY),
            "Ulimits": [{"Name": "core", "Soft": 1, "Hard": 1}],
        }
        if self._cgroups:
            host["Tmpfs"][_CGROUP_FOLDER] = "mode=0700,size=4k"
            if self._cgroups.version == 2:
                host |= self._for_clone_into_cgroup()
        return {
            "Image": config.image,
            "Entrypoint": [f"{RUNNER_FOLDER}/runner", "container", *options],
            "Cmd": [],
            "User": "0:0",
            "WorkingDir": "/",
            "Hostname": "box",
            "NetworkDisabled": True,
            "Tty": False,
            "OpenStdin": True,
            "StdinOnce": True,  # the runner ends when our connection does
            "AttachStdin": True,
            "AttachStdout": True,
            "AttachStderr": True,
            "Labels": {LABEL: "box"},
            "Healthcheck": {"Test": ["NONE"]},
            "StopSignal": "SIGKILL",  # PID 1 hears no other; an engine that stops would wait for it
            "HostConfig": host,
        }

    def _for_clone_into_cgroup(self) -> Mapping[str, Any]:  # the API's JSON
        """With cgroup v2 the runner starts each program right in its cgroup, by clone3.

        The engine's own seccomp profile knows no clone3, and a cgroup namespace of its own would
        hide the run's cgroup. Programs have neither: the runner's filter takes clone3 away from
        them, and /sys is masked.
        """
        if not self._engine.host_cgroups:
            raise CannotStart(
                "this Docker engine cannot share the host's cgroup namespace",
                "Use Docker 20.10 or newer, or give the layer up: --allow-degraded=cgroup.",
            )
        profile = files("cupel_sandbox").joinpath("seccomp_container.json").read_text()
        return {
            "CgroupnsMode": "host",
            "SecurityOpt": ["no-new-privileges:true", f"seccomp={json.dumps(json.loads(profile))}"],
        }

    def _remove(self, container: str) -> None:
        if not remove_container(self._engine, container):
            self._not_removed.add(container)

    def _remove_old(self) -> None:
        """Removes containers whose boxes ended while the engine was away.

        With live-restore they outlive it, and then even their runners do.
        """
        with self._guard:
            old, self._not_removed = self._not_removed, set()
        for container in old:
            self._remove(container)

    def _forget(self, number: int) -> None:
        if self._cgroups:
            self._cgroups.remove_box(number)

    def find_toolchains(self, box: Box) -> tuple[Toolchain, ...]:
        """The compilers and interpreters of the image."""
        return toolchains_in(box)

    def close(self) -> None:
        """Removes the cgroups. The boxes must be closed. Idempotent."""
        if self._cgroups:
            self._cgroups.close()
        if self._janitor:
            self._janitor.communicate()
            self._janitor = None
        with contextlib.suppress(Exception):
            self._engine.api.close()


def _remedy(words: str) -> str:
    if "capability" in words or "root" in words or "tmpfs" in words or "network" in words:
        return "The container engine did not build the box as it was asked to: see docs/sandbox.md."
    if "cgroup" in words:
        return (
            "This process and Docker must see the same /sys/fs/cgroup (a worker in a container "
            "needs it as a volume), or give the layer up by name: --allow-degraded=cgroup."
        )
    return _REMEDY


_REMEDY = "Run `cupel doctor --box docker` to see what is wrong."
