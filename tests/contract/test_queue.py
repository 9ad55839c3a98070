"""What every queue promises, in this process or over Redis. A new kind adds one name to QUEUES."""

from __future__ import annotations

import asyncio
import functools
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from queue_stage import (
    EmbeddedQueue,
    Queue,
    assignments,
    eventually,
    ids,
    inline_assignments,
    judgements,
)
from redis_queue import ClusterQueue

from cupel.schema import Verdict
from cupel_service.errors import QueueFull, Stopping
from cupel_service.queue.contract import (
    Admission,
    Batch,
    Dispatcher,
    KeyReused,
    RequestExceedsQueue,
)
from redis_stage import RedisServer, redis_server, remove_keys

QUEUES = ("embedded_queue", pytest.param("cluster_queue", marks=pytest.mark.redis))
"""Fixtures that give a `queue_stage.Queue`."""


@pytest.fixture
def embedded_queue(tmp_path: Path) -> Queue:
    return EmbeddedQueue(tmp_path)


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def cluster_queue(redis: RedisServer) -> Iterator[Queue]:
    prefix = f"test-{uuid.uuid4().hex}"
    yield ClusterQueue(redis, prefix)
    remove_keys(redis, prefix)


@pytest.fixture(params=QUEUES)
def queue(request: pytest.FixtureRequest) -> Iterator[Queue]:
    found: Queue = request.getfixturevalue(request.param)
    yield found
    found.judge.gate.set()


def scenario(
    function: Callable[[Queue], Awaitable[None]],
) -> Callable[[Queue], None]:
    """Runs a coroutine function as a test."""

    @functools.wraps(function)
    def run(queue: Queue) -> None:
        async def main() -> None:
            await function(queue)

        asyncio.run(main())

    return run


def keyed(*names: str, key: str = "k", digest: str = "d", urgent: bool = False) -> Admission:
    return Admission(assignments(*names), key, digest, urgent)


async def is_forgotten(dispatcher: Dispatcher, key: str = "k", digest: str = "d") -> None:
    """Waits until a key is not known any more."""
    async with asyncio.timeout(60):
        while (batch := await dispatcher.attach(key, digest)) is not None:
            batch.leave()
            # Whoever looks is a client: it must be away for longer than any test's abandoned_s.
            await asyncio.sleep(0.5)


@pytest.mark.parametrize("key", [None, "k"])
def test_every_accepted_submission_gets_exactly_one_judgement_at_its_place(
    queue: Queue, key: str | None
) -> None:
    async def main() -> None:
        async with queue.opened(slots=3) as dispatcher:
            names = [str(number) for number in range(300)]
            batch = await dispatcher.submit(Admission(assignments(*names), key, "d"))
            found = await judgements(batch)
            assert [found[place].id for place in range(300)] == names
            assert queue.judge.judged == dict.fromkeys(names, 1)

    asyncio.run(main())


@scenario
async def test_submissions_of_a_request_start_in_order(queue: Queue) -> None:
    async with queue.opened() as dispatcher:
        names = [f"{number:02}" for number in range(50)]
        await ids(await dispatcher.submit(keyed(*names)))
        assert queue.judge.order == names


@scenario
async def test_urgent_requests_go_before_what_waits(queue: Queue) -> None:
    async with queue.opened() as dispatcher:
        first = await dispatcher.submit(keyed("wait", key="first"))
        await queue.judge.has_started()
        ordinary = await dispatcher.submit(keyed("a", "b", key="ordinary"))
        unkeyed = await dispatcher.submit(Admission(assignments("u1", "u2"), urgent=True))
        urgent = await dispatcher.submit(keyed("u3", "u4", key="urgent", urgent=True))
        queue.judge.gate.set()
        for batch in (first, ordinary, unkeyed, urgent):
            await ids(batch)
        assert set(queue.judge.order[1:5]) == {"u1", "u2", "u3", "u4"}
        assert queue.judge.order[5:] == ["a", "b"]


@pytest.mark.parametrize("key", [None, "k"])
def test_a_full_queue_takes_nothing_and_says_when_to_come_back(
    queue: Queue, key: str | None
) -> None:
    async def main() -> None:
        async with queue.opened(capacity=3) as dispatcher:
            first = await dispatcher.submit(keyed("wait", "b", key="first"))
            with pytest.raises(QueueFull) as caught:
                await dispatcher.submit(Admission(assignments("c", "d"), key, "d"))
            assert 1 <= caught.value.retry_after_s <= 60
            second = await dispatcher.submit(Admission(assignments("e")))
            queue.judge.gate.set()
            assert await ids(first) == ["wait", "b"]
            assert await ids(second) == ["e"]
            assert sorted(queue.judge.order) == ["b", "e", "wait"]
            # What was refused left no trace: it is admitted as new, also under its key.
            admission = Admission(assignments("c", "d"), key, "other")
            assert await ids(await dispatcher.submit(admission)) == ["c", "d"]

    asyncio.run(main())


@scenario
async def test_a_request_larger_than_the_queue_is_told_to_split(queue: Queue) -> None:
    async with queue.opened(capacity=2) as dispatcher:
        with pytest.raises(RequestExceedsQueue, match="split"):
            await dispatcher.submit(keyed("a", "b", "c"))


@scenario
async def test_a_failure_of_the_judge_is_a_judging_error_and_the_rest_is_judged(
    queue: Queue,
) -> None:
    async with queue.opened() as dispatcher:
        found = await judgements(await dispatcher.submit(keyed("fail", "b")))
        assert [found[place].verdict for place in (0, 1)] == [Verdict.JE, Verdict.AC]


@scenario
async def test_a_key_stands_for_one_request_only(queue: Queue) -> None:
    async with queue.opened() as dispatcher:
        batch = await dispatcher.submit(keyed("wait"))
        await queue.judge.has_started()
        await _is_taken(dispatcher)
        queue.judge.gate.set()
        await ids(batch)
        await _is_taken(dispatcher)
        assert queue.judge.order == ["wait"]


async def _is_taken(dispatcher: Dispatcher) -> None:
    with pytest.raises(KeyReused):
        await dispatcher.submit(keyed("wait", digest="other"))
    with pytest.raises(KeyReused):
        await dispatcher.attach("k", "other")


@scenario
async def test_an_unknown_key_is_nobodys(queue: Queue) -> None:
    async with queue.opened() as dispatcher:
        assert await dispatcher.attach("k", "d") is None


@scenario
async def test_who_shows_a_key_again_gets_what_there_is_and_what_is_to_come(queue: Queue) -> None:
    async with queue.opened() as dispatcher:
        batch = await dispatcher.submit(keyed("a", "wait", "c"))
        await queue.judge.has_started(2)
        batch.leave()
        again = await dispatcher.submit(keyed("a", "wait", "c"))
        first = [each.judgement.id for each in await anext(aiter(again))]
        assert first == ["a"]
        queue.judge.gate.set()
        assert await ids(await dispatcher.attach("k", "d")) == ["a", "wait", "c"]
        assert queue.judge.judged == {"a": 1, "wait": 1, "c": 1}


@scenario
async def test_a_key_gives_its_judgements_again_after_all_were_delivered(queue: Queue) -> None:
    async with queue.opened(slots=2) as dispatcher:
        names = [str(number) for number in range(100)]
        first = await judgements(await dispatcher.submit(keyed(*names)))
        assert await judgements(await dispatcher.submit(keyed(*names))) == first
        assert await judgements(await dispatcher.attach("k", "d")) == first
        assert queue.judge.judged == dict.fromkeys(names, 1)


@scenario
async def test_clients_with_one_key_at_the_same_time_share_one_batch(queue: Queue) -> None:
    async with queue.opened(slots=2) as dispatcher:
        names = [str(number) for number in range(100)]

        async def client() -> list[str]:
            return await ids(await dispatcher.submit(keyed(*names)))

        assert await asyncio.gather(*(client() for _ in range(5))) == [names] * 5
        assert queue.judge.judged == dict.fromkeys(names, 1)


@scenario
async def test_the_last_client_of_a_key_gets_all_when_others_left(queue: Queue) -> None:
    async with queue.opened(abandoned_s=0.1) as dispatcher:
        leaving = await dispatcher.submit(keyed("wait", "b"))
        staying = await dispatcher.submit(keyed("wait", "b"))
        await queue.judge.has_started()
        leaving.leave()
        leaving.leave()
        await asyncio.sleep(0.5)
        queue.judge.gate.set()
        assert await ids(staying) == ["wait", "b"]


@scenario
async def test_leaving_without_a_key_drops_what_has_not_started_and_frees_its_room(
    queue: Queue,
) -> None:
    async with queue.opened(capacity=4) as dispatcher:
        batch = await dispatcher.submit(Admission(assignments("wait", "a", "b", "c")))
        await queue.judge.has_started()
        batch.leave()
        batch.leave()

        async def room() -> Batch:
            while True:
                try:
                    return await dispatcher.submit(Admission(assignments("x", "y", "z")))
                except QueueFull:
                    await asyncio.sleep(0.01)

        other = await asyncio.wait_for(room(), 60)
        queue.judge.gate.set()
        assert await ids(other) == ["x", "y", "z"]
        assert queue.judge.order == ["wait", "x", "y", "z"]


@scenario
async def test_leaving_with_a_key_loses_nothing(queue: Queue) -> None:
    async with queue.opened() as dispatcher:
        batch = await dispatcher.submit(keyed("wait", "b", "c"))
        batch.leave()
        queue.judge.gate.set()
        await eventually(lambda: len(queue.judge.judged) == 3)
        assert await ids(await dispatcher.attach("k", "d")) == ["wait", "b", "c"]
        assert set(queue.judge.judged.values()) == {1}


@scenario
async def test_leaving_after_everything_was_delivered_changes_nothing(queue: Queue) -> None:
    async with queue.opened(abandoned_s=0.1) as dispatcher:
        batch = await dispatcher.submit(keyed("a"))
        await ids(batch)
        batch.leave()
        await asyncio.sleep(0.5)
        assert await ids(await dispatcher.attach("k", "d")) == ["a"]


@scenario
async def test_keyed_work_that_nobody_comes_back_for_is_dropped(queue: Queue) -> None:
    async with queue.opened(capacity=4, abandoned_s=0.1) as dispatcher:
        blocking = await dispatcher.submit(keyed("wait", key="blocking"))
        await queue.judge.has_started()
        batch = await dispatcher.submit(keyed("a", "b", "c"))
        batch.leave()
        await is_forgotten(dispatcher)
        other = await dispatcher.submit(keyed("x", "y", "z"))
        queue.judge.gate.set()
        assert await ids(other) == ["x", "y", "z"]
        assert await ids(blocking) == ["wait"]
        assert set(queue.judge.order) == {"wait", "x", "y", "z"}


@scenario
async def test_results_are_forgotten_in_time(queue: Queue) -> None:
    async with queue.opened(results_kept_s=0.1) as dispatcher:
        await ids(await dispatcher.submit(keyed("a")))
        await is_forgotten(dispatcher)
        assert await ids(await dispatcher.submit(keyed("a", digest="other"))) == ["a"]


@scenario
async def test_a_stopping_queue_takes_nothing_and_gives_what_waits_back(queue: Queue) -> None:
    async with queue.opened() as dispatcher:
        running = await dispatcher.submit(Admission(assignments("wait")))
        await queue.judge.has_started()
        waiting = await dispatcher.submit(Admission(assignments("b")))
        stop = asyncio.create_task(dispatcher.stop(60))
        with pytest.raises(Stopping):
            await ids(waiting)
        assert dispatcher.stopping
        with pytest.raises(Stopping):
            await dispatcher.submit(Admission(assignments("c")))
        queue.judge.gate.set()
        assert await ids(running) == ["wait"]
        await stop
        await dispatcher.stop(60)


@scenario
async def test_keyed_work_that_a_stop_left_is_judged_by_the_next(queue: Queue) -> None:
    names = ["a", "wait", "c", "d"]
    async with queue.opened() as first:
        batch = await first.submit(keyed(*names))
        await queue.judge.has_started(2)
        stop = asyncio.create_task(first.stop(60))
        await eventually(lambda: first.stopping)
        queue.judge.gate.set()
        with pytest.raises(Stopping):
            await ids(batch)
        await stop
    async with queue.opened() as second:
        assert await ids(await second.submit(keyed(*names))) == names
        assert queue.judge.judged == dict.fromkeys(names, 1)


@scenario
async def test_a_killed_queue_goes_on_where_it_was(queue: Queue) -> None:
    names = ["a", "b", "wait", "c", "d"]
    async with queue.opened() as first:
        batch = await first.submit(keyed(*names))
        told: set[str] = set()
        async for bunch in batch:
            told.update(each.judgement.id for each in bunch)
            if told == {"a", "b"}:
                break
        await queue.judge.has_started(3)
        await queue.kill(first)
        queue.judge.gate.set()
        async with queue.opened() as second:
            # It goes on by itself, and whoever comes back gets everything.
            await eventually(lambda: len(queue.judge.judged) == 5)
            assert await ids(await second.submit(keyed(*names))) == names
            assert queue.judge.judged == dict.fromkeys(names, 1)


@scenario
async def test_results_outlive_a_kill(queue: Queue) -> None:
    async with queue.opened() as first:
        before = await judgements(await first.submit(keyed("a", "b")))
        await queue.kill(first)
        async with queue.opened() as second:
            assert await judgements(await second.submit(keyed("a", "b"))) == before
            assert queue.judge.judged == {"a": 1, "b": 1}


@scenario
async def test_inline_problems_outlive_a_kill(queue: Queue) -> None:
    admission = Admission(inline_assignments("wait", "b", "c"), "k", "d")
    async with queue.opened() as first:
        await first.submit(admission)
        await queue.judge.has_started()
        await queue.kill(first)
        queue.judge.gate.set()
        async with queue.opened() as second:
            found = await judgements(await second.attach("k", "d"))
            assert {each.verdict for each in found.values()} == {Verdict.AC}
            assert [found[place].id for place in range(3)] == ["wait", "b", "c"]


@scenario
async def test_urgent_work_is_urgent_after_a_kill(queue: Queue) -> None:
    async with queue.opened() as first:
        await first.submit(keyed("wait", key="first"))
        await queue.judge.has_started()
        await first.submit(keyed("a", "b", key="ordinary"))
        await first.submit(keyed("u", key="urgent", urgent=True))
        await queue.kill(first)
        queue.judge.gate.set()
        async with queue.opened() as second:
            await ids(await second.attach("ordinary", "d"))
            await ids(await second.attach("urgent", "d"))
            after = queue.judge.order[1:]
            assert after.index("u") < after.index("b")


@scenario
async def test_nothing_without_a_key_outlives_a_kill(queue: Queue) -> None:
    async with queue.opened() as first:
        await first.submit(Admission(assignments("wait", "a")))
        await queue.judge.has_started()
        await queue.kill(first)
        queue.judge.gate.set()
        async with queue.opened() as second:
            assert await ids(await second.submit(keyed("x"))) == ["x"]
            assert queue.judge.order == ["wait", "x"]


@scenario
async def test_work_of_before_counts_against_the_capacity(queue: Queue) -> None:
    async with queue.opened(capacity=3) as first:
        await first.submit(keyed("wait", "b", "c"))
        await queue.judge.has_started()
        await queue.kill(first)
        async with queue.opened(capacity=3) as second:
            with pytest.raises(QueueFull):
                await second.submit(Admission(assignments("x")))
            queue.judge.gate.set()
            assert await ids(await second.attach("k", "d")) == ["wait", "b", "c"]
            assert await ids(await second.submit(Admission(assignments("x")))) == ["x"]


@scenario
async def test_work_of_before_that_nobody_comes_back_for_is_dropped(queue: Queue) -> None:
    async with queue.opened() as first:
        await first.submit(keyed("wait", "b"))
        await queue.judge.has_started()
        await queue.kill(first)
        async with queue.opened(abandoned_s=0.1) as second:
            await is_forgotten(second)
            queue.judge.gate.set()
            assert "b" not in queue.judge.order
