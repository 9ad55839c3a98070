"""Which failures are tried again, and when.

A service that cannot be reached, that is starting or stopping (503), whose proxy has lost it (502),
or whose connection breaks, is away: it is tried again for `patience_s`, each pause about twice the
one before up to LONGEST_PAUSE_S, with jitter so that many clients do not come back at one instant.
A full queue is not a failure but back-pressure: it is waited for, as the service asks, for up to
the call's whole timeout. A timeout and every other answer are final.

A retry sends the same bytes under the same Idempotency-Key, hence nothing is judged twice.
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass

from cupel.errors import ConnectionLost, CupelError, Overloaded, ServiceUnavailable

PATIENCE_S = 60.0
"""How long a service that is away is waited for, unless the caller says otherwise."""
LONGEST_PAUSE_S = 5.0

_LEAST_PAUSE_S = 0.01  # a service that answers `Retry-After: 0` must not be hammered

_log = logging.getLogger("cupel")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How a client retries.

    Args:
        patience_s: How long in a row a service that is away is waited for, in seconds of pauses;
            0 tries once only.
        first_pause_s: The pause before the first retry, in seconds.
        overload_wait_s: How long in all a full queue is waited for, in seconds.
    """

    patience_s: float
    first_pause_s: float
    overload_wait_s: float


class Retries:
    """The retries of one call."""

    def __init__(self, policy: RetryPolicy, jitter: random.Random | None = None) -> None:
        self._policy = policy
        self._jitter = jitter or random.Random()  # noqa: S311 (pauses, not secrets)
        self._failures = 0
        self._away_s = 0.0
        self._overloads = 0
        self._overload_waited_s = 0.0

    def pause_s(self, error: CupelError) -> float:
        """How long to wait before the next try, in seconds.

        Raises:
            CupelError: The error itself, where it is final.
        """
        if isinstance(error, Overloaded):
            return self._overload_pause_s(error)
        if isinstance(error, ServiceUnavailable):
            return self._away_pause_s(error, error.retry_after_s)
        if isinstance(error, ConnectionLost):
            return self._away_pause_s(error, None)
        raise error

    def progressed(self) -> None:
        """Notes that part of the answer arrived: the next failure counts as the first."""
        self._failures = self._overloads = 0
        self._away_s = self._overload_waited_s = 0.0

    def _away_pause_s(self, error: CupelError, asked_s: float | None) -> float:
        left_s = self._policy.patience_s - self._away_s
        if left_s <= 0 or (asked_s is not None and asked_s > left_s):
            raise error
        self._failures += 1
        if self._failures == 1:  # else a wrong URL looks like a program that hangs
            _log.warning("%s; trying again for up to %g s", error, left_s)
        pause_s = max(self._back_off_s(self._failures), _LEAST_PAUSE_S)
        if asked_s is not None:
            pause_s = max(pause_s, self._a_little_later_s(asked_s))
        pause_s = min(pause_s, left_s)  # the last try comes when the patience ends
        self._away_s += pause_s
        return pause_s

    def _overload_pause_s(self, error: Overloaded) -> float:
        self._overloads += 1
        asked_s = error.retry_after_s
        if asked_s is None:
            pause_s = self._back_off_s(self._overloads)
        else:
            pause_s = self._a_little_later_s(asked_s)
        pause_s = max(pause_s, _LEAST_PAUSE_S)
        self._overload_waited_s += pause_s
        if self._overload_waited_s > self._policy.overload_wait_s:
            raise error
        return pause_s

    def _a_little_later_s(self, asked_s: float) -> float:
        """Never earlier than asked."""
        return asked_s * self._jitter.uniform(1.0, 1.25)

    def _back_off_s(self, nth: int) -> float:
        """Between half and all of the doubled pause, at most LONGEST_PAUSE_S seconds."""
        # The exponent is bounded so that a long wait for a full queue cannot overflow a float.
        full_s = min(LONGEST_PAUSE_S, self._policy.first_pause_s * 2.0 ** min(nth - 1, 30))
        return full_s * self._jitter.uniform(0.5, 1.0)
