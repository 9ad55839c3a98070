"""What this host offers: its cores, how busy they are, and what an operator should know of it."""

from __future__ import annotations

import os
from collections.abc import Iterable

import psutil  # type: ignore[import-untyped]  # its stubs are a package of their own


def physical_cores() -> int:
    """The physical cores that this process may use: at least 1.

    Hyper-threads share one core's units, so two programs on one core flicker in their CPU time.
    An affinity mask (taskset, a container's cpuset) can leave fewer than the machine has.
    """
    allowed = len(os.sched_getaffinity(0))
    return max(1, min(psutil.cpu_count(logical=False) or allowed, allowed))


def warnings_of(
    slots: int, cores: int, load: float, degraded: Iterable[str] = ()
) -> tuple[str, ...]:
    """What an operator should know before trusting measurements made here.

    Args:
        slots: Boxes that run at one time.
        cores: Physical cores that may be used.
        load: The one-minute load average when the service started.
        degraded: Isolation layers given up by name.

    Returns:
        One sentence per warning, each with what to do.
    """
    found = []
    if slots > cores:
        found.append(
            f"{slots} slots share {cores} physical cores: CPU times will vary. "
            f"Set CUPEL_SLOTS={cores} for steady verdicts"
        )
    if load > cores:
        found.append(
            f"the load average was {load:.1f} on {cores} cores at start: other work slows "
            "judging down. Move it elsewhere, or give Cupel fewer slots"
        )
    found.extend(
        f"isolation layer {layer!r} was given up by name: judge trusted programs only. "
        "`cupel doctor` says how to mend it"
        for layer in degraded
    )
    return tuple(found)
