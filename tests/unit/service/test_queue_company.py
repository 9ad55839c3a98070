from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from cupel_service.queue.company import Company

PATIENCE_S = 60.0


def test_many_share() -> None:
    company, both = Company(), threading.Barrier(2, timeout=PATIENCE_S)

    def share() -> None:
        with company.shared():
            both.wait()

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(share) for _ in range(2)]:
            done.result(PATIENCE_S)


def test_who_is_alone_waits_for_the_others_and_goes_before_the_next() -> None:
    company, order = Company(), list[str]()
    entered, leave = threading.Event(), threading.Event()

    def first() -> None:
        with company.shared():
            entered.set()
            assert leave.wait(PATIENCE_S)
            order.append("first")

    def alone() -> None:
        with company.alone():
            order.append("alone")

    def later() -> None:
        with company.shared():
            order.append("later")

    with ThreadPoolExecutor(3) as threads:
        running = [threads.submit(first)]
        assert entered.wait(PATIENCE_S)
        running.append(threads.submit(alone))
        while not company._waiting_alone:
            time.sleep(0.001)
        running.append(threads.submit(later))
        leave.set()
        for done in running:
            done.result(PATIENCE_S)
    assert order == ["first", "alone", "later"]


def test_nobody_is_beside_who_is_alone() -> None:
    company, inside = Company(), list[str]()
    worst: list[int] = []

    def alone(number: int) -> None:
        with company.alone():
            inside.append("alone")
            worst.append(len(inside))
            inside.remove("alone")

    def share(number: int) -> None:
        with company.shared():
            inside.append("shared")
            assert "alone" not in inside
            inside.remove("shared")

    with ThreadPoolExecutor(8) as threads:
        for number in range(200):
            threads.submit(alone if number % 5 == 0 else share, number)
    assert worst == [1] * 40
