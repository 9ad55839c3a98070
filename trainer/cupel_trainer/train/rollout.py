"""Rollouts: episodes of a batch, drawn chunk by chunk, each judged as soon as it has its answer.

One turn is drawn for all unfinished episodes of a chunk at one time. The actions that they ask for
are carried out together, and finished answers go to the verdict desk at once: it judges them while
the next turn, or the next chunk, is drawn.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from cupel_trainer.episodes.environment import Environment
from cupel_trainer.episodes.episode import Answer, End, Episode, Masked
from cupel_trainer.episodes.tokens import TokenTrack, TurnTemplate
from cupel_trainer.errors import TrainingError
from cupel_trainer.evaluate.records import Setting
from cupel_trainer.train.judged import Judged, masked
from cupel_trainer.train.recipe import Recipe

if TYPE_CHECKING:
    from cupel.schema import Language
    from cupel_trainer.train.desk import Desk

Ids = Sequence[int]
Handle = concurrent.futures.Future[Judged]


@dataclass(frozen=True, slots=True)
class Turn:
    """What the policy said.

    Args:
        ids: As sampled, with the end token if that was sampled.
        logprobs: One for each; None where the engine gives none.
        ended: Whether it ended by itself; else the length limit cut it.
    """

    ids: Ids
    logprobs: Sequence[float] | None
    ended: bool


class Sampler(Protocol):
    """What draws turns; behind it are transformers, a vLLM server, or vLLM in this process."""

    def draw(self, contexts: Sequence[Ids]) -> list[Turn]:
        """One turn after each context; every process calls it equally often."""
        ...

    def any_active(self, active: bool) -> bool:
        """Whether any process still has episodes under way; every process asks together."""
        ...

    def alone(self, number: int) -> Sampler | None:
        """What draws the turns of one episode by itself, in a thread, while others do the same.

        Args:
            number: Of the episode within the step and process.

        Returns:
            Itself asks no other process. None where turns can only be drawn together.
        """
        ...


@dataclass(frozen=True, slots=True)
class Slot:
    """One completion to be drawn.

    Args:
        problem: The problem's id; what the answer is judged by.
        prompt: What the policy is asked.
    """

    problem: str
    prompt: str


@dataclass(slots=True)
class Rolled:
    """What came of a slot: tokens to train on, and the handle of its verdict."""

    slot: Slot
    track: TokenTrack
    episode: Episode
    completion: str = ""
    handle: Handle = field(default_factory=concurrent.futures.Future)


@dataclass(frozen=True, slots=True)
class Batch:
    """What came of all slots of a process in one step, in their order.

    Args:
        rolled: One per slot.
        tokens: Drawn by the policy.
        wall_s: From the first turn to the last.
    """

    rolled: tuple[Rolled, ...]
    tokens: int
    wall_s: float


class Rollout:
    """Draws the completions of a step.

    Args:
        recipe: How.
        desk: Judges.
        tokenizer: Of the model, from transformers.
        languages: Of the programs of each problem, by its id.
        context_tokens: What the model takes.
    """

    def __init__(
        self,
        recipe: Recipe,
        desk: Desk,
        tokenizer: Any,  # transformers has no types that mypy --strict can use
        languages: Mapping[str, Language | None],
        context_tokens: int,
    ) -> None:
        self._recipe = recipe
        self._desk = desk
        self._tokenizer = tokenizer
        self._template = TurnTemplate(tokenizer, chat=recipe.model.chat)
        self._languages = languages
        self._context_tokens = context_tokens
        self._encoding = threading.Lock()

    def draw(self, slots: Sequence[Slot], sampler: Sampler, step: int) -> Batch:
        """Draws one completion for each slot and has it judged.

        Args:
            slots: Of this process.
            sampler: Draws turns.
            step: Counted from 0; decides the coverage.

        Raises:
            TrainingError: The service is away for too long, or a prompt does not fit the model.
        """
        began_s = time.monotonic()
        stage = _Stage(self._desk, self._recipe.setting.kind, step)
        lone = [sampler.alone(number) for number in range(len(slots))]
        try:
            if all(each is not None for each in lone):
                rolled = self._play_alone(slots, [each for each in lone if each], stage, step)
            else:
                rolled = self._play_chunks(slots, sampler, stage, step)
        finally:
            stage.close()
        tokens = sum(sum(each.track.env_mask) for each in rolled)
        return Batch(tuple(rolled), tokens, time.monotonic() - began_s)

    def _play_chunks(
        self, slots: Sequence[Slot], sampler: Sampler, stage: _Stage, step: int
    ) -> list[Rolled]:
        rolled: list[Rolled] = []
        chunk = self._recipe.chunk
        for start in range(0, len(slots), chunk):
            begun = [self._begin(slot, stage) for slot in slots[start : start + chunk]]
            self._play(begun, sampler, stage, step)
            rolled += begun
        return rolled

    def _play_alone(
        self, slots: Sequence[Slot], samplers: Sequence[Sampler], stage: _Stage, step: int
    ) -> list[Rolled]:
        """Plays every episode by itself: none waits for the longest of a chunk."""
        begun = [self._begin(slot, stage) for slot in slots]
        in_flight = min(max(1, len(begun)), self._recipe.rollouts.in_flight)
        with ThreadPoolExecutor(in_flight, thread_name_prefix="episode") as pool:
            played = [
                pool.submit(self._play, [each], sampler, stage, step)
                for each, sampler in zip(begun, samplers, strict=True)
            ]
            try:
                for done in as_completed(played):
                    done.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return begun

    def _begin(self, slot: Slot, stage: _Stage) -> Rolled:
        episode = Episode(
            slot.prompt,
            self._recipe.setting.kind,
            self._recipe.setting.budget,
            problem=stage.problem_name(slot.problem),
            language=self._languages[slot.problem],
        )
        track = TokenTrack(self._template, episode.messages)
        if not self._fits(track):
            raise TrainingError(
                f"the prompt of problem {slot.problem!r} has {len(track.prompt_ids)} tokens; with "
                f"sampling.max_tokens = {self._recipe.sampling.max_tokens} that is more than the "
                f"{self._context_tokens} that the model takes: leave the problem out, or lower "
                "max_tokens"
            )
        return Rolled(slot, track, episode)

    def _fits(self, track: TokenTrack) -> bool:
        """Whether there is room for another turn of the longest kind."""
        needed = len(track.context_ids) + self._recipe.sampling.max_tokens
        return needed <= self._context_tokens

    def _play(self, begun: Sequence[Rolled], sampler: Sampler, stage: _Stage, step: int) -> None:
        active = list(begun)
        while sampler.any_active(bool(active)):
            # A process that is done draws for nothing: sharded weights need every process.
            contexts = [each.track.context_ids for each in active or begun[:1]]
            turns = sampler.draw(contexts)
            for each, turn in zip(active, turns, strict=False):
                each.track.add_turn(turn.ids, turn.logprobs)
            texts = self._tokenizer.batch_decode(
                [list(turn.ids) for turn in turns[: len(active)]], skip_special_tokens=True
            )
            results = stage.play(active, texts, turns)
            active = [
                each
                for each, text, result in zip(active, texts, results, strict=True)
                if self._goes_on(each, text, result, step)
            ]
        for each in begun:
            stage.end(each)

    def _goes_on(self, rolled: Rolled, text: str, result: object, step: int) -> bool:
        """Whether the episode has a further turn; if not, its verdict is under way."""
        if isinstance(result, Masked):
            rolled.completion = text
            rolled.handle.set_result(masked(result.reason))
            return False
        if not isinstance(result, Answer):
            with self._encoding:  # tokenizers must not encode in two threads at one time
                rolled.track.add_observation(rolled.episode.messages[-1].content)
            if self._fits(rolled.track):
                return True
            result = rolled.episode.end(End.CONTEXT)
        rolled.completion = result.completion
        rolled.handle = self._verdict(rolled.slot.problem, result, step)
        return False

    def _verdict(self, problem: str, answer: Answer, step: int) -> Handle:
        if answer.submission is not None and answer.submission.rewards is not None:
            rewards = dict(answer.submission.rewards)
            reward = rewards.pop("reward", None)
            if reward is not None:  # a judging error of the session is asked about again
                _, _, level = self._desk.call(self._desk.specs(problem, step)).result()
                done: Handle = concurrent.futures.Future()
                done.set_result(Judged(reward, answer.submission.judgement, level, rewards))
                return done
        return self._desk.judge(problem, answer.completion, step)


class _Stage:
    """Where the episodes of a step act; in reasoning nothing has to be carried out."""

    def __init__(self, desk: Desk, setting: Setting, step: int) -> None:
        self._desk = desk
        self._setting = setting
        self._step = step
        self._environments: dict[str, Environment] = {}
        self._of_problem: dict[str, Environment] = {}
        self._making = threading.Lock()

    def problem_name(self, problem: str) -> str | None:
        """What sessions judge by."""
        if self._setting is not Setting.AGENTIC:
            return None
        return self._desk.call(self._desk.specs(problem, self._step)).result()[0].name

    def play(
        self, active: Sequence[Rolled], texts: Sequence[str], turns: Sequence[Turn]
    ) -> list[object]:
        """Takes the turns of several episodes, at one time."""
        if self._setting is Setting.REASONING:
            return [
                each.episode.act(text, tokens=len(turn.ids), cut=not turn.ended)
                for each, text, turn in zip(active, texts, turns, strict=False)
            ]
        started = [
            self._desk.call(
                self._environment(each.slot.problem).play(
                    each.episode, text, tokens=len(turn.ids), cut=not turn.ended
                )
            )
            for each, text, turn in zip(active, texts, turns, strict=False)
        ]
        results = [each.result() for each in started]
        if any(isinstance(each, Masked) and each.away for each in results):
            self._desk.info()  # waits until it is back: the next episodes would be masked, too
        return list(results)

    def end(self, rolled: Rolled) -> None:
        """Closes the session of an episode that we ended."""
        environment = self._of_problem.get(rolled.slot.problem)
        if environment is not None:
            self._desk.call(environment.close(rolled.episode))

    def close(self) -> None:
        """Closes all sessions that are left."""
        for each in self._environments.values():
            self._desk.call(each.aclose()).result()

    def _environment(self, problem: str) -> Environment:
        """Of a problem: episodes share one where their rewards are the same."""
        with self._making:
            return self._made_environment(problem)

    def _made_environment(self, problem: str) -> Environment:
        found = self._of_problem.get(problem)
        if found is None:
            if self._setting is Setting.AGENTIC:
                _, specs, _ = self._desk.call(self._desk.specs(problem, self._step)).result()
                key = repr((specs.reward, sorted(specs.extra.items())))
                reward, extra = specs.reward, specs.extra
            else:
                key, reward, extra = "", None, None
            found = self._environments.get(key)
            if found is None:
                found = Environment(self._desk.client, reward=reward, extra_rewards=extra)
                self._environments[key] = found
            self._of_problem[problem] = found
        return found


def draw_seed(seed: int, step: int, process: int) -> int:
    """The seed of a step's draws in a process: a resumed run draws what the whole one would."""
    text = f"cupel draws {seed} {step} {process}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
