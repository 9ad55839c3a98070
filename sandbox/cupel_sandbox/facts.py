"""What is in force for the boxes of a host, in words and numbers that an operator can check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class BoxFacts:
    """What is in force for the boxes of this host.

    Args:
        box: The kind of box: `native` or `docker`.
        cgroup: Which version limits and accounts each run; `none` if they are sampled instead.
        seccomp: Whether programs run behind the runner's system-call filter.
        user: Whose rights the boxes were made with.
        degraded: Isolation layers given up by name.
        runtime: The container runtime of docker boxes, such as runc or runsc; else empty.
        image: The image of docker boxes and its id; else empty.
        scratch_bytes: Size of each file system that programs may write.
        box_memory_bytes: Memory of a whole box, a second line behind each run's limit; 0 for none.
        box_processes: Processes of a whole box, likewise.
    """

    box: Literal["native", "docker"]
    cgroup: Literal["v1", "v2", "none"]
    seccomp: bool
    user: Literal["root", "ordinary"]
    degraded: tuple[str, ...]
    runtime: str = ""
    image: str = ""
    scratch_bytes: int = 0
    box_memory_bytes: int = 0
    box_processes: int = 0

    @property
    def accounting(self) -> Literal["cgroup", "sampled"]:
        """Whether CPU time and memory are counted by the kernel or sampled by the runner."""
        return "sampled" if self.cgroup == "none" else "cgroup"
