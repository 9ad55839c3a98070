"""The pool of boxes as the service sees it, and the one place that says which kind it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from cupel_sandbox.toolchains import Toolchain, find_toolchains
from cupel_sandbox.workspace import WorkspaceLimits
from cupel_service.host import physical_cores
from cupel_service.program import Slot
from cupel_service.sessions.running import Workspace
from cupel_service.sessions.session import OpenWorkspace
from cupel_service.settings import Settings

BOXES_PER_CORE = 2
"""For sessions, where nothing else is said: their commands often wait for something."""

if TYPE_CHECKING:
    from cupel_sandbox.pool import Host


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

    @property
    def runtime(self) -> str:
        """The container runtime, such as runc or runsc; empty without containers."""

    @property
    def image(self) -> str:
        """The image and its id; empty without containers."""

    @property
    def accounting(self) -> str:
        """`cgroup` or `sampled`."""

    @property
    def scratch_bytes(self) -> int:
        """Size of each file system that programs may write."""

    @property
    def box_memory_bytes(self) -> int:
        """Memory of a whole box, a second line behind each run's limit; 0 for none."""

    @property
    def box_processes(self) -> int:
        """Processes of a whole box, likewise."""


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
    """The pool of the kind of boxes that the settings name, not yet started.

    Args:
        settings: Which kind of box, how many, of what, and which layers may be missing.
    """
    return _make_pool(settings, settings.slots or physical_cores())


@dataclass(frozen=True, slots=True)
class SessionBoxes:
    """Boxes for sessions and executions, beside those that judge.

    Args:
        pool: The boxes, not yet started.
        open_workspace: Makes a workspace of one of its slots.
    """

    pool: Pool
    open_workspace: OpenWorkspace


def make_session_boxes(settings: Settings) -> SessionBoxes | None:
    """The boxes that the settings give to sessions, not yet started; None if there are none.

    Args:
        settings: How many, and of which kind.
    """
    count = settings.session_boxes
    if count is None:
        count = 0 if settings.queue else BOXES_PER_CORE * physical_cores()
    return SessionBoxes(_make_pool(settings, count), open_workspace) if count else None


def open_workspace(slot: Slot, limits: WorkspaceLimits) -> Workspace:
    """Makes a workspace of a slot's box.

    Raises:
        SandboxError: The box has died, or refuses the agent.
    """
    from cupel_sandbox.runner_box import RunnerBox
    from cupel_sandbox.workspace import Workspace as BoxWorkspace

    box = slot.box
    if not isinstance(box, RunnerBox):
        raise TypeError("a workspace needs a box with a runner")
    return BoxWorkspace(box, limits)


def _make_pool(settings: Settings, count: int) -> Pool:
    # Imported here, as below: an app with a pool of its own needs none of them to be possible.
    from cupel_sandbox.pool import Pool as BoxPool

    return BoxPool(lambda: _open_host(settings), count)


def _open_host(settings: Settings) -> Host:
    if settings.box == "docker":
        from cupel_sandbox.docker_boxes import DockerBoxConfig, DockerHost

        return DockerHost(
            DockerBoxConfig(
                image=settings.docker_image,
                runtime=settings.docker_runtime,
                allow_degraded=settings.allow_degraded,
            )
        )
    from cupel_sandbox.native import NativeBoxConfig, NativeHost

    mounts = {mount for toolchain in find_toolchains() for mount in toolchain.mounts}
    return NativeHost(
        NativeBoxConfig(allow_degraded=settings.allow_degraded, mounts=tuple(sorted(mounts)))
    )
