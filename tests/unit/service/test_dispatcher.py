from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from fake_boxes import FakePool, echo_problem

from cupel.schema import FailureClass, Judgement, Problem, Submission, Verdict
from cupel_service.errors import QueueFull, Stopping
from cupel_service.program import Slot
from cupel_service.queue.contract import Admission, Assignment, Batch, RequestExceedsQueue
from cupel_service.queue.embedded import InProcessDispatcher
from cupel_service.suite import prepare

SUITE = prepare(Problem.model_validate(echo_problem()))


def assignments(*names: str) -> list[Assignment]:
    submission = Submission(problem="p", completion="")
    return [Assignment(submission, name, "p", SUITE) for name in names]


def judgement_of(assignment: Assignment, verdict: Verdict = Verdict.AC) -> Judgement:
    return Judgement(
        id=assignment.submission_id,
        language=None,
        verdict=verdict,
        failure_class=FailureClass.NONE,
        complete=True,
        coverage=2,
        tiers=2,
        tests_per_tier=(1, 1),
        cpu_s=0,
        wall_s=0,
        memory_bytes=0,
    )


@dataclass
class Judge:
    """Judges at once; `wait...` waits for the gate, `fail...` raises a defect of our own."""

    gate: threading.Event = field(default_factory=threading.Event)
    started: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    order: list[str] = field(default_factory=list)

    def __call__(self, assignment: Assignment, slot: Slot) -> Judgement:
        self.order.append(assignment.submission_id)
        self.started.release()
        if assignment.submission_id.startswith("wait"):
            assert self.gate.wait(timeout=60)
        if assignment.submission_id.startswith("fail"):
            raise RuntimeError("a defect that quotes a secret program")
        return judgement_of(assignment)

    async def has_started(self, count: int = 1) -> None:
        for _ in range(count):
            assert await asyncio.to_thread(self.started.acquire, timeout=60)


@asynccontextmanager
async def dispatching(
    judge: Judge, *, slots: int = 1, capacity: int = 10
) -> AsyncIterator[InProcessDispatcher]:
    pool = FakePool(slots)
    pool.start()
    dispatcher = InProcessDispatcher(
        pool.slots,
        judge,
        lambda assignment: judgement_of(assignment, Verdict.JE),
        capacity=capacity,
        interrupt=judge.gate.set,
    )
    try:
        yield dispatcher
    finally:
        judge.gate.set()
        await dispatcher.stop(60)


async def ids(batch: Batch) -> list[str]:
    return [finished.judgement.id async for bunch in batch for finished in bunch]


def run(scenario: Callable[[], object]) -> None:
    asyncio.run(scenario())  # type: ignore[arg-type]  # every scenario here is a coroutine function


def test_every_submission_of_a_request_is_judged_once() -> None:
    async def scenario() -> None:
        async with dispatching(Judge(), slots=3, capacity=500) as dispatcher:
            names = [str(number) for number in range(500)]
            assert sorted(
                await ids(await dispatcher.submit(Admission(assignments(*names))))
            ) == sorted(names)

    run(scenario)


def test_indices_are_places_in_the_request() -> None:
    async def scenario() -> None:
        async with dispatching(Judge(), slots=2) as dispatcher:
            batch = await dispatcher.submit(Admission(assignments("a", "b", "c")))
            places = {each.index: each.judgement.id async for bunch in batch for each in bunch}
            assert places == {0: "a", 1: "b", 2: "c"}

    run(scenario)


def test_a_full_queue_takes_nothing_of_a_request_and_says_when_to_come_back() -> None:
    async def scenario() -> None:
        judge = Judge()
        async with dispatching(judge, capacity=3) as dispatcher:
            first = await dispatcher.submit(Admission(assignments("wait", "b")))
            with pytest.raises(QueueFull) as caught:
                await dispatcher.submit(Admission(assignments("c", "d")))
            assert 1 <= caught.value.retry_after_s <= 60
            second = await dispatcher.submit(Admission(assignments("e")))
            judge.gate.set()
            assert await ids(first) == ["wait", "b"]
            assert await ids(second) == ["e"]
            assert sorted(judge.order) == ["b", "e", "wait"]
            assert await ids(await dispatcher.submit(Admission(assignments("c", "d", "f")))) == [
                "c",
                "d",
                "f",
            ]

    run(scenario)


def test_a_request_larger_than_the_queue_is_told_to_split() -> None:
    async def scenario() -> None:
        async with dispatching(Judge(), capacity=2) as dispatcher:
            with pytest.raises(RequestExceedsQueue, match="split"):
                await dispatcher.submit(Admission(assignments("a", "b", "c")))

    run(scenario)


def test_a_small_request_is_not_stuck_behind_a_large_one() -> None:
    async def scenario() -> None:
        judge = Judge()
        async with dispatching(judge) as dispatcher:
            large = await dispatcher.submit(Admission(assignments("wait", "a", "b", "c")))
            await judge.has_started()
            small = await dispatcher.submit(Admission(assignments("x")))
            judge.gate.set()
            await ids(large)
            await ids(small)
            assert judge.order.index("x") <= 2

    run(scenario)


def test_cancelling_drops_what_has_not_started_and_frees_its_room() -> None:
    async def scenario() -> None:
        judge = Judge()
        async with dispatching(judge, capacity=4) as dispatcher:
            batch = await dispatcher.submit(Admission(assignments("wait", "a", "b", "c")))
            await judge.has_started()
            batch.leave()
            batch.leave()
            other = await dispatcher.submit(Admission(assignments("x", "y", "z")))
            judge.gate.set()
            assert await ids(other) == ["x", "y", "z"]
            assert judge.order == ["wait", "x", "y", "z"]

    run(scenario)


def test_a_defect_in_judging_is_a_judging_error_and_its_text_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        async with dispatching(Judge()) as dispatcher:
            batch = await dispatcher.submit(Admission(assignments("fail", "b")))
            verdicts = [each.judgement.verdict async for bunch in batch for each in bunch]
            assert verdicts == [Verdict.JE, Verdict.AC]

    run(scenario)
    assert "submission fail" in caplog.text
    assert "test_dispatcher.py" in caplog.text
    assert "secret" not in caplog.text


def test_a_stop_finishes_what_runs_and_returns_what_waits() -> None:
    async def scenario() -> None:
        judge = Judge()
        async with dispatching(judge) as dispatcher:
            batch = await dispatcher.submit(Admission(assignments("wait", "b")))
            waiting = await dispatcher.submit(Admission(assignments("c")))
            await judge.has_started()
            stop = asyncio.create_task(dispatcher.stop(60))
            with pytest.raises(Stopping):
                await ids(waiting)
            assert dispatcher.stopping
            with pytest.raises(Stopping):
                await dispatcher.submit(Admission(assignments("d")))
            judge.gate.set()
            bunches = aiter(batch)
            assert [each.judgement.id for each in await anext(bunches)] == ["wait"]
            with pytest.raises(Stopping):
                await anext(bunches)
            await stop

    run(scenario)


def test_a_stop_interrupts_what_outlasts_its_grace_and_gives_no_verdict() -> None:
    async def scenario() -> None:
        judge = Judge()
        async with dispatching(judge) as dispatcher:
            batch = await dispatcher.submit(Admission(assignments("wait")))
            await judge.has_started()
            await dispatcher.stop(0)
            with pytest.raises(Stopping):
                await ids(batch)

    run(scenario)


def test_results_of_a_request_arrive_in_bunches_in_order_of_completion() -> None:
    async def scenario() -> Sequence[int]:
        async with dispatching(Judge(), capacity=1000) as dispatcher:
            batch = await dispatcher.submit(
                Admission(assignments(*(str(number) for number in range(1000))))
            )
            return [each.index async for bunch in batch for each in bunch]

    assert asyncio.run(scenario()) == list(range(1000))


def test_a_stop_gives_up_a_thread_that_does_not_come_back() -> None:
    async def scenario() -> None:
        judge = Judge()
        pool = FakePool(1)
        pool.start()
        dispatcher = InProcessDispatcher(
            pool.slots, judge, judgement_of, capacity=1, interrupt=lambda: None
        )
        batch = await dispatcher.submit(Admission(assignments("wait")))
        await judge.has_started()
        await dispatcher.stop(0)
        with pytest.raises(Stopping):
            await ids(batch)
        judge.gate.set()

    run(scenario)
