"""What is particular to the embedded queue; what every queue promises is in the contract tests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fake_boxes import FakePool, echo_problem

from cupel.schema import FailureClass, Judgement, Problem, Submission, Verdict
from cupel_service.errors import ProblemUnknown, QueueFull, Stopping
from cupel_service.program import Slot
from cupel_service.queue.contract import Admission, Assignment, Batch
from cupel_service.queue.embedded import InProcessDispatcher
from cupel_service.queue.journal import BYTES_MAX, Journal
from cupel_service.queue.tickets import suites_from
from cupel_service.suite import Suite, prepare

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


@dataclass
class Service:
    """A dispatcher with its journal, which a test opens and stops itself."""

    judge: Judge
    folder: Path
    slots: int = 1
    capacity: int = 10
    bytes_max: int = BYTES_MAX
    abandoned_s: float = 60.0
    interrupt: Callable[[], None] | None = None
    registered: Callable[[str], Suite] = lambda problem_id: SUITE

    @asynccontextmanager
    async def running(self) -> AsyncIterator[InProcessDispatcher]:
        self.journal = Journal(self.folder / "queue.sqlite3", self.bytes_max)
        pool = FakePool(self.slots)
        pool.start()
        dispatcher = InProcessDispatcher(
            pool.slots,
            self.judge,
            lambda assignment: judgement_of(assignment, Verdict.JE),
            capacity=self.capacity,
            interrupt=self.interrupt or self.judge.gate.set,
            journal=self.journal,
            suite_of=suites_from(self.registered),
            abandoned_s=self.abandoned_s,
        )
        try:
            yield dispatcher
        finally:
            self.judge.gate.set()
            await dispatcher.stop(60)
            self.journal.close()


async def ids(batch: Batch) -> list[str]:
    return [finished.judgement.id async for bunch in batch for finished in bunch]


def run(scenario: Callable[[], object]) -> None:
    asyncio.run(scenario())  # type: ignore[arg-type]  # every scenario here is a coroutine function


def test_a_small_request_is_not_stuck_behind_a_large_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        judge = Judge()
        async with Service(judge, tmp_path).running() as dispatcher:
            large = await dispatcher.submit(Admission(assignments("wait", "a", "b", "c")))
            await judge.has_started()
            small = await dispatcher.submit(Admission(assignments("x")))
            judge.gate.set()
            await ids(large)
            await ids(small)
            assert judge.order.index("x") <= 2

    run(scenario)


def test_a_defect_in_judging_is_a_judging_error_and_its_text_is_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with Service(Judge(), tmp_path).running() as dispatcher:
            batch = await dispatcher.submit(Admission(assignments("fail", "b")))
            verdicts = [each.judgement.verdict async for bunch in batch for each in bunch]
            assert verdicts == [Verdict.JE, Verdict.AC]

    run(scenario)
    assert "submission fail" in caplog.text
    assert "test_dispatcher.py" in caplog.text
    assert "secret" not in caplog.text


def test_a_stop_delivers_what_runs_before_it_says_that_the_rest_is_dropped(tmp_path: Path) -> None:
    async def scenario() -> None:
        judge = Judge()
        async with Service(judge, tmp_path).running() as dispatcher:
            batch = await dispatcher.submit(Admission(assignments("wait", "b")))
            await judge.has_started()
            stop = asyncio.create_task(dispatcher.stop(60))
            while not dispatcher.stopping:  # noqa: ASYNC110 (it says so by no event)
                await asyncio.sleep(0)
            judge.gate.set()
            bunches = aiter(batch)
            assert [each.judgement.id for each in await anext(bunches)] == ["wait"]
            with pytest.raises(Stopping):
                await anext(bunches)
            await stop

    run(scenario)


@pytest.mark.parametrize("key", [None, "k"])
def test_a_stop_interrupts_what_outlasts_its_grace_and_gives_no_verdict(
    tmp_path: Path, key: str | None
) -> None:
    async def scenario() -> None:
        judge = Judge()
        async with Service(judge, tmp_path).running() as dispatcher:
            batch = await dispatcher.submit(Admission(assignments("wait"), key))
            await judge.has_started()
            await dispatcher.stop(0)
            with pytest.raises(Stopping):
                await ids(batch)
        if key is not None:  # nor is one written down: the next service judges it
            async with Service(judge, tmp_path).running() as dispatcher:
                assert await ids(await dispatcher.submit(Admission(assignments("wait"), key)))
                assert judge.order == ["wait", "wait"]

    run(scenario)


def test_results_of_a_request_arrive_in_bunches_in_order_of_completion(tmp_path: Path) -> None:
    async def scenario() -> Sequence[int]:
        async with Service(Judge(), tmp_path, capacity=1000).running() as dispatcher:
            batch = await dispatcher.submit(
                Admission(assignments(*(str(number) for number in range(1000))))
            )
            return [each.index async for bunch in batch for each in bunch]

    assert asyncio.run(scenario()) == list(range(1000))


def test_a_stop_gives_up_a_thread_that_does_not_come_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        judge = Judge()
        service = Service(judge, tmp_path, interrupt=lambda: None)
        async with service.running() as dispatcher:
            batch = await dispatcher.submit(Admission(assignments("wait"), "k"))
            await judge.has_started()
            await dispatcher.stop(0)
            with pytest.raises(Stopping):
                await ids(batch)

    run(scenario)


@pytest.mark.parametrize("moment", ["deleted", "replaced"])
def test_work_of_before_whose_problem_is_gone_is_a_judging_error_that_says_so(
    tmp_path: Path, moment: str
) -> None:
    other = prepare(Problem.model_validate(echo_problem(3)))

    def registered(problem_id: str) -> Suite:
        if moment == "deleted":
            raise ProblemUnknown(problem_id)
        return other

    async def scenario() -> None:
        judge = Judge()
        async with Service(judge, tmp_path).running() as dispatcher:
            await dispatcher.submit(Admission(assignments("wait", "b", "c"), "k", "d"))
            await judge.has_started()
            await dispatcher.stop(0)
        async with Service(judge, tmp_path, registered=registered).running() as dispatcher:
            batch = await dispatcher.attach("k", "d")
            assert batch is not None
            found = [each.judgement async for bunch in batch for each in bunch]
            assert {each.verdict for each in found} == {Verdict.JE}
            assert {each.message for each in found} == {
                f"judging error: problem 'p' was {moment} meanwhile"
            }

    run(scenario)


def test_a_full_journal_takes_nothing_until_finished_batches_made_room(tmp_path: Path) -> None:
    async def scenario() -> None:
        judge = Judge()
        # With room for nothing, each batch finds it full of the one before.
        service = Service(judge, tmp_path, bytes_max=64 * 1024)
        async with service.running() as dispatcher:
            submission = Submission(problem="p", completion="x" * 100_000)
            large = Assignment(submission, "wait", "p", SUITE)
            batch = await dispatcher.submit(Admission([large], "first", "d"))
            with pytest.raises(QueueFull, match="journal"):
                await dispatcher.submit(Admission(assignments("b"), "second", "d"))
            assert await dispatcher.attach("second", "d") is None
            unkeyed = await dispatcher.submit(Admission(assignments("c")))  # needs no disk
            judge.gate.set()
            assert await ids(batch) == ["wait"]
            assert await ids(unkeyed) == ["c"]
            assert await ids(await dispatcher.submit(Admission(assignments("b"), "second", "d")))

    run(scenario)


def test_too_much_in_the_journal_ends_finished_batches_before_their_time(tmp_path: Path) -> None:
    async def scenario() -> None:
        service = Service(Judge(), tmp_path, bytes_max=64 * 1024, abandoned_s=0.2)
        async with service.running() as dispatcher:
            await ids(await dispatcher.submit(Admission(assignments("a" * 100_000), "k", "d")))
            while (batch := await dispatcher.attach("k", "d")) is not None:
                batch.leave()
                await asyncio.sleep(0.01)
            assert await ids(await dispatcher.submit(Admission(assignments("b"), "k", "d"))) == [
                "b"
            ]

    run(scenario)


def test_a_judgement_that_cannot_be_written_is_delivered_all_the_same(tmp_path: Path) -> None:
    async def scenario() -> None:
        judge = Judge()
        service = Service(judge, tmp_path)
        async with service.running() as dispatcher:
            batch = await dispatcher.submit(Admission(assignments("wait", "b"), "k", "d"))
            await judge.has_started()
            service.journal.close()
            judge.gate.set()
            assert await ids(batch) == ["wait", "b"]

    run(scenario)
