"""Judging submissions, and the rewards that follow."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from fastapi import APIRouter, Request
from starlette.responses import Response

from cupel.schema import (
    JudgementsRequest,
    JudgementsResponse,
    RewardSpec,
    RewardsRequest,
    RewardsResponse,
    Stop,
    Submission,
)
from cupel_service.answers import NDJSON, JudgementLines, judgements_in_order
from cupel_service.app_state import runtime_of
from cupel_service.openapi import (
    answer,
    body,
    example_completion,
    example_problem,
    faults,
    idempotency_key,
)
from cupel_service.queue.contract import Admission, Assignment, Batch
from cupel_service.requests import (
    InvalidRequest,
    RequestKey,
    read_document,
    read_key,
    read_submissions,
)
from cupel_service.rewards import check_weights, needs_every_test, reward
from cupel_service.runtime import Runtime

router = APIRouter(tags=["judging"])

_JUDGING_FAULTS = faults(401, 403, 404, 413, 422, 429, 500, 503)


@router.post(
    "/v1/judgements",
    summary="Judge one or many submissions",
    openapi_extra=idempotency_key()
    | body(
        Submission,
        JudgementsRequest,
        examples={
            "one": {"problem": "two-sum", "language": "python", "source": "print(1 + 2)\n"},
            "many": {
                "submissions": [
                    {"id": "a", "problem": "two-sum", "completion": example_completion()},
                    {
                        "id": "b",
                        "problem": example_problem(),
                        "language": "c",
                        "source": "int main(void) { return 0; }\n",
                        "stop": "never",
                    },
                ]
            },
        },
    ),
    responses=answer(200, JudgementsResponse, lines="One Judgement per line.") | _JUDGING_FAULTS,
)
async def judge_submissions(request: Request) -> Response:
    """Judges one submission, or `submissions` of them, and answers when all are judged.

    With `Accept: application/x-ndjson` the answer is one judgement per line, in the order in which
    they are finished. A full queue answers 429 and takes none of the request's submissions.

    With an `Idempotency-Key` the submissions are durable: a client that was cut off, or whose
    service was killed, sends the same request again and gets every judgement, none made twice.
    """
    runtime = runtime_of(request)
    key = await read_key(request)
    document = await read_submissions(request)

    async def assigned() -> list[Assignment]:
        submissions = document.submissions if key is None else key.named(document.submissions)
        return await runtime.assign(submissions)

    batch = await _batch(runtime, key, assigned, urgent=document.urgent)
    if NDJSON in request.headers.get("accept", ""):
        return JudgementLines(batch)
    judgements = await judgements_in_order(batch, request.receive)
    answered = JudgementsResponse(judgements=judgements)
    return Response(answered.model_dump_json(), media_type="application/json")


@router.post(
    "/v1/rewards",
    summary="Rewards of completions, as a trainer needs them",
    openapi_extra=idempotency_key()
    | body(
        RewardsRequest,
        examples={
            "low and high coverage": {
                "problems": ["two-sum"],
                "completions": [example_completion()],
                "reward": {"coverage": 1},
                "extra_rewards": {"high": {"kind": "test_fraction"}},
            }
        },
    ),
    responses=answer(200, RewardsResponse) | _JUDGING_FAULTS,
)
async def reward_completions(request: Request) -> Response:
    """Judges each completion by its problem and answers its rewards, null where judging failed.

    All rewards come from one judgement per completion, which goes as far as they need. With an
    `Idempotency-Key` the completions are durable, as submissions are in `/v1/judgements`.
    """
    runtime = runtime_of(request)
    key = await read_key(request)
    document = await read_document(request, RewardsRequest)
    specs = {"reward": document.reward} | {
        f"extra_rewards.{name}": spec for name, spec in document.extra_rewards.items()
    }

    async def assigned() -> list[Assignment]:
        submissions = _submissions(document, list(specs.values()))
        assignments = await runtime.assign(submissions if key is None else key.named(submissions))
        for name, spec in specs.items():
            _check_weights(name, spec, assignments)
        return assignments

    batch = await _batch(runtime, key, assigned, urgent=document.urgent)
    judgements = await judgements_in_order(batch, request.receive)
    answered = RewardsResponse(
        rewards=tuple(reward(judgement, document.reward) for judgement in judgements),
        extra_rewards={
            name: tuple(reward(judgement, spec) for judgement in judgements)
            for name, spec in document.extra_rewards.items()
        },
        judgements=judgements,
    )
    return Response(answered.model_dump_json(), media_type="application/json")


async def _batch(
    runtime: Runtime,
    key: RequestKey | None,
    assigned: Callable[[], Awaitable[list[Assignment]]],
    *,
    urgent: bool,
) -> Batch:
    """What the key stands for already, else the request's submissions, admitted now."""
    if key is None:
        return await runtime.dispatcher.submit(Admission(await assigned(), urgent=urgent))
    known = await runtime.dispatcher.attach(key.key, key.digest)
    if known is not None:
        return known
    admission = Admission(await assigned(), key.key, key.digest, urgent)
    return await runtime.dispatcher.submit(admission)


def _submissions(document: RewardsRequest, specs: Sequence[RewardSpec]) -> list[Submission]:
    """The submissions whose judgements yield every reward asked for, and no more than that."""
    stop = Stop.NEVER if any(needs_every_test(spec) for spec in specs) else Stop.FIRST_FAILURE
    coverages = [spec.coverage for spec in specs if spec.coverage is not None]
    coverage = max(coverages) if len(coverages) == len(specs) else None
    return [
        Submission(
            problem=problem,
            completion=completion,
            language=document.language,
            stop=stop,
            coverage=coverage,
        )
        for problem, completion in zip(document.problems, document.completions, strict=True)
    ]


def _check_weights(name: str, spec: RewardSpec, assignments: Sequence[Assignment]) -> None:
    for index, assignment in enumerate(assignments):
        if wrong := check_weights(spec, assignment.suite.tiers):
            raise InvalidRequest(f"{name} {wrong} (the problem at index {index})")
