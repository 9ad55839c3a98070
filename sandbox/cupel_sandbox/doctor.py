"""`cupel doctor`: what this host offers native or docker boxes, and how to mend what it lacks."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cupel_sandbox.box import Run, RunLimits
from cupel_sandbox.build import build_runner
from cupel_sandbox.cgroup import open_cgroups
from cupel_sandbox.docker_boxes import DockerBoxConfig, DockerHost
from cupel_sandbox.docker_engine import connect
from cupel_sandbox.errors import CannotStart, SandboxError
from cupel_sandbox.facts import BoxFacts
from cupel_sandbox.native import LAYERS, NativeBoxConfig, NativeHost
from cupel_sandbox.pool import Host
from cupel_sandbox.toolchains import Toolchain, find_toolchains


class BoxKind(StrEnum):
    """The kinds of box."""

    NATIVE = "native"
    DOCKER = "docker"


_KERNEL_MIN = (5, 14)  # mount_setattr (5.12), cgroup.kill (5.14)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: whether it is fine, what was seen, and what would mend it."""

    what: str
    ok: bool
    seen: str
    remedy: str = ""


def examine() -> tuple[Finding, ...]:
    """Looks at everything that a native box needs on this host."""
    toolchains = find_toolchains()
    return (
        _kernel(),
        _user(),
        _runner(),
        _cgroups(),
        *(_toolchain(toolchain) for toolchain in toolchains),
        _box(toolchains),
    )


def _kernel() -> Finding:
    release = platform.release()
    numbers = release.split("-")[0].split(".")
    version = tuple(int(part) for part in numbers[:2] if part.isdigit())
    return Finding("kernel", version >= _KERNEL_MIN, release, "Linux 5.14 or newer is needed.")


def _user() -> Finding:
    if os.geteuid() == 0:
        return Finding("user", ok=True, seen="root: every run gets a user id of its own")
    limit = Path("/proc/sys/user/max_user_namespaces")
    allowed = limit.exists() and int(limit.read_text()) > 0
    return Finding(
        "user",
        allowed,
        "ordinary: every run gets a user namespace of its own",
        "Allow user namespaces: sysctl -w user.max_user_namespaces=10000",
    )


def _runner() -> Finding:
    try:
        return Finding("runner", ok=True, seen=str(build_runner()))
    except CannotStart as cannot:
        return Finding("runner", ok=False, seen=cannot.reason, remedy=cannot.remedy)


def _cgroups() -> Finding:
    try:
        tree = open_cgroups()
    except CannotStart as cannot:
        return Finding("cgroups", ok=False, seen=cannot.reason, remedy=cannot.remedy)
    tree.close()
    return Finding("cgroups", ok=True, seen=f"v{tree.version}, below {tree.directories[0].parent}")


def _toolchain(toolchain: Toolchain) -> Finding:
    name = f"language {toolchain.name}"
    if toolchain.available:
        return Finding(name, ok=True, seen=f"{toolchain.executable}: {toolchain.version}")
    return Finding(name, ok=False, seen=toolchain.reason, remedy=f"Install {toolchain.reason}.")


def _box(toolchains: tuple[Toolchain, ...]) -> Finding:
    mounts = tuple(mount for toolchain in toolchains for mount in toolchain.mounts)
    (finding,) = _try_boxes("native", lambda: NativeHost(NativeBoxConfig(mounts=mounts)))
    return finding


def examine_docker(config: DockerBoxConfig) -> tuple[Finding, ...]:
    """Looks at everything that a docker box needs: the engine, the image, the host's cgroups."""
    try:
        engine = connect()
    except CannotStart as cannot:
        return (_runner(), _not_had("docker engine", cannot))
    runtimes = ", ".join(engine.runtimes)
    seen = f"cgroup v{engine.cgroup_version}; runtimes: {runtimes}"
    return (
        _runner(),
        Finding("docker engine", ok=True, seen=seen),
        *_try_boxes("docker", lambda: DockerHost(config)),
    )


def _try_boxes(kind: str, open_host: Callable[[], Host]) -> tuple[Finding, ...]:
    """Builds a box with every layer and runs a program in it, which is the only real proof."""
    what = f"{kind} box"
    try:
        host = open_host()
    except CannotStart as cannot:
        return (_not_had(what, cannot),)
    try:
        box = host.open_box()
        try:
            run = Run(("/bin/sh", "-c", "echo proof"), limits=RunLimits(cpu_s=2.0))
            (outcome,) = box.run([run])
            toolchains = host.find_toolchains(box) if kind == "docker" else ()
        finally:
            box.close()
    except SandboxError as error:
        return (_not_had(what, error),)
    finally:
        host.close()
    proof = Finding(
        what, outcome.stdout == b"proof\n", _in_force(host.facts), "Please report this."
    )
    return (*map(_toolchain, toolchains), proof)


def _not_had(what: str, error: SandboxError) -> Finding:
    if isinstance(error, CannotStart):
        return Finding(what, ok=False, seen=error.reason, remedy=error.remedy)
    return Finding(what, ok=False, seen=str(error))


def _in_force(facts: BoxFacts) -> str:
    sampled = facts.accounting == "sampled"
    counted = "limits and use sampled" if sampled else f"cgroups {facts.cgroup}"
    words = ["namespaces", counted, "seccomp" if facts.seccomp else "no seccomp"]
    if facts.box == "docker":
        words = [f"image {facts.image}", f"runtime {facts.runtime}", *words]
        words.append(f"at most {facts.box_memory_bytes >> 20} MiB, {facts.box_processes} processes")
    return f"{', '.join(words)}, as {facts.user}"


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list only.")] = False,
    box: Annotated[
        BoxKind, typer.Option(envvar="CUPEL_BOX", help="Kind of box to look at.")
    ] = BoxKind.NATIVE,
    image: Annotated[
        str, typer.Option(envvar="CUPEL_DOCKER_IMAGE", help="Image of docker boxes.")
    ] = DockerBoxConfig().image,
    runtime: Annotated[
        str | None,
        typer.Option(envvar="CUPEL_DOCKER_RUNTIME", help="Their runtime; default: Docker's own."),
    ] = None,
) -> None:
    """Show what this host offers the sandbox, what is missing, and how to mend it."""
    if box is BoxKind.DOCKER:
        findings = examine_docker(DockerBoxConfig(image=image, runtime=runtime))
    else:
        findings = examine()
    console = Console(soft_wrap=True)
    if as_json:
        console.print_json(json.dumps([asdict(finding) for finding in findings]))
    else:
        table = Table("", "", "seen", box=None)
        for finding in findings:
            mark = "[green]ok[/]" if finding.ok else "[red]missing[/]"
            table.add_row(mark, finding.what, finding.seen)
        console.print(table)
        for finding in findings:
            if not finding.ok:
                console.print(f"\n[bold]{finding.what}[/]: {finding.remedy}")
        if all(finding.ok for finding in findings):
            console.print("\nNothing is missing.")
        else:
            console.print(
                f"\nA layer may be given up by name: --allow-degraded={'|'.join(sorted(LAYERS))}"
            )
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)
