"""The asynchronous client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence, Sized
from types import TracebackType
from typing import Self, TypeVar, Unpack

import httpx

from cupel import _requests, _session_requests
from cupel._async_session import AsyncSession
from cupel._batches import BATCH_SIZE, CONCURRENCY, Batch, Judged, Lines, RewardsJob, batches_of
from cupel._progress import progress_bar
from cupel._requests import Call, Settings, SubmissionFields
from cupel._retry import PATIENCE_S, Retries
from cupel.errors import ConnectionLost, CupelError, InvalidRequest, ServiceUnavailable, Timeout
from cupel.schema import (
    Health,
    Info,
    Judgement,
    Language,
    Problem,
    ProblemSummary,
    RewardSpec,
    RewardsResponse,
    Submission,
)
from cupel.session_schema import ExecutionLimits, ExecutionResult, SessionLimits, SnapshotInfo

_Answer = TypeVar("_Answer")


class AsyncClient:
    """Speaks with a Cupel service from asynchronous code. See `Client` for what each call does.

    Args:
        url: The service; default CUPEL_URL, else http://127.0.0.1:8400.
        api_key: Default CUPEL_API_KEY; needed only where the service asks for one.
        timeout_s: Longest silence while waiting for an answer, and longest wait for a full queue.
        patience_s: How long a service that is away, such as for a restart, is waited for;
            0 tries once.
        retry_pause_s: The first pause between tries, in seconds; it doubles each time, up to 5.

    Raises:
        InvalidRequest: The URL or a number makes no sense.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float = 600.0,
        patience_s: float = PATIENCE_S,
        retry_pause_s: float = 0.25,
    ) -> None:
        self._settings = Settings.resolve(url, api_key, timeout_s, patience_s, retry_pause_s)
        self._http = httpx.AsyncClient(
            base_url=self._settings.url,
            headers=self._settings.headers,
            timeout=self._settings.timeout,
            limits=httpx.Limits(max_connections=None),
            trust_env=self._settings.use_proxies,
        )
        self.problems = AsyncProblems(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def judge(
        self,
        submission: Submission | None = None,
        /,
        *,
        urgent: bool = False,
        **fields: Unpack[SubmissionFields],
    ) -> Judgement:
        """Judges one submission, given as an object or as its fields."""
        return await self._send(
            _requests.judge_call(_requests.to_submission(submission, fields), urgent=urgent)
        )

    async def judge_many(
        self,
        submissions: Iterable[Submission],
        *,
        batch_size: int = BATCH_SIZE,
        concurrency: int = CONCURRENCY,
        progress: bool = False,
        urgent: bool = False,
    ) -> AsyncGenerator[Judged, None]:
        """Judges submissions in batches and yields `(position, judgement)` as they are finished."""
        if concurrency < 1:
            raise InvalidRequest("concurrency must be at least 1")
        batches = batches_of(submissions, batch_size, urgent=urgent)
        # A finished task comes through the queue behind the judgements that it put there.
        results: asyncio.Queue[Judged | asyncio.Task[None]] = asyncio.Queue()
        running: set[asyncio.Task[None]] = set()
        total = len(submissions) if isinstance(submissions, Sized) else None
        try:
            with progress_bar(progress, total) as advance:
                while True:
                    while len(running) < concurrency and (batch := next(batches, None)):
                        task = asyncio.create_task(self._judge_batch(batch, results))
                        task.add_done_callback(results.put_nowait)
                        running.add(task)
                    if not running:
                        return
                    result = await results.get()
                    if isinstance(result, Judged):
                        advance()
                        yield result
                    else:
                        running.discard(result)
                        result.result()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def judge_all(
        self,
        submissions: Iterable[Submission],
        *,
        batch_size: int = BATCH_SIZE,
        concurrency: int = CONCURRENCY,
        progress: bool = False,
        urgent: bool = False,
    ) -> list[Judgement]:
        """Judges submissions in batches and returns the judgements in their order."""
        judged = [
            each
            async for each in self.judge_many(
                submissions,
                batch_size=batch_size,
                concurrency=concurrency,
                progress=progress,
                urgent=urgent,
            )
        ]
        return [each.judgement for each in sorted(judged, key=lambda each: each.position)]

    async def rewards(
        self,
        problems: str | Problem | Sequence[str | Problem],
        completions: Sequence[str],
        reward: RewardSpec | None = None,
        *,
        language: Language | str | None = None,
        extra_rewards: Mapping[str, RewardSpec] | None = None,
        batch_size: int = BATCH_SIZE,
        concurrency: int = CONCURRENCY,
        urgent: bool = False,
    ) -> RewardsResponse:
        """Rewards completions, in their order; None where the judging failed."""
        job = RewardsJob(
            problems, completions, reward, language, extra_rewards, batch_size, concurrency, urgent
        )
        places = asyncio.Semaphore(job.concurrency)

        async def part(call: Call[RewardsResponse]) -> RewardsResponse:
            async with places:
                return await self._send(call)

        tasks = [asyncio.create_task(part(call)) for call in job.calls()]
        try:
            return job.join(await asyncio.gather(*tasks))
        finally:  # the first error ends the others, too
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def execute(
        self,
        source: str,
        *,
        language: Language | str = Language.PYTHON,
        stdin: str | bytes = "",
        files: Mapping[str, str | bytes] | None = None,
        outputs: Iterable[str] = (),
        limits: ExecutionLimits | None = None,
    ) -> ExecutionResult:
        """Runs a program once, in a box of its own."""
        return await self._send(
            _session_requests.execute_call(source, language, stdin, files, outputs, limits)
        )

    def session(
        self,
        problem: str | Problem | None = None,
        *,
        language: Language | str | None = None,
        reward: RewardSpec | None = None,
        extra_rewards: Mapping[str, RewardSpec] | None = None,
        limits: SessionLimits | None = None,
        environment: Mapping[str, str] | None = None,
        snapshot: str | SnapshotInfo | None = None,
    ) -> AsyncSession:
        """A session, to be opened by `async with`."""
        return AsyncSession(
            self,
            _session_requests.open_call(
                problem, language, reward, extra_rewards, limits, environment, snapshot
            ),
        )

    async def info(self) -> Info:
        """What the service runs on."""
        return await self._send(_requests.info_call())

    async def ready(self) -> Health:
        """Whether the service takes work now; asked once, without retries."""
        return await self._send_once(_requests.ready_call())

    async def wait_until_ready(self, timeout_s: float = 60.0) -> None:
        """Waits until the service takes work.

        Raises:
            Timeout: It did not within `timeout_s` seconds; says what it answered last.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                health = await self.ready()
                if health.status == "ok":
                    return
                last = f"{health.status} {health.reason}".rstrip()
            except (ServiceUnavailable, ConnectionLost) as error:
                last = str(error)
            if time.monotonic() > deadline:
                raise Timeout(f"{self._settings.url} not ready after {timeout_s:g} s: {last}")
            await asyncio.sleep(_requests.READY_PAUSE_S)

    async def _send_once(self, call: Call[_Answer]) -> _Answer:
        with self._settings.errors_translated():
            response = await self._http.send(call.request(self._http))
        return call.answer(response)

    async def _send(self, call: Call[_Answer]) -> _Answer:
        retries = Retries(self._settings.retry)
        while True:
            try:
                return await self._send_once(call)
            except CupelError as error:
                pause_s = retries.pause_s(error)
            await asyncio.sleep(pause_s)

    async def _judge_batch(
        self, batch: Batch, results: asyncio.Queue[Judged | asyncio.Task[None]]
    ) -> None:
        """Asks again, by the same request, until every submission has its answer."""
        retries = Retries(self._settings.retry)
        while True:
            lacking = batch.pending
            try:
                with self._settings.errors_translated():
                    await self._stream(batch, results)
                if not batch.pending:
                    return
                raise ConnectionLost(f"the answer ended {batch.pending} judgements early")
            except CupelError as error:
                if batch.pending < lacking:
                    retries.progressed()
                pause_s = retries.pause_s(error)
            await asyncio.sleep(pause_s)

    async def _stream(
        self, batch: Batch, results: asyncio.Queue[Judged | asyncio.Task[None]]
    ) -> None:
        response = await self._http.send(batch.call.request(self._http), stream=True)
        try:
            if not response.is_success:
                await response.aread()
                raise _requests.error_of(response)
            lines = Lines()
            async for chunk in response.aiter_bytes():
                for line in lines.feed(chunk):
                    if (judged := batch.take(line)) is not None:
                        results.put_nowait(judged)
        finally:
            await response.aclose()


class AsyncProblems:
    """The problems registered on a service."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def add(self, problem_id: str, problem: Problem) -> ProblemSummary:
        """Registers a problem, or replaces the one of this id."""
        return await self._client._send(_requests.add_problem_call(problem_id, problem))

    async def get(self, problem_id: str) -> ProblemSummary:
        """What may be read of a problem; its tests may not."""
        return await self._client._send(_requests.get_problem_call(problem_id))

    async def list(self) -> tuple[ProblemSummary, ...]:
        """All registered problems."""
        return await self._client._send(_requests.list_problems_call())

    async def delete(self, problem_id: str) -> None:
        """Removes a problem."""
        await self._client._send(_requests.delete_problem_call(problem_id))
