"""Having completions judged: each once, on every test, until nothing remains to be learnt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass

from cupel import AsyncClient, Problem, Stop, Submission
from cupel.schema import Language, ProblemSummary
from cupel_trainer.evaluate.problem_set import ProblemEntry, load_tests
from cupel_trainer.evaluate.records import JudgedSample
from cupel_trainer.evaluate.registration import Registrar
from cupel_trainer.evaluate.verdict_record import is_settled, judged_sample

ATTEMPTS = 3
"""How often a completion is judged in one run, while judging errors leave its verdict open."""
IN_FLIGHT = 256
"""Submissions that are at the service at one time, or more where it has many slots."""
IN_FLIGHT_PER_SLOT = 4


@dataclass(frozen=True, slots=True)
class Completion:
    """A completion of a problem, whatever number of samples have it.

    Args:
        key: Its digest.
        offset_bytes: Where the first sample that has it stands in its file.
    """

    key: str
    offset_bytes: int


@dataclass(frozen=True, slots=True)
class ProblemWork:
    """What is to be judged of one problem.

    Args:
        entry: The problem.
        language: Of its programs; None to go by their fences.
        completions: Each once.
    """

    entry: ProblemEntry
    language: Language | None
    completions: tuple[Completion, ...]


Emit = Callable[[ProblemWork, Completion, JudgedSample], None]


@dataclass(frozen=True, slots=True)
class Judging:
    """Has completions judged by a service.

    Args:
        client: Speaks with it.
        registrar: Registers inline problems there.
        summaries: Its registered problems, by id.
        read: The texts of completions that stand at these places.
        emit: Is told what came of each completion, in any order.
        slots: How many programs the service runs at one time.
    """

    client: AsyncClient
    registrar: Registrar
    summaries: Mapping[str, ProblemSummary]
    read: Callable[[Sequence[int]], list[str]]
    emit: Emit
    slots: int

    async def judge(self, work: Sequence[ProblemWork]) -> None:
        """Judges all of it, several problems at one time.

        Raises:
            CupelError: The service is away, or refuses; what was emitted stays valid.
            TrainerError: A problem cannot be loaded, or a verdict not be written.
        """
        room = _Room(max(IN_FLIGHT, IN_FLIGHT_PER_SLOT * self.slots))
        try:
            async with asyncio.TaskGroup() as tasks:
                for each in work:
                    await room.enter(len(each.completions))
                    tasks.create_task(self._judge_problem(each, room))
        except ExceptionGroup as errors:  # one is enough to say; the others follow from it
            raise errors.exceptions[0] from errors

    async def _judge_problem(self, work: ProblemWork, room: _Room) -> None:
        async with AsyncExitStack() as stack:
            problem = await asyncio.to_thread(load_tests, work.entry)
            if isinstance(problem, Problem):
                limits = problem.limits
                target = await stack.enter_async_context(
                    self.registrar.registered(problem, work.entry.digest)
                )
            else:
                limits = self.summaries[problem].limits
                target = problem
            left = list(work.completions)
            for attempt in range(1, ATTEMPTS + 1):
                open_still = []
                judgements = self.client.judge_many(self._submissions(work, left, target))
                async with aclosing(judgements):
                    async for position, judgement in judgements:
                        if attempt < ATTEMPTS and not is_settled(judgement):
                            open_still.append(left[position])
                            continue
                        record = judged_sample(
                            judgement, problem=work.entry.id, cpu_limit_s=limits.cpu_s
                        )
                        self.emit(work, left[position], record)
                        room.leave()
                left = open_still
                if not left:
                    return

    def _submissions(
        self, work: ProblemWork, completions: Sequence[Completion], target: str | Problem
    ) -> list[Submission]:
        texts = self.read([each.offset_bytes for each in completions])
        return [
            Submission(
                problem=target,
                language=work.language,
                completion=text,
                stop=Stop.NEVER,
                probe_endless=True,
            )
            for text in texts
        ]


class _Room:
    """Bounds what is at the service: a problem enters while there is room, and then as a whole."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._taken = 0
        self._left = asyncio.Event()

    async def enter(self, count: int) -> None:
        while self._taken >= self._places:
            self._left.clear()
            await self._left.wait()
        self._taken += count

    def leave(self) -> None:
        self._taken -= 1
        self._left.set()
