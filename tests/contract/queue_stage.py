"""What a test of the queue's contract has at hand: a judge that follows a script, and the queues.

A further kind of queue is a class like `EmbeddedQueue`, with `opened` and `kill`, that judges by
`self.judge.process()` and finds suites by `suite_of`. Give it a fixture in test_queue.py (or in a
module that its conftest loads) and add the fixture's name to QUEUES there. That is all: no test
knows which queue it runs on.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cupel.schema import FAILURE_CLASS, Judgement, Problem, Submission, Testcase, Verdict
from cupel_sandbox.box import Box
from cupel_service.program import Slot
from cupel_service.queue.contract import Assignment, Batch, Dispatcher
from cupel_service.queue.embedded import InProcessDispatcher
from cupel_service.queue.journal import Journal
from cupel_service.queue.tickets import suites_from
from cupel_service.suite import prepare

PATIENCE_S = 60.0
REGISTERED = prepare(Problem(title="p", tests=(Testcase(name="t", input="1", output="1"),)))
INLINE = Problem(title="inline", tests=(Testcase(name="t", input="2", output="2"),))

suite_of = suites_from(lambda problem_id: REGISTERED)


class Queue(Protocol):
    """One kind of queue, which can be opened again on what it had accepted."""

    judge: FakeJudge

    def opened(
        self,
        *,
        slots: int = 1,
        capacity: int = 1000,
        abandoned_s: float = 60.0,
        results_kept_s: float = 600.0,
    ) -> AbstractAsyncContextManager[Dispatcher]:
        """A service's end of the queue, with that many slots behind it; stopped at the end."""

    async def kill(self, dispatcher: Dispatcher) -> None:
        """Ends it, and the slots behind it, as kill -9 does; then it can be `opened` again."""


def assignments(*ids: str) -> list[Assignment]:
    """Submissions for a registered problem."""
    submission = Submission(problem="p", completion="")
    return [Assignment(submission, name, "p", REGISTERED) for name in ids]


def inline_assignments(*ids: str) -> list[Assignment]:
    """Submissions that bring their problem along."""
    submission = Submission(problem=INLINE, completion="")
    return [Assignment(submission, name, None, prepare(INLINE)) for name in ids]


def judgement_of(assignment: Assignment, verdict: Verdict = Verdict.AC) -> Judgement:
    return Judgement(
        id=assignment.submission_id,
        problem=assignment.problem_id,
        language=None,
        verdict=verdict,
        failure_class=FAILURE_CLASS[verdict],
        complete=verdict is not Verdict.JE,
        coverage=assignment.suite.tiers,
        tiers=assignment.suite.tiers,
        tests_per_tier=assignment.suite.tests_per_tier,
        cpu_s=0,
        wall_s=0,
        memory_bytes=0,
    )


def judging_error(assignment: Assignment) -> Judgement:
    return judgement_of(assignment, Verdict.JE)


@dataclass
class FakeJudge:
    """Accepts everything. `wait...` waits for the gate first, `fail...` raises a defect of ours.

    Args:
        gate: What `wait...` waits for.
        order: The ids whose judging began, in order.
        judged: How often the judging of each id came to its end.
    """

    gate: threading.Event = field(default_factory=threading.Event)
    order: list[str] = field(default_factory=list)
    judged: Counter[str] = field(default_factory=Counter)
    _started: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    async def has_started(self, count: int = 1) -> None:
        """Waits until the judging of so many more submissions has begun."""
        for _ in range(count):
            assert await asyncio.to_thread(self._started.acquire, timeout=PATIENCE_S)

    def process(self) -> FakeProcess:
        """The judge within a process that can be killed."""
        return FakeProcess(self, self._started)


@dataclass
class FakeProcess:
    """The judge as one process has it; thread-safe."""

    judge: FakeJudge
    started: threading.Semaphore
    dead: threading.Event = field(default_factory=threading.Event)
    buried: threading.Event = field(default_factory=threading.Event)

    def __call__(self, assignment: Assignment, slot: Slot) -> Judgement:
        name = assignment.submission_id
        self._must_live()
        self.judge.order.append(name)
        self.started.release()
        while name.startswith("wait") and not self.judge.gate.wait(0.01):
            self._must_live()
        if name.startswith("fail"):
            raise RuntimeError("a defect that quotes a secret program")
        self._must_live()
        self.judge.judged[name] += 1
        return judgement_of(assignment)

    def kill(self) -> None:
        """No thread comes back from here with a judgement any more, nor without before `bury`."""
        self.dead.set()

    def bury(self) -> None:
        """Lets the threads of a killed process go, so that none is left behind."""
        self.dead.set()
        self.buried.set()

    def _must_live(self) -> None:
        if self.dead.is_set():
            assert self.buried.wait(PATIENCE_S)
            raise RuntimeError("killed")


class FakeSlot:
    """A slot for judges that need no box."""

    @property
    def box(self) -> Box:
        raise AssertionError("no test of the queue runs a program")

    def replace(self) -> None:
        raise AssertionError("no test of the queue loses a box")


async def judgements(batch: Batch | None) -> dict[int, Judgement]:
    """All of a batch, by place; each comes once."""
    assert batch is not None
    found: dict[int, Judgement] = {}
    async with asyncio.timeout(PATIENCE_S):
        async for bunch in batch:
            for finished in bunch:
                assert finished.index not in found
                found[finished.index] = finished.judgement
    return found


async def ids(batch: Batch | None) -> list[str]:
    """The ids of a batch's judgements, in the order of the request."""
    return [judgement.id for _, judgement in sorted((await judgements(batch)).items())]


async def eventually(holds: Callable[[], bool]) -> None:
    """Waits for something that will be so before long."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 (threads, not tasks, make it so)
            await asyncio.sleep(0.01)


class EmbeddedQueue:
    """The queue of a service of one process."""

    def __init__(self, folder: Path) -> None:
        self.judge = FakeJudge()
        self._path = folder / "queue.sqlite3"
        self._processes: dict[int, tuple[FakeProcess, Journal]] = {}

    @asynccontextmanager
    async def opened(
        self,
        *,
        slots: int = 1,
        capacity: int = 1000,
        abandoned_s: float = 60.0,
        results_kept_s: float = 600.0,
    ) -> AsyncIterator[Dispatcher]:
        process, journal = self.judge.process(), Journal(self._path)
        dispatcher = InProcessDispatcher(
            [FakeSlot() for _ in range(slots)],
            process,
            judging_error,
            capacity=capacity,
            interrupt=process.bury,
            journal=journal,
            suite_of=suite_of,
            abandoned_s=abandoned_s,
            results_kept_s=results_kept_s,
        )
        self._processes[id(dispatcher)] = process, journal
        try:
            yield dispatcher
        finally:
            self.judge.gate.set()
            if process.dead.is_set():
                process.bury()
            await dispatcher.stop(PATIENCE_S)
            journal.close()

    async def kill(self, dispatcher: Dispatcher) -> None:
        # Cut off from its file, it cannot do anything that a dead process could not.
        process, journal = self._processes[id(dispatcher)]
        process.kill()
        await asyncio.to_thread(journal.close)
