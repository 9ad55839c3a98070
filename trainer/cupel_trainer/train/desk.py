"""The verdict desk: completions are judged in the background while the model draws the next ones.

A thread of its own runs an event loop with the SDK's client. `judge` returns at once with a handle;
whoever needs the reward waits for that. Completions that arrive within a few milliseconds go to the
service as one request.

Guilt is not confused. A judging error (JE) is asked about again, and then its reward is None, which
masks it. A service that is away is waited for, as long as the recipe's patience lasts; after that
training stops with an error, and resumes from its last checkpoint. Nothing here makes a zero of
either.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from cupel import AsyncClient, CupelError, NotFound, RewardSpec
from cupel.errors import ConnectionLost, Overloaded, ServiceFault, ServiceUnavailable, Timeout
from cupel.schema import Info, Language, RewardKind, RewardsResponse
from cupel_trainer.errors import TrainingError
from cupel_trainer.evaluate.problem_set import ProblemEntry
from cupel_trainer.train.coverage import level_of
from cupel_trainer.train.judged import FULL, TESTS, Judged
from cupel_trainer.train.recipe import Recipe
from cupel_trainer.train.targets import Target, Targets

AWAY = (ServiceUnavailable, ConnectionLost, Timeout, Overloaded, ServiceFault)
"""Errors that go by: the service restarts, its disk is emptied, its queue drains."""
PAUSE_S, PAUSE_MAX_S = 0.25, 5.0
REQUESTS = 8
"""Requests at the service at one time; each holds many completions."""

_Answer = TypeVar("_Answer")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Specs:
    """Which rewards are asked for.

    Args:
        reward: What is trained on.
        extra: Further ones, by name.
    """

    reward: RewardSpec
    extra: Mapping[str, RewardSpec]


@dataclass(slots=True)
class _Item:
    """A completion that waits for its verdict."""

    problem: str
    target: Target
    completion: str
    level: int
    handle: asyncio.Future[Judged]


@dataclass(slots=True)
class _Bucket:
    """Completions that can share a request, and what they share."""

    language: Language | None
    specs: Specs
    items: list[_Item] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None


class Desk:
    """Judges in the background.

    Args:
        recipe: How, and by which service.
        entries: The problems that may be judged.
        url: The service.
        api_key: None takes CUPEL_API_KEY.
        out: The run's folder; names what is registered.
    """

    def __init__(
        self,
        recipe: Recipe,
        entries: Sequence[ProblemEntry],
        url: str | None,
        out: Path,
        api_key: str | None = None,
    ) -> None:
        self._recipe = recipe
        self._languages = {entry.id: entry.language or recipe.language for entry in entries}
        self._buckets: dict[str, _Bucket] = {}
        self._away_since_s: float | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="verdict desk", daemon=True)
        self._thread.start()
        try:
            self.client: AsyncClient = self.call(self._open(entries, url, api_key, out)).result()
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def away_s(self) -> float:
        """For how long the service has been away; 0 while it is there."""
        since_s = self._away_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def call(self, work: Coroutine[object, object, _Answer]) -> concurrent.futures.Future[_Answer]:
        """Runs a coroutine on the desk's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def judge(self, problem: str, completion: str, step: int) -> concurrent.futures.Future[Judged]:
        """Has a completion judged.

        Args:
            problem: Its id in the set.
            completion: The policy's answer.
            step: Decides the coverage.

        Returns:
            A handle. Its result raises TrainingError where the service stayed away for longer than
            the recipe's patience.
        """
        return self.call(self._judge(problem, completion, step))

    def info(self, patience_s: float | None = None) -> Info:
        """What the service runs on.

        Args:
            patience_s: How long it is waited for; by default as long as for verdicts.

        Raises:
            TrainingError: It stayed away for longer.
        """
        return self.call(self.patiently(self.client.info, patience_s)).result()

    def close(self) -> None:
        """Ends the thread; what was registered is removed, if the service is there."""
        if self._loop.is_closed():
            return
        try:
            self.call(self._close()).result()
        finally:
            self._stop()

    async def specs(self, problem: str, step: int) -> tuple[Target, Specs, int]:
        """Which rewards a problem's completions have in a step, and at which level."""
        target = await self.patiently(lambda: self._targets.find(problem))
        recipe = self._recipe
        level = recipe.coverage.level_of(step, target.tiers)
        extra = {
            name: RewardSpec(kind=each.kind, coverage=level_of(each.coverage, target.tiers))
            for name, each in recipe.reward.extra.items()
        }
        if recipe.reward.full_coverage:
            extra[FULL] = RewardSpec(coverage=target.tiers)
        if recipe.reward.every_failure:
            extra[TESTS] = RewardSpec(kind=RewardKind.TEST_FRACTION, coverage=level)
        reward = RewardSpec(kind=recipe.reward.kind, coverage=level, weights=recipe.reward.weights)
        return target, Specs(reward, extra), level

    async def patiently(
        self, ask: Callable[[], Awaitable[_Answer]], patience_s: float | None = None
    ) -> _Answer:
        """Asks until there is an answer.

        Args:
            ask: Asks once.
            patience_s: By default the recipe's.

        Raises:
            TrainingError: The service stayed away for longer than the recipe's patience.
            CupelError: It refuses; asking again would not help.
        """
        pause_s, began_s = PAUSE_S, time.monotonic()
        if patience_s is None:
            patience_s = self._recipe.service.patience_s
        while True:
            try:
                answer = await ask()
            except AWAY as error:
                waited_s = time.monotonic() - began_s
                if waited_s + pause_s > patience_s:
                    raise TrainingError(
                        f"the service was away for {waited_s:.0f} s, longer than it is waited for "
                        f"({patience_s:g} s; service.patience_s in the recipe): {error}. Start it, "
                        "and run the same command again: training goes on from its last checkpoint"
                    ) from error
                if self._away_since_s is None:
                    self._away_since_s = began_s
                    _log.warning("the service is away, training waits: %s", error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, PAUSE_MAX_S)
            else:
                if self._away_since_s is not None:
                    _log.warning("the service is back after %.0f s", self.away_s)
                    self._away_since_s = None
                return answer

    async def _open(
        self, entries: Sequence[ProblemEntry], url: str | None, api_key: str | None, out: Path
    ) -> AsyncClient:
        # Waiting is `patiently`'s: it says so, and knows what else is waiting.
        client = AsyncClient(url, api_key, timeout_s=self._recipe.service.timeout_s, patience_s=0)
        self._targets = Targets(client, entries, out)
        self._places = asyncio.Semaphore(REQUESTS)
        return client

    async def _judge(self, problem: str, completion: str, step: int) -> Judged:
        target, specs, level = await self.specs(problem, step)
        handle: asyncio.Future[Judged] = self._loop.create_future()
        item = _Item(problem, target, completion, level, handle)
        self._put(item, self._languages[problem], specs)
        return await handle

    def _put(self, item: _Item, language: Language | None, specs: Specs) -> None:
        extra = [(name, each.model_dump_json()) for name, each in sorted(specs.extra.items())]
        key = repr((language, specs.reward.model_dump_json(), extra))
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(language, specs)
            bucket.timer = self._loop.call_later(self._recipe.service.linger_s, self._send, key)
        bucket.items.append(item)
        if len(bucket.items) >= self._recipe.service.batch:
            self._send(key)

    def _send(self, key: str) -> None:
        bucket = self._buckets.pop(key)
        if bucket.timer is not None:
            bucket.timer.cancel()
        task = self._loop.create_task(self._settle(bucket))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _settle(self, bucket: _Bucket) -> None:
        """Gets every completion of a request its verdict, or its error."""
        left = bucket.items
        try:
            for attempt in range(1, self._recipe.service.judge_attempts + 1):
                asked = left
                async with self._places:
                    response = await self.patiently(partial(self._ask, bucket, asked))
                left = []
                for place, item in enumerate(asked):
                    judged = _judged(response, place, item.level)
                    again = judged.reward is None and attempt < self._recipe.service.judge_attempts
                    if again:
                        left.append(item)
                    elif not item.handle.done():
                        item.handle.set_result(judged)
                if not left:
                    return
        except (CupelError, TrainingError) as error:
            for item in left:
                if not item.handle.done():
                    item.handle.set_exception(error)

    async def _ask(self, bucket: _Bucket, items: Sequence[_Item]) -> RewardsResponse:
        try:
            return await self._request(bucket, items)
        except NotFound:  # it came back without its store
            for item in items:
                self._targets.forget(item.problem)
            for item in items:
                item.target = await self._targets.find(item.problem)
            return await self._request(bucket, items)

    async def _request(self, bucket: _Bucket, items: Sequence[_Item]) -> RewardsResponse:
        return await self.client.rewards(
            [item.target.name for item in items],
            [item.completion for item in items],
            bucket.specs.reward,
            language=bucket.language,
            extra_rewards=bucket.specs.extra,
            batch_size=self._recipe.service.batch,
        )

    async def _close(self) -> None:
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._targets.remove()
        await self.client.aclose()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _judged(response: RewardsResponse, place: int, level: int) -> Judged:
    return Judged(
        reward=response.rewards[place],
        judgement=response.judgements[place],
        level=level,
        extra={name: values[place] for name, values in response.extra_rewards.items()},
    )
