"""How many submissions become few requests, and how their answers find back to them.

Nothing here does I/O. A batch is bounded in number and in bytes, so that neither a request per
submission nor one giant request is ever made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from pydantic import ValidationError

from cupel._requests import (
    JUDGEMENTS_PATH,
    NDJSON,
    REWARDS_PATH,
    Call,
    as_invalid_request,
    new_key,
    reads,
    submissions_body,
    to_json,
    to_submission,
)
from cupel.errors import InvalidRequest, UnexpectedAnswer
from cupel.schema import (
    Judgement,
    Language,
    Problem,
    RewardSpec,
    RewardsRequest,
    RewardsResponse,
    Submission,
)

BATCH_SIZE = 64
CONCURRENCY = 4
BATCH_BYTES = 8 * 1024 * 1024
"""A batch is closed before the submission that would make it larger, in bytes."""

_Item = TypeVar("_Item")


class Judged(NamedTuple):
    """A judgement and the position of its submission in the input, from 0."""

    position: int
    judgement: Judgement


@dataclass(frozen=True, slots=True)
class Numbered:
    """A submission as JSON, with its id and its position in the input."""

    position: int
    id: str
    body: bytes


class Batch:
    """Submissions of one request, and which of them still lack an answer.

    Args:
        submissions: As JSON, with their ids.
        urgent: Whether they go before what waits already.
    """

    def __init__(self, submissions: Sequence[Numbered], *, urgent: bool) -> None:
        self._positions = {submission.id: submission.position for submission in submissions}
        self._lacking = set(self._positions)
        self._parse = reads(Judgement)
        body = submissions_body((each.body for each in submissions), urgent=urgent)
        self.call = Call("POST", JUDGEMENTS_PATH, self._parse, body, NDJSON, key=new_key())
        """Asks for all judgements as NDJSON, the same whenever it is sent; parses one line."""

    @property
    def pending(self) -> int:
        """How many submissions lack an answer."""
        return len(self._lacking)

    def take(self, line: bytes) -> Judged | None:
        """Notes one line of the answer.

        Returns:
            The judgement, or None if it had come before: a repeated request is answered in full.

        Raises:
            UnexpectedAnswer: The line is no judgement, or not one of this batch.
        """
        judgement = self._parse(line)
        position = self._positions.get(judgement.id)
        if position is None:
            raise UnexpectedAnswer(f"a judgement of {judgement.id!r}, which was not asked for")
        if judgement.id not in self._lacking:
            return None
        self._lacking.remove(judgement.id)
        return Judged(position, judgement)


class Lines:
    """Cuts a stream of bytes into its lines, at line feeds only.

    Text iterators also cut at U+2028 and other characters that JSON strings may hold.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that this chunk completes, without blank ones."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [line for line in lines if line.strip()]


def batches_of(
    submissions: Iterable[Submission], batch_size: int, *, urgent: bool = False
) -> Iterator[Batch]:
    """Cuts submissions into batches, as they are asked for.

    Raises:
        InvalidRequest: Two submissions have one id, or the batch size is not positive.
    """
    if batch_size < 1:
        raise InvalidRequest("batch_size must be at least 1")
    for numbered in _cut(_number(submissions), lambda item: len(item.body), batch_size):
        yield Batch(numbered, urgent=urgent)


def _number(submissions: Iterable[Submission]) -> Iterator[Numbered]:
    seen: set[str] = set()
    for position, submission in enumerate(submissions):
        named = to_submission(submission, {})
        if named.id is None or named.id in seen:
            raise InvalidRequest(f"two submissions have the id {named.id!r}: give each its own")
        seen.add(named.id)
        yield Numbered(position, named.id, to_json(named))


def _cut(
    items: Iterable[_Item], bytes_of: Callable[[_Item], int], batch_size: int
) -> Iterator[list[_Item]]:
    batch: list[_Item] = []
    held_bytes = 0
    for item in items:
        item_bytes = bytes_of(item)
        if batch and (len(batch) == batch_size or held_bytes + item_bytes > BATCH_BYTES):
            yield batch
            batch, held_bytes = [], 0
        batch.append(item)
        held_bytes += item_bytes
    if batch:
        yield batch


@dataclass(frozen=True, slots=True)
class RewardsJob:
    """All that a `rewards` call was given.

    Args:
        problems: One for each completion, or a single one for all of them.
        completions: What the model wrote.
        reward: The reward wanted.
        language: Of all completions, or None to go by their fences.
        extra_rewards: Further rewards by name, from the same judgements.
        batch_size: Most completions in one request.
        concurrency: Most requests at one time.
        urgent: They go before what waits already.
    """

    problems: str | Problem | Sequence[str | Problem]
    completions: Sequence[str]
    reward: RewardSpec | None
    language: Language | str | None
    extra_rewards: Mapping[str, RewardSpec] | None
    batch_size: int
    concurrency: int
    urgent: bool

    def calls(self) -> list[Call[RewardsResponse]]:
        """The requests, in the order of the completions.

        Raises:
            InvalidRequest: The lengths differ, or a value is not valid.
        """
        if isinstance(self.problems, str | Problem):
            problems = [self.problems] * len(self.completions)
        else:
            problems = list(self.problems)
        if len(problems) != len(self.completions):
            raise InvalidRequest(
                f"{len(problems)} problems but {len(self.completions)} completions: give one each"
            )
        if self.batch_size < 1 or self.concurrency < 1:
            raise InvalidRequest("batch_size and concurrency must be at least 1")
        inline_bytes: dict[int, int] = {}  # by identity: one problem is often sent many times

        def bytes_of(pair: tuple[str | Problem, str]) -> int:
            problem, completion = pair
            if isinstance(problem, str):
                return len(problem) + len(completion)
            if id(problem) not in inline_bytes:
                inline_bytes[id(problem)] = len(to_json(problem))
            return inline_bytes[id(problem)] + len(completion)

        pairs = zip(problems, self.completions, strict=True)
        return [self._call(batch) for batch in _cut(pairs, bytes_of, self.batch_size)]

    def _call(self, batch: Sequence[tuple[str | Problem, str]]) -> Call[RewardsResponse]:
        fields = {
            "problems": [problem for problem, _ in batch],
            "completions": [completion for _, completion in batch],
            "language": self.language,
            "reward": self.reward or RewardSpec(),
            "extra_rewards": dict(self.extra_rewards or {}),
            "urgent": self.urgent,
        }
        try:
            request = RewardsRequest.model_validate(fields)
        except ValidationError as error:
            raise as_invalid_request("rewards request", error) from error
        read = reads(RewardsResponse)

        def parse(body: bytes) -> RewardsResponse:
            answer = read(body)
            columns = (answer.rewards, answer.judgements, *answer.extra_rewards.values())
            whole = all(len(column) == len(batch) for column in columns)
            if not whole or set(answer.extra_rewards) != set(request.extra_rewards):
                raise UnexpectedAnswer(f"not {len(batch)} rewards and judgements, as were asked")
            return answer

        # An older service does not know the field: it is sent only where it says something.
        body = to_json(request, without=frozenset() if self.urgent else frozenset({"urgent"}))
        return Call("POST", REWARDS_PATH, parse, body, key=new_key())

    def join(self, parts: Sequence[RewardsResponse]) -> RewardsResponse:
        """One answer from those of the calls, in the same order."""
        return RewardsResponse(
            rewards=tuple(reward for part in parts for reward in part.rewards),
            extra_rewards={
                name: tuple(reward for part in parts for reward in part.extra_rewards[name])
                for name in self.extra_rewards or {}
            },
            judgements=tuple(judgement for part in parts for judgement in part.judgements),
        )
