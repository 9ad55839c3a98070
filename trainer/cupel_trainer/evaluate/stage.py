"""Where the episodes of an evaluation are played: a service, and the problems it judges by.

A problem that the set holds itself is registered at the service while episodes need it, as it is
when samples are judged; see `registration`.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from cupel import AsyncClient, Problem
from cupel_trainer.episodes.budget import Budget
from cupel_trainer.episodes.environment import Environment
from cupel_trainer.episodes.episode import Answer, Episode, Masked, Observation
from cupel_trainer.evaluate.problem_set import ProblemEntry, load_tests
from cupel_trainer.evaluate.records import Sampling, Setting
from cupel_trainer.evaluate.registration import Registrar

_CLEAN_TIMEOUT_S = 10.0


class Stage:
    """Begins and plays episodes; made by `opened_stage`."""

    def __init__(
        self,
        environment: Environment,
        registrar: Registrar,
        registered: AsyncExitStack,
        entries: Sequence[ProblemEntry],
        prompts: Mapping[str, str],
        setting: Setting,
        sampling: Sampling,
    ) -> None:
        self._environment = environment
        self._registrar = registrar
        self._registered = registered
        self._entries = {entry.id: entry for entry in entries}
        self._prompts = prompts
        self._setting = setting
        self._language = sampling.language
        self._budget = sampling.budget or Budget()
        self._problems: dict[str, str | Problem] = {}
        self._registering: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def begin(self, problem: str) -> Episode:
        """A new episode of a problem of the set.

        Raises:
            TrainerError: The problem's tests cannot be read.
            CupelError: The service is away.
        """
        return Episode(
            self._prompts[problem],
            self._setting,
            self._budget,
            problem=await self._judged_by(problem) if self._setting is Setting.AGENTIC else None,
            language=self._entries[problem].language or self._language,
        )

    async def play(
        self, episode: Episode, text: str, *, tokens: int, cut: bool
    ) -> Observation | Answer | Masked:
        """Takes the policy's turn; see `Environment.play`."""
        return await self._environment.play(episode, text, tokens=tokens, cut=cut)

    async def close(self, episode: Episode) -> None:
        """Gives up an episode."""
        await self._environment.close(episode)

    async def _judged_by(self, problem: str) -> str | Problem:
        async with self._registering[problem]:
            if problem not in self._problems:
                entry = self._entries[problem]
                tests = await asyncio.to_thread(load_tests, entry)
                if isinstance(tests, Problem):
                    self._problems[problem] = await self._registered.enter_async_context(
                        self._registrar.registered(tests, entry.digest)
                    )
                else:
                    self._problems[problem] = tests
            return self._problems[problem]


@asynccontextmanager
async def opened_stage(
    url: str,
    api_key: str | None,
    out: Path,
    entries: Sequence[ProblemEntry],
    prompts: Mapping[str, str],
    setting: Setting,
    sampling: Sampling,
) -> AsyncIterator[Stage]:
    """A stage for the length of a block; sessions and registered problems are gone after it.

    Args:
        url: The service.
        api_key: Its key; None takes CUPEL_API_KEY.
        out: The file of samples, of which the ids of registered problems are made.
        entries: The problems.
        prompts: The prompt of each, by its id.
        setting: `tools` or `agentic`.
        sampling: Language and budget.

    Raises:
        CupelError: The service is away.
    """
    async with (
        AsyncClient(url, api_key) as client,
        AsyncClient(url, api_key, timeout_s=_CLEAN_TIMEOUT_S, patience_s=0) as cleaner,
        AsyncExitStack() as registered,
    ):
        registrar = Registrar(client, cleaner, out)
        await registrar.remove_left(each.id for each in await client.problems.list())
        async with Environment(client) as environment:
            yield Stage(environment, registrar, registered, entries, prompts, setting, sampling)
