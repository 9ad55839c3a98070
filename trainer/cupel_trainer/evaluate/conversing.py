"""The settings `tools` and `agentic`: a sample is a whole episode, its turns by an engine.

Many episodes are under way at one time. While the engine computes the turns of some, the programs
of the others run at the service. Episodes go in groups of as many as the engine computes together,
and a group's next turns are asked for when all its programs have ended: what is computed together
then depends on the episodes only, not on how fast the service was.
"""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any, Protocol

from cupel_trainer.episodes.episode import Answer, End, Episode, Masked, Observation
from cupel_trainer.episodes.loop_thread import LoopThread
from cupel_trainer.errors import EpisodeError
from cupel_trainer.evaluate.engine import CONTEXT, Completion, Engine, Request
from cupel_trainer.evaluate.records import Sample, Sampling
from cupel_trainer.evaluate.sampling import SEEDS, Task

EPISODES = 64
"""Episodes under way at one time, unless the caller says otherwise."""

_log = logging.getLogger(__name__)


class World(Protocol):
    """Where episodes are played; see `stage.Stage`."""

    # Any: what a coroutine is sent and yields is asyncio's own affair.
    def begin(self, problem: str) -> Coroutine[Any, Any, Episode]:
        """A new episode of a problem."""

    def play(
        self, episode: Episode, text: str, *, tokens: int, cut: bool
    ) -> Coroutine[Any, Any, Observation | Answer | Masked]:
        """Takes the policy's turn; see `Environment.play`."""

    def close(self, episode: Episode) -> Coroutine[Any, Any, None]:
        """Gives up an episode."""


@dataclass(slots=True, eq=False)
class _Player:
    """A task and how far its episode is."""

    task: Task
    episode: Episode | None = None
    prompt_tokens: int = 0
    told: bool = False

    @property
    def over(self) -> bool:
        return self.episode is not None and self.episode.result is not None


class Conversing:
    """Answers a problem by an episode.

    Args:
        engine: What writes the turns.
        loop: Where the world runs.
        world: What episodes act on.
        sampling: How turns are drawn.
        episodes: Most episodes under way at one time; one group at least.
    """

    def __init__(
        self,
        engine: Engine,
        loop: LoopThread,
        world: World,
        sampling: Sampling,
        *,
        episodes: int = EPISODES,
    ) -> None:
        self._engine = engine
        self._loop = loop
        self._world = world
        self._sampling = sampling
        self._episodes = episodes

    @property
    def together(self) -> int:
        """As the engine says."""
        return self._engine.together

    def answer(self, tasks: Sequence[Task]) -> Iterator[Sequence[Sample]]:
        """Plays an episode for each task; one that our own fault ended yields no sample."""
        size = self._engine.together
        waiting = deque(
            [_Player(task) for task in tasks[start : start + size]]
            for start in range(0, len(tasks), size)
        )
        acting: dict[Future[None], list[_Player]] = {}  # steps under way, and whose group each is
        ready: deque[list[_Player]] = deque()
        under_way = 0
        try:
            while waiting or acting or ready:
                while waiting and (not under_way or under_way + size <= self._episodes):
                    group = waiting.popleft()
                    under_way += len(group)
                    for player in group:
                        acting[self._loop.start(self._begin(player))] = group
                for group in self._settled(acting, block=not ready):
                    if samples := _take_samples(group):
                        yield samples
                    if all(player.over for player in group):
                        under_way -= len(group)
                    else:
                        ready.append(group)
                if ready:
                    self._take_turns(ready, acting)
        finally:
            for future in acting:
                future.cancel()

    def _take_turns(
        self, ready: deque[list[_Player]], acting: dict[Future[None], list[_Player]]
    ) -> None:
        """Draws turns and starts what comes of each as soon as it is there."""
        groups = [ready.popleft()] if self._engine.together > 1 else list(ready)
        if self._engine.together == 1:
            ready.clear()
        players = [(player, group) for group in groups for player in group if not player.over]
        requests = [_request(player) for player, _ in players]
        for completions in self._engine.draw(requests, self._sampling):
            for each in completions:
                player, group = players[each.index]
                acting[self._loop.start(self._act(player, each))] = group

    def _settled(
        self, acting: dict[Future[None], list[_Player]], *, block: bool
    ) -> list[list[_Player]]:
        """The groups of which every step has ended; waits for one if it must."""
        settled: list[list[_Player]] = []
        while acting and not settled:
            done, _ = wait(acting, timeout=None if block else 0, return_when=FIRST_COMPLETED)
            for future in done:
                group = acting.pop(future)
                future.result()
                if not any(other is group for other in acting.values()):
                    settled.append(group)
            if not block:
                break
        return settled

    async def _begin(self, player: _Player) -> None:
        player.episode = await self._world.begin(player.task.problem)

    async def _act(self, player: _Player, completion: Completion) -> None:
        episode = _episode(player)
        if not episode.turns:
            player.prompt_tokens = completion.prompt_tokens
        if completion.finish_reason == CONTEXT:
            episode.end(End.CONTEXT)
            await self._world.close(episode)
            return
        result = await self._world.play(
            episode,
            completion.text,
            tokens=completion.completion_tokens,
            cut=completion.finish_reason == "length",
        )
        if isinstance(result, Masked):
            _log.warning(
                "sample %d of problem %r is left out, run again to draw it: %s",
                player.task.sample,
                player.task.problem,
                result.reason,
            )
            if result.away:
                raise EpisodeError(
                    f"{result.reason}; what was drawn is kept, run the same command again to go on"
                )


def turn_seed(seed: int, turn: int) -> int:
    """The seed of a turn of an episode.

    Args:
        seed: The sample's, and that of its first turn.
        turn: From 0.
    """
    if turn == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed} {turn}".encode()).digest()[:8]) % SEEDS


def _episode(player: _Player) -> Episode:
    if player.episode is None:
        raise AssertionError("an episode takes its turns after it has begun")
    return player.episode


def _request(player: _Player) -> Request:
    episode = _episode(player)
    return Request(episode.messages, turn_seed(player.task.seed, episode.turns))


def _take_samples(group: list[_Player]) -> list[Sample]:
    """The samples of the episodes that have ended since the last time."""
    samples = []
    for player in group:
        episode = _episode(player)
        if player.told or episode.result is None:
            continue
        player.told = True
        if isinstance(episode.result, Answer):
            samples.append(
                Sample(
                    problem=player.task.problem,
                    sample=player.task.sample,
                    completion=episode.result.completion,
                    seed=player.task.seed,
                    prompt_tokens=player.prompt_tokens,
                    completion_tokens=episode.tokens,
                    finish_reason=episode.result.end.value,
                    turns=max(1, episode.turns),
                )
            )
    return samples
