"""The settings `tools` and `agentic`: a sample is a whole episode, its turns by an engine.

Many episodes are under way at one time. While the engine computes the turns of some, the programs
of the others run at the service. An engine that computes each request on its own takes turns as
they are wanted. For one that computes batches, episodes go in groups of this size, and a group's
next turns are asked for when all its programs have ended: what is computed together then depends on
the episodes only, not on how fast the service was.
"""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Any, Protocol

from cupel.errors import CupelError
from cupel_trainer.episodes.episode import Answer, End, Episode, Masked, Observation
from cupel_trainer.episodes.loop_thread import LoopThread
from cupel_trainer.errors import EpisodeError, TrainerError
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


@dataclass(slots=True)
class _Round:
    """The groups of players of one call.

    Args:
        waiting: Not begun.
        acting: Steps under way at the service, and whose group each is.
        ready: Those whose next turns may be drawn.
        samples: Of episodes that have ended, not taken yet.
        under_way: Episodes that have begun and whose group has not ended.
    """

    waiting: deque[list[_Player]]
    acting: dict[Future[None], list[_Player]] = field(default_factory=dict)
    ready: deque[list[_Player]] = field(default_factory=deque)
    samples: list[Sample] = field(default_factory=list)
    under_way: int = 0

    @property
    def over(self) -> bool:
        """Whether nothing waits, acts or is ready."""
        return not (self.waiting or self.acting or self.ready)

    def settle(self, future: Future[None]) -> bool:
        """Takes note of a step that ended; whether it was the last one of its group."""
        group = self.acting.pop(future)
        self.samples += _new_samples(group)
        future.result()
        if any(other is group for other in self.acting.values()):
            return False
        if all(player.over for player in group):
            self.under_way -= len(group)
        else:
            self.ready.append(group)
        return True

    def give_up(self) -> list[Sample]:
        """The samples of all that have ended, also of those whose box is not yet closed."""
        for group in self.acting.values():
            self.samples += _new_samples(group)
        return self.take_samples()

    def take_samples(self) -> list[Sample]:
        """The samples since the last time."""
        taken, self.samples = self.samples, []
        return taken


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
        round_ = _Round(
            deque(
                [_Player(task) for task in tasks[start : start + size]]
                for start in range(0, len(tasks), size)
            )
        )
        try:
            yield from self._flow(round_) if size == 1 else self._take_turns(round_)
        except (TrainerError, CupelError):
            if samples := round_.give_up():
                yield samples  # what others have finished is kept
            raise
        finally:
            for future in round_.acting:
                future.cancel()

    def _take_turns(self, round_: _Round) -> Iterator[Sequence[Sample]]:
        """Group after group: each call of the engine computes one, as it was given."""
        while not round_.over:
            self._go_on(round_, block=not round_.ready)
            if samples := round_.take_samples():
                yield samples
            if round_.ready:
                group = round_.ready.popleft()
                players = [player for player in group if not player.over]
                requests = [_request(player) for player in players]
                for completions in self._engine.draw(requests, self._sampling):
                    for each in completions:
                        player = players[each.index]
                        round_.acting[self._loop.start(self._act(player, each))] = group

    def _flow(self, round_: _Round) -> Iterator[Sequence[Sample]]:
        """One call of the engine, which takes turns as they are wanted."""
        players: list[_Player] = []  # by the index of their requests
        drawing = 0

        def feed() -> Iterator[Request | None]:
            nonlocal drawing
            while drawing or not round_.over:
                self._go_on(round_, block=False)
                if not round_.ready:
                    yield None
                    continue
                players.extend(round_.ready.popleft())  # a group of one
                drawing += 1
                yield _request(players[-1])

        for completions in self._engine.draw(feed(), self._sampling):
            for each in completions:
                drawing -= 1
                player = players[each.index]
                round_.acting[self._loop.start(self._act(player, each))] = [player]
            if not drawing:
                self._go_on(round_, block=not round_.ready)
            if samples := round_.take_samples():
                yield samples
        if samples := round_.take_samples():
            yield samples

    def _go_on(self, round_: _Round, *, block: bool) -> None:
        """Begins episodes, as many as may be under way, and takes note of steps that ended.

        Args:
            round_: Where that is kept.
            block: Wait until some group's steps have ended, if any step is under way.
        """
        size = self._engine.together
        while round_.waiting and (
            not round_.under_way or round_.under_way + size <= self._episodes
        ):
            group = round_.waiting.popleft()
            round_.under_way += len(group)
            for player in group:
                round_.acting[self._loop.start(self._begin(player))] = group
        while round_.acting:
            done, _ = wait(round_.acting, timeout=None if block else 0, return_when=FIRST_COMPLETED)
            settled = [round_.settle(future) for future in done]
            if any(settled) or not block:
                return

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


def _new_samples(group: list[_Player]) -> list[Sample]:
    """The samples of the episodes that have ended since the last time."""
    samples = []
    for player in group:
        if player.told or not player.over:
            continue
        player.told = True
        episode = _episode(player)
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
