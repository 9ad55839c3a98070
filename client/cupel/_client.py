"""The synchronous client."""

from __future__ import annotations

import time
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from types import TracebackType
from typing import Self, TypeVar, Unpack

import httpx

from cupel import _requests, _session_requests
from cupel._async_client import AsyncClient
from cupel._batches import BATCH_SIZE, CONCURRENCY, Judged
from cupel._bridge import iterate
from cupel._requests import Call, Settings, SubmissionFields
from cupel._retry import PATIENCE_S, Retries
from cupel._session import Session
from cupel.errors import CupelError
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


class Client:
    """Speaks with a Cupel service. May be shared between threads.

    A service that is away, as when it is restarted, is waited for, and so is a full queue. What is
    to be judged is sent under an Idempotency-Key, and again under the same one: the service goes
    on where it was, and judges nothing twice. Every call may raise any `CupelError`; the docstrings
    name what is particular to one.

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
        self._http = httpx.Client(
            base_url=self._settings.url,
            headers=self._settings.headers,
            timeout=self._settings.timeout,
            limits=httpx.Limits(max_connections=None),
            trust_env=self._settings.use_proxies,
        )
        self.problems = Problems(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def judge(
        self,
        submission: Submission | None = None,
        /,
        *,
        urgent: bool = False,
        **fields: Unpack[SubmissionFields],
    ) -> Judgement:
        """Judges one submission.

        Args:
            submission: The submission, or None to give its fields as keywords.
            urgent: Go before what waits at the service and is not urgent.
            **fields: `problem` (an id or a Problem), `source` with `language`, or `completion`;
                `stop`, `coverage`, `probe_endless`, `id`.

        Returns:
            Its judgement. A program that fails is a verdict there, not an exception.

        Raises:
            InvalidRequest: The fields contradict the schema.
            NotFound: No problem of this id is registered.
        """
        return self._send(
            _requests.judge_call(_requests.to_submission(submission, fields), urgent=urgent)
        )

    def judge_many(
        self,
        submissions: Iterable[Submission],
        *,
        batch_size: int = BATCH_SIZE,
        concurrency: int = CONCURRENCY,
        progress: bool = False,
        urgent: bool = False,
    ) -> Generator[Judged, None, None]:
        """Judges submissions in batches and yields each judgement when it is finished.

        Batches are streamed. When a stream breaks off, the same request is sent again, and what was
        yielded already is left out. Stopping the iteration early leaves what is under way to the
        service, which drops it when nobody comes back (CUPEL_ABANDONED_S).

        Args:
            submissions: Taken as they are needed; ids must be unique, absent ones are made up.
            batch_size: Most submissions in one request.
            concurrency: Most requests at one time.
            progress: Show a progress bar on standard error.
            urgent: Go before what waits at the service and is not urgent.

        Yields:
            `(position, judgement)` in order of completion; position counts from 0.

        Raises:
            CupelError: A batch failed for good; judgements yielded before stay valid.
        """

        async def stream() -> AsyncGenerator[Judged, None]:
            async with self._asynchronous() as client:
                judged = client.judge_many(
                    submissions,
                    batch_size=batch_size,
                    concurrency=concurrency,
                    progress=progress,
                    urgent=urgent,
                )
                try:
                    async for each in judged:
                        yield each
                finally:
                    await judged.aclose()

        yield from iterate(stream, ahead=max(1, batch_size))

    def judge_all(
        self,
        submissions: Iterable[Submission],
        *,
        batch_size: int = BATCH_SIZE,
        concurrency: int = CONCURRENCY,
        progress: bool = False,
        urgent: bool = False,
    ) -> list[Judgement]:
        """Judges submissions like `judge_many`.

        Returns:
            The judgements in the order of the submissions.
        """
        judged = self.judge_many(
            submissions,
            batch_size=batch_size,
            concurrency=concurrency,
            progress=progress,
            urgent=urgent,
        )
        return [each.judgement for each in sorted(judged, key=lambda each: each.position)]

    def rewards(
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
        """Rewards completions; what a trainer calls once per step.

        Args:
            problems: One id or Problem for each completion, or a single one for all.
            completions: What the model wrote: prose with a fenced program, or the bare program.
            reward: Which reward at which coverage; default all or nothing on the full suite.
            language: Of all completions; default by their fences.
            extra_rewards: Further rewards from the same judgements, by name.
            batch_size: Most completions in one request.
            concurrency: Most requests at one time.
            urgent: Go before what waits at the service and is not urgent.

        Returns:
            Rewards, extra rewards and judgements in the order of the completions. A reward of None
            is a judging error: mask it, never count it as 0.

        Raises:
            InvalidRequest: The lengths differ, or a value is not valid.
            NotFound: A problem is not registered.
        """
        return self._run(
            lambda client: client.rewards(
                problems,
                completions,
                reward,
                language=language,
                extra_rewards=extra_rewards,
                batch_size=batch_size,
                concurrency=concurrency,
                urgent=urgent,
            )
        )

    def execute(
        self,
        source: str,
        *,
        language: Language | str = Language.PYTHON,
        stdin: str | bytes = "",
        files: Mapping[str, str | bytes] | None = None,
        outputs: Iterable[str] = (),
        limits: ExecutionLimits | None = None,
    ) -> ExecutionResult:
        """Runs a program once, in a box of its own.

        Args:
            source: The program.
            language: `python`, `c` or `cpp`.
            stdin: What it reads.
            files: Put into its working folder first, by path.
            outputs: Files of its working folder to bring back.
            limits: What it may use.

        Returns:
            How it ended. A program that fails, in whatever way, is a value there.

        Raises:
            Overloaded: The service had no room for as long as this client waits.
        """
        return self._send(
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
    ) -> Session:
        """A session, to be opened by `with`: a box kept for one episode.

        Args:
            problem: What `submit` judges by, an id or a Problem; its public tests come into the
                folder `examples`.
            language: Of submissions that do not say.
            reward: What `submit` answers to the trainer; default: no reward.
            extra_rewards: Further rewards from the same judgement, by name.
            limits: What the whole session may use, how long it may live and be idle, and how often
                it may submit.
            environment: Variables of every command.
            snapshot: The folder to begin with; default: an empty one.

        Raises:
            InvalidRequest: A field is not valid.
        """
        return Session(
            self,
            _session_requests.open_call(
                problem, language, reward, extra_rewards, limits, environment, snapshot
            ),
        )

    def info(self) -> Info:
        """What the service runs on, for the record of an experiment."""
        return self._send(_requests.info_call())

    def ready(self) -> Health:
        """Whether the service takes work now; asked once, without retries.

        Raises:
            ServiceUnavailable: Nothing answers at all.
        """
        return self._send_once(_requests.ready_call())

    def wait_until_ready(self, timeout_s: float = 60.0) -> None:
        """Waits until the service takes work.

        Raises:
            Timeout: It did not within `timeout_s` seconds; says what it answered last.
        """
        self._run(lambda client: client.wait_until_ready(timeout_s))

    def _asynchronous(self) -> AsyncClient:
        settings = self._settings
        return AsyncClient(
            settings.url,
            settings.api_key,
            timeout_s=settings.timeout_s,
            patience_s=settings.retry.patience_s,
            retry_pause_s=settings.retry.first_pause_s,
        )

    def _run(self, work: Callable[[AsyncClient], Awaitable[_Answer]]) -> _Answer:
        async def once() -> AsyncGenerator[_Answer, None]:
            async with self._asynchronous() as client:
                yield await work(client)

        (answer,) = iterate(once, ahead=1)
        return answer

    def _send_once(self, call: Call[_Answer]) -> _Answer:
        with self._settings.errors_translated():
            response = self._http.send(call.request(self._http))
        return call.answer(response)

    def _send(self, call: Call[_Answer]) -> _Answer:
        retries = Retries(self._settings.retry)
        while True:
            try:
                return self._send_once(call)
            except CupelError as error:
                pause_s = retries.pause_s(error)
            time.sleep(pause_s)


class Problems:
    """The problems registered on a service."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def add(self, problem_id: str, problem: Problem) -> ProblemSummary:
        """Registers a problem, or replaces the one of this id.

        Args:
            problem_id: Letters, digits, dot, underscore and hyphen, at most 128 characters.
            problem: The problem with its hidden tests; `load_problem` reads one from a folder.

        Raises:
            InvalidRequest: The id or the problem is not valid.
        """
        return self._client._send(_requests.add_problem_call(problem_id, problem))

    def get(self, problem_id: str) -> ProblemSummary:
        """What may be read of a problem; its tests may not.

        Raises:
            NotFound: No problem of this id is registered.
        """
        return self._client._send(_requests.get_problem_call(problem_id))

    def list(self) -> tuple[ProblemSummary, ...]:
        """All registered problems."""
        return self._client._send(_requests.list_problems_call())

    def delete(self, problem_id: str) -> None:
        """Removes a problem.

        Raises:
            NotFound: No problem of this id is registered.
        """
        self._client._send(_requests.delete_problem_call(problem_id))
