"""Which failures are tried again, and when.

A connection that could not be made or that broke is tried again `max_retries` times, each pause
about twice the one before, with jitter so that many clients do not come back at one instant. A full
queue is not a failure but back-pressure: it is waited for, as the service asks, for up to the
call's whole timeout. A timeout and every other answer are final. A retry sends the same bytes,
hence the same submission ids.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from cupel.errors import ConnectionLost, CupelError, Overloaded, ServiceUnavailable

LONGEST_PAUSE_S = 10.0
_LEAST_OVERLOAD_PAUSE_S = 0.01  # a service that answers `Retry-After: 0` must not be hammered


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How a client retries.

    Args:
        max_retries: How often in a row a connection is tried again.
        first_pause_s: The pause before the first retry, in seconds.
        overload_wait_s: How long in all a full queue is waited for, in seconds.
    """

    max_retries: int
    first_pause_s: float
    overload_wait_s: float


class Retries:
    """The retries of one call."""

    def __init__(self, policy: RetryPolicy, jitter: random.Random | None = None) -> None:
        self._policy = policy
        self._jitter = jitter or random.Random()  # noqa: S311 (pauses, not secrets)
        self._failures = 0
        self._overloads = 0
        self._overload_waited_s = 0.0

    def pause_s(self, error: CupelError) -> float:
        """How long to wait before the next try, in seconds.

        Raises:
            CupelError: The error itself, where it is final.
        """
        if isinstance(error, Overloaded):
            return self._overload_pause_s(error)
        if not isinstance(error, ServiceUnavailable | ConnectionLost):
            raise error
        self._failures += 1
        if self._failures > self._policy.max_retries:
            raise error
        pause_s = self._back_off_s(self._failures)
        asked_s = error.retry_after_s if isinstance(error, ServiceUnavailable) else None
        if asked_s is not None and asked_s > self._policy.overload_wait_s:
            raise error
        return pause_s if asked_s is None else max(pause_s, asked_s)

    def progressed(self) -> None:
        """Notes that part of the answer arrived: the next failure counts as the first."""
        self._failures = self._overloads = 0
        self._overload_waited_s = 0.0

    def _overload_pause_s(self, error: Overloaded) -> float:
        self._overloads += 1
        asked_s = error.retry_after_s
        if asked_s is None:
            pause_s = self._back_off_s(self._overloads)
        else:  # a little later than asked, never earlier
            pause_s = asked_s * self._jitter.uniform(1.0, 1.25)
        pause_s = max(pause_s, _LEAST_OVERLOAD_PAUSE_S)
        self._overload_waited_s += pause_s
        if self._overload_waited_s > self._policy.overload_wait_s:
            raise error
        return pause_s

    def _back_off_s(self, nth: int) -> float:
        """Between half and all of the doubled pause, at most LONGEST_PAUSE_S seconds."""
        # The exponent is bounded so that a long wait for a full queue cannot overflow a float.
        full_s = min(LONGEST_PAUSE_S, self._policy.first_pause_s * 2.0 ** min(nth - 1, 30))
        return full_s * self._jitter.uniform(0.5, 1.0)
