"""The pool of boxes as the service sees it, and the one place that says which kind it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, Protocol

from cupel_sandbox.toolchains import Toolchain, find_toolchains
from cupel_service.host import physical_cores
from cupel_service.program import Slot
from cupel_service.settings import Settings


class Facts(Protocol):
    """What the boxes of a pool are made of, once it has started."""

    @property
    def box(self) -> str:
        """The kind of box."""

    @property
    def cgroup(self) -> str:
        """`v1`, `v2` or `none`."""

    @property
    def seccomp(self) -> bool:
        """Whether a seccomp filter is in force."""

    @property
    def user(self) -> Literal["root", "ordinary"]:
        """Whose rights the boxes were made with."""

    @property
    def degraded(self) -> tuple[str, ...]:
        """Isolation layers given up by name."""


class Pool(Protocol):
    """A fixed number of slots, each with a box."""

    @property
    def slots(self) -> Sequence[Slot]:
        """The slots, once it has started."""

    @property
    def facts(self) -> Facts:
        """What the boxes are, once it has started."""

    @property
    def toolchains(self) -> Sequence[Toolchain]:
        """The compilers and interpreters inside the boxes, once it has started."""

    def start(self) -> None:
        """Makes the boxes.

        Raises:
            CannotStart: This host cannot have them; says why and what to do.
        """

    def interrupt(self) -> None:
        """Kills what runs in every box; nothing new can be run after that."""

    def close(self) -> None:
        """Ends all boxes. Idempotent; never raises."""


def make_pool(settings: Settings) -> Pool:
    """The pool of boxes that the settings choose, not yet started."""
    return native_pool(settings, settings.slots or physical_cores(), find_toolchains())


def native_pool(settings: Settings, slots: int, toolchains: Iterable[Toolchain]) -> Pool:
    """The pool of native boxes, not yet started.

    Args:
        settings: Which layers may be missing.
        slots: How many boxes.
        toolchains: What the boxes must show.
    """
    # Imported here, so that an app with a pool of its own needs no native boxes to be possible.
    from cupel_sandbox.native import NativeBoxConfig
    from cupel_sandbox.pool import Pool as NativePool

    mounts = tuple(sorted({mount for toolchain in toolchains for mount in toolchain.mounts}))
    config = NativeBoxConfig(allow_degraded=settings.allow_degraded, mounts=mounts)
    return NativePool(config, slots, tuple(toolchains))
