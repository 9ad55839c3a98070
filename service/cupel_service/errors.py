"""The service's own faults, and the requests that it must turn down. Programs' faults are values.

ServiceError
├── LanguageUnavailable   this host has no toolchain for a submission's language
├── ProblemUnknown        no problem is registered under this id
├── InvalidRequest        a request's body does not mean anything (requests.py)
├── RequestTooLarge       its body has too many bytes (requests.py)
├── RequestExceedsQueue   it holds more submissions than the queue ever does (queue/contract.py)
├── KeyReused             an Idempotency-Key came before, with another request (queue/contract.py)
├── QueueUnreachable      the cluster's queue cannot be reached now (queue/contract.py)
├── QueueFull             as much waits and runs as was allowed; come back later
├── SessionsUnavailable   this service keeps no boxes for sessions
├── SessionOver           a session has ended; says why, and whose doing it was
├── NotThere              no such session, snapshot, process or file
├── Stopping              the service is shutting down and takes nothing new
├── CannotServe           the service cannot start here (port, folder, boxes); with the remedy
├── StoreFailed           the problem store cannot be read or written
│   ├── StoreFull         there is no room for more (data_folder.py)
│   ├── StoreDenied       these credentials may not do that (storage.py)
│   ├── StoreUnreachable  it cannot be used now; the same may work later (storage.py)
│   └── ProblemDamaged    a stored problem is not what was stored (stored_suite.py)
└── JudgingError          a submission cannot be judged for a reason of our own: becomes JE
"""

from __future__ import annotations


class ServiceError(Exception):
    """Any fault of the service, and any request that it has to refuse."""


class LanguageUnavailable(ServiceError):
    """This host has no toolchain for a submission's language.

    Args:
        language: The language's name, such as `cpp`.
        reason: Why it is missing and what to install, as the toolchain search says it.
    """

    def __init__(self, language: str, reason: str = "") -> None:
        why = reason or "its compiler or interpreter was not found; `cupel doctor` says what to do"
        super().__init__(f"this service cannot judge {language}: {why}")
        self.language = language


class ProblemUnknown(ServiceError):
    """No problem is registered under this id.

    Args:
        problem_id: The id that was asked for.
    """

    def __init__(self, problem_id: str) -> None:
        super().__init__(
            f"no problem {problem_id!r} is registered; "
            f"register it with PUT /v1/problems/{problem_id}, or send it inline"
        )
        self.problem_id = problem_id


class QueueFull(ServiceError):
    """As many submissions wait and run as the service allows.

    Args:
        message: What is full, and how much may be sent.
        retry_after_s: When there is likely room again, in whole seconds from now.
    """

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class SessionsUnavailable(ServiceError):
    """This service keeps no boxes for sessions and executions."""

    def __init__(self) -> None:
        super().__init__(
            "this service keeps no boxes for sessions and executions: "
            "set CUPEL_SESSION_BOXES to how many it may keep, and restart it"
        )


class SessionOver(ServiceError):
    """A session has ended, and nothing of it is left.

    Args:
        reason: Why, in one line.
        by_host: It ended by the service's doing, which no program and no client can have caused.
    """

    def __init__(self, reason: str, *, by_host: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.by_host = by_host


class NotThere(ServiceError):
    """What a request names is not there: a session, a snapshot, a process, a file."""


class Stopping(ServiceError):
    """The service is shutting down: it finishes what runs and takes nothing new."""


class CannotServe(ServiceError):
    """The service cannot start on this host, or with these settings.

    Args:
        reason: What is in the way, in one line.
        remedy: What the operator can do about it, in one line.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}. {remedy}")
        self.reason = reason
        self.remedy = remedy


class StoreFailed(ServiceError):
    """The problem store could not be read or written; what it held before is still whole."""


class JudgingError(ServiceError):
    """A submission cannot be judged for a reason of Cupel's own: raised within the judge only."""
