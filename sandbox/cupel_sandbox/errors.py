"""The sandbox's own faults. What a program does wrong is never here: that is an Outcome.

SandboxError
├── CannotStart     a box or its runner cannot be had on this host; says why and what to do
├── BoxLost         the box died (or its host did); runs without an outcome were interrupted
├── BoxRefused      the runner refused a request or could not carry it out (disk full, bad path)
└── WorkspaceEnded  a session's run is over: it met a limit, or its agent ended or did not answer
"""

from __future__ import annotations

from cupel_sandbox.box import Outcome


class SandboxError(Exception):
    """Any fault of the sandbox itself."""


class CannotStart(SandboxError):
    """A box cannot be had on this host.

    Args:
        reason: What is missing, in one line.
        remedy: What the operator can do about it, in one line.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}. {remedy}")
        self.reason = reason
        self.remedy = remedy


class BoxLost(SandboxError):
    """The box has died; what was running in it has no outcome and must be run again elsewhere.

    Args:
        reason: What is known of its end.
        by_host: It was ended from outside its box, so no program can have done it.
    """

    def __init__(self, reason: str, *, by_host: bool = False) -> None:
        super().__init__(reason)
        self.by_host = by_host


class BoxRefused(SandboxError):
    """The runner refused a request: a bad path, a full scratch disk, a missing file."""


class WorkspaceEnded(SandboxError):
    """A workspace is over, by what ran in it or because it was closed.

    Args:
        reason: What is known of its end.
        outcome: How its run ended and what it used; None if it was ended because what came from
            inside it made no sense, or nothing came at all.
    """

    def __init__(self, reason: str, outcome: Outcome | None = None) -> None:
        super().__init__(reason)
        self.outcome = outcome
