"""What a service can do: said by its own boxes, or put together from what live workers say."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version

from cupel.schema import BoxLimits, Info, Language, ToolchainInfo
from cupel_service.boxes import Pool
from cupel_service.host import physical_cores, warnings_of
from cupel_service.settings import Settings

_log = logging.getLogger(__name__)

_UNKNOWN = "unknown"


def info_of_boxes(settings: Settings, pool: Pool) -> Info:
    """What this process's own boxes run on, with what its operator should know of it.

    Args:
        settings: The settings that the process runs by.
        pool: Its boxes, started.
    """
    cores = physical_cores()
    facts = pool.facts
    warnings = warnings_of(len(pool.slots), cores, os.getloadavg()[0], facts.degraded)
    for warning in warnings:
        _log.warning("start: %s", warning)
    return Info(
        version=version("cupel"),
        box=facts.box,
        runtime=facts.runtime,
        image=facts.image,
        cgroup=facts.cgroup,
        accounting=facts.accounting,
        box_limits=BoxLimits(
            scratch_bytes=facts.scratch_bytes,
            memory_bytes=facts.box_memory_bytes,
            processes=facts.box_processes,
        ),
        seccomp=facts.seccomp,
        user=facts.user,
        slots=len(pool.slots),
        physical_cores=cores,
        queue="redis" if settings.queue else "embedded",
        queue_capacity=settings.queue_capacity,
        workers=1,
        toolchains=tuple(
            ToolchainInfo(
                language=Language(each.name),
                available=each.available,
                version=each.version,
                reason=each.reason,
            )
            for each in pool.toolchains
        ),
        degraded=facts.degraded,
        warnings=warnings,
    )


def info_of_workers(settings: Settings, workers: Sequence[Info]) -> Info:
    """What a cluster can do: what all of its workers can, at the sum of their slots.

    Args:
        settings: The settings of the process that answers for the cluster.
        workers: What each live worker says of its own boxes.
    """
    return Info(
        version=version("cupel"),
        box=_either(worker.box for worker in workers),
        runtime=_either(worker.runtime for worker in workers),
        image=_either(worker.image for worker in workers),
        cgroup=_either(worker.cgroup for worker in workers),
        accounting=_either(worker.accounting for worker in workers),
        box_limits=BoxLimits(
            scratch_bytes=_tightest(worker.box_limits.scratch_bytes for worker in workers),
            memory_bytes=_tightest(worker.box_limits.memory_bytes for worker in workers),
            processes=_tightest(worker.box_limits.processes for worker in workers),
        ),
        seccomp=bool(workers) and all(worker.seccomp for worker in workers),
        user=_either(worker.user for worker in workers),
        slots=sum(worker.slots for worker in workers),
        physical_cores=sum(worker.physical_cores for worker in workers),
        queue="redis",
        queue_capacity=settings.queue_capacity,
        workers=len(workers),
        toolchains=_common_toolchains(workers),
        degraded=_distinct(layer for worker in workers for layer in worker.degraded),
        warnings=(
            *_distinct(text for worker in workers for text in worker.warnings),
            *_differences(workers),
        ),
    )


def in_words(info: Info) -> str:
    """What judges, in a few words, such as `slots 2, docker boxes runsc, cgroup v2`."""
    if not info.workers:
        return "no workers yet"
    workers = f"workers {info.workers}, " if info.workers > 1 else ""
    boxes = f"{info.box} boxes {info.runtime}".rstrip()
    return f"{workers}slots {info.slots}, {boxes}, cgroup {info.cgroup}"


def _common_toolchains(workers: Sequence[Info]) -> tuple[ToolchainInfo, ...]:
    """The toolchains of all workers; one that any worker lacks is not available."""
    found: dict[Language, ToolchainInfo] = {}
    for worker in workers:
        for toolchain in worker.toolchains:
            known = found.setdefault(toolchain.language, toolchain)
            if known.available and not toolchain.available:
                found[toolchain.language] = toolchain
    return tuple(found.values())


def _differences(workers: Sequence[Info]) -> Iterator[str]:
    """What makes a verdict depend on the worker that happens to judge."""
    ours = version("cupel")
    for other in _distinct(worker.version for worker in workers):
        if other != ours:
            yield (
                f"a worker runs Cupel {other} and this API {ours}: "
                "install one version on all machines of the cluster"
            )
    if len({worker.box for worker in workers}) > 1:
        yield (
            "workers have different kinds of boxes: their times and memory are not the same. "
            "Give all workers the same CUPEL_BOX"
        )
    versions: dict[Language, set[str]] = {}
    for worker in workers:
        for toolchain in worker.toolchains:
            version_here = toolchain.version if toolchain.available else "none"
            versions.setdefault(toolchain.language, set()).add(version_here)
    for language, different in versions.items():
        if len(different) > 1:
            yield (
                f"workers have different toolchains for {language} "
                f"({'; '.join(sorted(different))}): verdicts can depend on the worker. "
                "Use one image, or the same packages, on all of them"
            )


def _either(values: Iterable[str]) -> str:
    """What all workers say, or each thing that some of them do."""
    said = set(values)
    return " and ".join(sorted(said - {""})) if said else _UNKNOWN


def _tightest(bounds: Iterable[int]) -> int:
    """The smallest bound; 0 is none."""
    return min((bound for bound in bounds if bound), default=0)


def _distinct(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))
