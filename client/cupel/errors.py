"""What can go wrong between a caller and a Cupel service. A program's failure is never here.

CupelError
├── ServiceUnavailable    cannot connect, 502, or the service is starting or stopping; retried
├── ConnectionLost        the connection broke before the answer was whole; retried
├── Timeout               no answer in time; not retried, the work may still be going on
├── UnexpectedAnswer      whatever answered is not a Cupel service, or not one of this version
├── Refused               the service answered with an error (status, detail, errors)
│   ├── InvalidRequest    400, 409, 422, or found to be invalid before it was sent
│   ├── Unauthorized      401, 403: the API key is missing, wrong, or not good for this
│   ├── NotFound          404: no such problem, session, file or snapshot
│   ├── SessionEnded      410: the session is over; says why, and whose doing it was
│   ├── RequestTooLarge   413: send smaller batches
│   ├── Overloaded        429: the queue or every session box is full; retried after `retry_after_s`
│   └── ServiceFault      5xx: a defect or a full disk on the service's side
├── ProblemFolderError    a problem's folder cannot be loaded; names the file
└── EmbeddedServiceFailed the embedded service did not start, or ended too early
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = [
    "ConnectionLost",
    "CupelError",
    "EmbeddedServiceFailed",
    "InvalidRequest",
    "NotFound",
    "Overloaded",
    "ProblemFolderError",
    "Refused",
    "RequestTooLarge",
    "ServiceFault",
    "ServiceUnavailable",
    "SessionEnded",
    "Timeout",
    "Unauthorized",
    "UnexpectedAnswer",
]


class CupelError(Exception):
    """Any fault between the caller and the service. Its text says what to do."""


class ServiceUnavailable(CupelError):
    """No service accepts work at this URL now.

    Args:
        message: What was tried and what to do.
        retry_after_s: Seconds after which the service asks to be tried again, if it said so.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ConnectionLost(CupelError):
    """The connection broke before the whole answer had arrived."""


class Timeout(CupelError):
    """No answer came within the time allowed."""


class UnexpectedAnswer(CupelError):
    """The answer is not one of Cupel's API."""


class Refused(CupelError):
    """The service answered with an error.

    Args:
        detail: What is wrong, in one line.
        status: The HTTP status; None where the fault was found before sending.
        errors: Each single fault, where there are several.
        retry_after_s: Seconds after which the service asks to be tried again, if it said so.
    """

    def __init__(
        self,
        detail: str,
        *,
        status: int | None = None,
        errors: Sequence[str] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__("; ".join((detail, *errors)))
        self.detail = detail
        self.status = status
        self.errors = tuple(errors)
        self.retry_after_s = retry_after_s


class InvalidRequest(Refused):
    """The request breaks the schema or contradicts what the service holds."""


class Unauthorized(Refused):
    """The API key is missing or wrong: set CUPEL_API_KEY or pass `api_key`."""


class NotFound(Refused):
    """What the request names does not exist on the service."""


class SessionEnded(Refused):
    """The session is over, and nothing of it is left: its box, its folder, its interpreter.

    Args:
        detail: Why.
        status: The HTTP status; None where the client itself had closed it.
        by_host: It ended by the service's doing (a restart, a full house, a lost box): no program
            and no caller can have caused it, so an episode that it cut short has no reward.
    """

    def __init__(self, detail: str, *, status: int | None = None, by_host: bool = False) -> None:
        super().__init__(detail, status=status)
        self.by_host = by_host


class RequestTooLarge(Refused):
    """The request is larger than the service accepts: use a smaller `batch_size`."""


class Overloaded(Refused):
    """The service stayed full for as long as this call was allowed to wait."""


class ServiceFault(Refused):
    """The service itself failed; its log says why."""


class ProblemFolderError(CupelError):
    """A problem's folder cannot be loaded.

    Args:
        path: The file or folder at fault.
        reason: What is wrong with it and what to do.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class EmbeddedServiceFailed(CupelError):
    """The embedded service did not become ready; the text holds what it said."""
