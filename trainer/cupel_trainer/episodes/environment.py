"""Carries out what policies ask for, through the SDK: runs, shells, files, submissions.

Guilt is kept apart. What a policy can cause is an observation, or an answer: a program that fails,
a path that is none, a session that its own programs killed or used up. What it cannot cause masks
the episode: the service is away or lost the box. What the configuration causes (no such problem, a
limit that the service does not have) is raised, since every further episode would meet it too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from cupel.errors import (
    CupelError,
    InvalidRequest,
    NotFound,
    Refused,
    RequestTooLarge,
    ServiceFault,
    SessionEnded,
    Unauthorized,
)
from cupel.schema import SOURCE_BYTES_MAX, Language
from cupel.session_schema import ExecutionLimits, SessionLimits, SessionState
from cupel_trainer.episodes.actions import Action, Malformed, RunCode, Shell, Submit, WriteFile
from cupel_trainer.episodes.budget import Budget
from cupel_trainer.episodes.episode import Answer, End, Episode, Masked, Observation
from cupel_trainer.episodes.observations import describe_command, describe_submission

if TYPE_CHECKING:
    from cupel import AsyncClient, AsyncSession
    from cupel.schema import RewardSpec

IDLE_S = 3600.0
"""How long a session waits for the policy's next turn."""
LIFE_S = 24 * 3600.0

_NEAR = 0.9  # of these: the client's clock and the service's do not start at one time
_JUDGING_ERRORS = 3  # submissions that may fail by the judge's fault, on top of the budget
_OUTPUT_BYTES_MAX = 4 * 1024 * 1024

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Held:
    """An episode's session, and when it was opened and last used."""

    session: AsyncSession
    opened_s: float
    used_s: float


class Environment:
    """What episodes act on. One serves many episodes at one time.

    Args:
        client: Of the service; it stays the caller's.
        reward: What a submission is rewarded by; for training.
        extra_rewards: Further rewards from the same judgement, by name.
    """

    def __init__(
        self,
        client: AsyncClient,
        *,
        reward: RewardSpec | None = None,
        extra_rewards: Mapping[str, RewardSpec] | None = None,
    ) -> None:
        self._client = client
        self._reward = reward
        self._extra_rewards = extra_rewards
        self._sessions: dict[Episode, _Held] = {}

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
        """Closes the sessions of all episodes."""
        await asyncio.gather(*(self.close(episode) for episode in list(self._sessions)))

    async def play(
        self, episode: Episode, text: str, *, tokens: int = 0, cut: bool = False
    ) -> Observation | Answer | Masked:
        """Takes the policy's turn and carries out what it asks for.

        Args:
            episode: The episode; its messages hold the turn and the observation afterwards.
            text: What the policy wrote, without special tokens.
            tokens: How many tokens that were.
            cut: Whether the length limit ended it.

        Returns:
            What the policy is told next, or how the episode ended; its session is closed then.

        Raises:
            CupelError: The service does not take such episodes at all.
        """
        action = episode.act(text, tokens=tokens, cut=cut)
        result = (
            action
            if isinstance(action, Answer)
            else await self._carried_out_or_ended(episode, action)
        )
        if not isinstance(result, Observation):
            await self.close(episode)
        return result

    async def close(self, episode: Episode) -> None:
        """Closes the session of an episode, if it has one."""
        held = self._sessions.pop(episode, None)
        if held is None or (isinstance(episode.result, Masked) and episode.result.away):
            return
        try:
            await held.session.close()
        except CupelError as error:  # it will end by itself, when it was idle for long enough
            _log.warning("a session could not be closed: %s", error)

    async def _carried_out_or_ended(
        self, episode: Episode, action: Action
    ) -> Observation | Answer | Masked:
        try:
            return await self._carry_out(episode, action)
        except SessionEnded as error:
            if error.by_host or self._was_forgotten(episode):
                return episode.mask(str(error))
            return episode.end(End.SESSION)
        except (InvalidRequest, Unauthorized):
            raise
        except (NotFound, ServiceFault) as error:
            if isinstance(error, NotFound) and episode not in self._sessions:
                raise  # there is no such problem
            return episode.mask(str(error))
        except CupelError as error:
            return episode.mask(str(error), away=True)

    async def _carry_out(self, episode: Episode, action: Action) -> Observation | Answer:
        match action:
            case RunCode(code=code):
                return await self._run(episode, _clean(code))
            case Shell() | WriteFile() | Submit():
                held = await self._session(episode)
                try:
                    return await self._in_session(episode, held.session, action)
                except (InvalidRequest, NotFound, RequestTooLarge) as error:
                    return await self._refused(episode, held.session, error)
                finally:
                    held.used_s = time.monotonic()
            case Malformed(how=how):
                return episode.observe(how)
        raise AssertionError(f"{action} ends an episode")

    async def _in_session(
        self, episode: Episode, session: AsyncSession, action: Shell | WriteFile | Submit
    ) -> Observation | Answer:
        budget = episode.budget
        match action:
            case Shell(command=command):
                result = await session.run(
                    _clean(command), timeout_s=budget.call_s, output_bytes=_output_bytes(budget)
                )
                return episode.observe(describe_command(result), wall_s=result.wall_s)
            case WriteFile(path=path, content=content):
                data = _clean(content).encode()
                await session.write(_clean(path), data)
                return episode.observe(f"{len(data)} bytes written to {_clean(path)}")
            case Submit(path=path):
                answer = await session.submit(_clean(path), episode.language)
                return episode.submitted(answer, describe_submission(answer.feedback))

    async def _run(self, episode: Episode, code: str) -> Observation | Answer:
        budget = episode.budget
        if len(code.encode()) > SOURCE_BYTES_MAX:
            return episode.observe("refused : the run block is more than 1048576 bytes")
        if budget.stateful:
            held = await self._session(episode)
            result = await held.session.python(
                code, timeout_s=budget.call_s, output_bytes=_output_bytes(budget)
            )
            held.used_s = time.monotonic()
        else:
            limits = ExecutionLimits(
                cpu_s=budget.call_s,
                wall_s=budget.call_s,
                memory_bytes=budget.memory_bytes,
                output_bytes=_output_bytes(budget),
            )
            result = await self._client.execute(code, language=Language.PYTHON, limits=limits)
        return episode.observe(describe_command(result), wall_s=result.wall_s)

    async def _session(self, episode: Episode) -> _Held:
        held = self._sessions.get(episode)
        if held is None:
            budget = episode.budget
            judged = episode.problem is not None
            session = self._client.session(
                episode.problem,
                language=episode.language,
                reward=self._reward if judged else None,
                extra_rewards=self._extra_rewards if judged else None,
                limits=SessionLimits(
                    cpu_s=2 * budget.wall_s,
                    memory_bytes=budget.memory_bytes,
                    idle_s=IDLE_S,
                    life_s=LIFE_S,
                    submissions=min(1000, budget.submissions + _JUDGING_ERRORS),
                ),
            )
            await session.open()
            now_s = time.monotonic()
            held = self._sessions[episode] = _Held(session, now_s, now_s)
        return held

    async def _refused(
        self, episode: Episode, session: AsyncSession, error: Refused
    ) -> Observation | Answer:
        """The policy asked for something that there is not; unless it is the session itself."""
        info = await session.info()
        if info.state is SessionState.ENDED:
            raise SessionEnded(info.reason, by_host=info.by_host) from error
        return episode.observe(f"refused : {error.detail}")

    def _was_forgotten(self, episode: Episode) -> bool:
        """Whether the session ended of waiting for us, not by what ran in it."""
        held = self._sessions.get(episode)
        if held is None:
            return False
        now_s = time.monotonic()
        return now_s - held.used_s > _NEAR * IDLE_S or now_s - held.opened_s > _NEAR * LIFE_S


def _clean(text: str) -> str:
    """Without the halves of surrogate pairs, which UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode()


def _output_bytes(budget: Budget) -> int:
    return min(_OUTPUT_BYTES_MAX, 4 * budget.output_characters)
