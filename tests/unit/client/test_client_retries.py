from __future__ import annotations

import random

import pytest

from cupel._retry import PATIENCE_S, Retries, RetryPolicy
from cupel.errors import (
    ConnectionLost,
    CupelError,
    InvalidRequest,
    NotFound,
    Overloaded,
    ServiceFault,
    ServiceUnavailable,
    Timeout,
)

POLICY = RetryPolicy(patience_s=7.0, first_pause_s=1.0, overload_wait_s=10.0)


class NoJitter(random.Random):
    def uniform(self, a: float, b: float) -> float:
        return b


def retries(policy: RetryPolicy = POLICY) -> Retries:
    return Retries(policy, NoJitter())


def test_pauses_double_until_the_patience_ends() -> None:
    tried = retries()
    error = ConnectionLost("broke")
    assert [tried.pause_s(error) for _ in range(3)] == [1.0, 2.0, 4.0]
    with pytest.raises(ConnectionLost) as raised:
        tried.pause_s(error)
    assert raised.value is error


def test_pauses_stop_growing_at_five_seconds() -> None:
    tried = retries(RetryPolicy(patience_s=1e6, first_pause_s=1.0, overload_wait_s=1.0))
    pauses = [tried.pause_s(ConnectionLost("broke")) for _ in range(2000)]
    assert pauses == [1.0, 2.0, 4.0] + [5.0] * 1997


def test_the_last_try_comes_when_the_patience_ends() -> None:
    tried = retries(RetryPolicy(patience_s=3.5, first_pause_s=1.0, overload_wait_s=1.0))
    assert [tried.pause_s(ServiceUnavailable("away")) for _ in range(3)] == [1.0, 2.0, 0.5]
    with pytest.raises(ServiceUnavailable):
        tried.pause_s(ServiceUnavailable("away"))


def test_without_patience_there_is_one_try() -> None:
    with pytest.raises(ConnectionLost):
        retries(RetryPolicy(0.0, 1.0, 1.0)).pause_s(ConnectionLost("broke"))


def test_a_service_that_is_away_for_30_s_is_waited_for_by_default() -> None:
    for seed in range(50):
        tried = Retries(RetryPolicy(PATIENCE_S, 0.25, 600.0), random.Random(seed))
        waited_s = 0.0
        while waited_s < 30:
            waited_s += tried.pause_s(ServiceUnavailable("refused"))
        assert waited_s <= 35


def test_waiting_is_announced_once(caplog: pytest.LogCaptureFixture) -> None:
    tried = retries()
    for _ in range(3):
        tried.pause_s(ServiceUnavailable("no service at http://h"))
    assert caplog.messages == ["no service at http://h; trying again for up to 7 s"]


def test_jitter_keeps_a_pause_between_half_and_all_of_it() -> None:
    pauses = {
        Retries(POLICY, random.Random(seed)).pause_s(ConnectionLost("broke")) for seed in range(50)
    }
    assert len(pauses) == 50
    assert all(0.5 <= pause <= 1.0 for pause in pauses)


@pytest.mark.parametrize(
    "error", [Timeout("slow"), InvalidRequest("no"), NotFound("no"), ServiceFault("no")]
)
def test_other_errors_are_final(error: CupelError) -> None:
    with pytest.raises(type(error)):
        retries().pause_s(error)


def test_a_full_queue_is_waited_for_as_asked_until_the_timeout() -> None:
    tried = retries()
    full = Overloaded("full", status=429, retry_after_s=2.0)
    assert [tried.pause_s(full) for _ in range(4)] == [2.5] * 4
    with pytest.raises(Overloaded):
        tried.pause_s(full)


def test_a_pause_is_never_shorter_than_asked() -> None:
    full = Overloaded("full", status=429, retry_after_s=2.0)
    for seed in range(50):
        assert Retries(POLICY, random.Random(seed)).pause_s(full) >= 2.0


def test_a_full_queue_does_not_use_up_the_retries() -> None:
    tried = retries()
    for _ in range(20):
        assert tried.pause_s(Overloaded("full", retry_after_s=0.0)) == 0.01
    assert tried.pause_s(ConnectionLost("broke")) == 1.0


def test_a_service_that_is_stopping_is_tried_again_when_it_says() -> None:
    assert retries().pause_s(ServiceUnavailable("stopping", retry_after_s=4.0)) == 5.0
    with pytest.raises(ServiceUnavailable):
        retries().pause_s(ServiceUnavailable("stopping", retry_after_s=3600.0))


def test_progress_makes_the_next_failure_the_first() -> None:
    tried = retries()
    assert [tried.pause_s(ConnectionLost("broke")) for _ in range(3)] == [1.0, 2.0, 4.0]
    tried.progressed()
    assert tried.pause_s(ConnectionLost("broke")) == 1.0
