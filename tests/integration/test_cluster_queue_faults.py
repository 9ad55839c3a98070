"""Whatever dies, every accepted submission gets exactly one judgement, and none suffers for it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from queue_cluster import Cluster, admission, api, cluster, eventually, judgements, names

from cupel.schema import Verdict
from cupel_service.queue.ledger import Entry, Terms
from cupel_service.queue.tickets import ticket_of
from redis_stage import RedisServer

pytestmark = [pytest.mark.redis, pytest.mark.timeout(300)]

RECOVERY_S = 30.0
"""From the return of what was away to the last judgement of a few seconds of work."""
OUTAGE_S = 20.0


async def all_accepted(cluster: Cluster, wanted: list[str], within_s: float = 60.0) -> None:
    """Attaches to what was sent under the usual key, and waits for it."""
    async with api(cluster) as [dispatcher]:
        batch = await dispatcher.attach("k", "d")
        assert batch is not None
        found = await judgements(batch, within_s)
        assert [(each.id, each.verdict) for each in found] == [(name, "AC") for name in wanted]


def test_a_killed_workers_chunk_is_judged_by_others(tmp_path: Path) -> None:
    wanted = names("s", 200)

    async def main(cluster: Cluster) -> None:
        await cluster.has_workers(3)
        async with api(cluster) as [dispatcher]:
            batch = await dispatcher.submit(admission(*wanted))
            await eventually(lambda: len(cluster.events("end")) > 20)
            victim = cluster.workers[0]
            victim.process.kill()
            found = await judgements(batch)
        assert [each.id for each in found] == wanted
        assert {each.verdict for each in found} == {Verdict.AC}
        assert victim.deaths == 1

    with cluster(tmp_path, workers=3) as running:
        asyncio.run(main(running))


def restart(redis: RedisServer) -> None:
    redis.stop()
    redis.start()


def crash_and_restart(redis: RedisServer) -> None:
    redis.kill()
    redis.start()


@pytest.mark.parametrize("interrupt", [restart, crash_and_restart])
def test_a_restart_of_redis_loses_and_doubles_nothing(
    tmp_path: Path, interrupt: Callable[[RedisServer], None]
) -> None:
    wanted = names("s", 300)

    async def main(cluster: Cluster) -> None:
        await cluster.has_workers(2)
        async with api(cluster) as [dispatcher]:
            batch = await dispatcher.submit(admission(*wanted))
            for more in (20, 100, 200):
                await eventually(lambda more=more: len(cluster.events("end")) > more)
                await asyncio.to_thread(interrupt, cluster.redis)
            found = await judgements(batch, RECOVERY_S)
        assert [each.id for each in found] == wanted
        # Nobody was taken for dead: what was judged, was judged once.
        assert set(cluster.events("begin").values()) == {1}

    with cluster(tmp_path, workers=2) as running:
        asyncio.run(main(running))


def freeze(redis: RedisServer) -> Callable[[], None]:
    redis.freeze()
    return redis.thaw


def kill(redis: RedisServer) -> Callable[[], None]:
    redis.kill()
    return redis.start


@pytest.mark.slow
@pytest.mark.parametrize("take_away", [freeze, kill])
def test_work_goes_on_when_redis_comes_back_after_20_seconds(
    tmp_path: Path, take_away: Callable[[RedisServer], Callable[[], None]]
) -> None:
    wanted = names("s", 300)

    async def main(cluster: Cluster) -> None:
        await cluster.has_workers(2)
        async with api(cluster) as [dispatcher]:
            keyed = await dispatcher.submit(admission(*wanted))
            unkeyed = await dispatcher.submit(admission("x", "y", key=None))
            await eventually(lambda: len(cluster.events("end")) > 20)
            give_back = take_away(cluster.redis)
            await asyncio.sleep(OUTAGE_S)
            await asyncio.to_thread(give_back)
            found = await judgements(keyed, RECOVERY_S)
            assert [each.id for each in await judgements(unkeyed, RECOVERY_S)] == ["x", "y"]
        assert [each.id for each in found] == wanted
        assert set(cluster.events("begin").values()) == {1}

    with cluster(tmp_path, workers=2) as running:
        asyncio.run(main(running))


def test_two_apis_and_three_workers_judge_everything_once_though_one_dies(tmp_path: Path) -> None:
    async def main(cluster: Cluster) -> None:
        await cluster.has_workers(3)
        async with api(cluster, 2) as dispatchers:
            wanted = [names(f"b{number}-", 30) for number in range(12)]
            batches = [
                await dispatchers[number % 2].submit(
                    admission(*ids, key=f"k{number}" if number % 3 else None)
                )
                for number, ids in enumerate(wanted)
            ]
            waiting = [asyncio.create_task(judgements(batch)) for batch in batches]
            await eventually(lambda: len(cluster.events("end")) > 50)
            cluster.workers[1].process.kill()
            found = await asyncio.gather(*waiting)
            assert [[each.id for each in each_batch] for each_batch in found] == wanted
            # The other API has the same, under the same key.
            again = await dispatchers[0].attach("k1", "d")
            assert again is not None
            assert await judgements(again) == found[1]

    with cluster(tmp_path, workers=3, slots=2) as running:
        asyncio.run(main(running))


def test_a_submission_that_kills_every_worker_is_a_judging_error_and_harms_nobody(
    tmp_path: Path,
) -> None:
    wanted = [*names("a", 20), "poison", *names("b", 20)]

    async def main(cluster: Cluster) -> None:
        await cluster.has_workers(2)
        async with api(cluster) as [dispatcher]:
            found = await judgements(await dispatcher.submit(admission(*wanted)), 120)
        assert [each.id for each in found] == wanted
        assert {each.id: each.verdict for each in found if each.verdict is not Verdict.AC} == {
            "poison": Verdict.JE
        }
        assert cluster.events("begin")["poison"] == 3

    with cluster(tmp_path, workers=2, slots=2) as running:
        asyncio.run(main(running))


def test_a_submission_that_kills_its_worker_only_in_company_is_judged(tmp_path: Path) -> None:
    wanted = [*names("a", 10), "shy", *names("b", 100)]

    async def main(cluster: Cluster) -> None:
        await cluster.has_workers(1)
        async with api(cluster) as [dispatcher]:
            found = await judgements(await dispatcher.submit(admission(*wanted)), 120)
        assert [(each.id, each.verdict) for each in found] == [(name, "AC") for name in wanted]
        assert sum(worker.deaths for worker in cluster.workers) >= 1

    with cluster(tmp_path, workers=1, slots=3) as running:
        asyncio.run(main(running))


def test_a_worker_that_slept_past_its_lease_doubles_nothing(tmp_path: Path) -> None:
    wanted = names("s", 120)

    async def main(cluster: Cluster) -> None:
        await cluster.has_workers(2)
        async with api(cluster) as [dispatcher]:
            batch = await dispatcher.submit(admission(*wanted))
            await eventually(lambda: len(cluster.events("end")) > 20)
            sleeper = cluster.workers[0].process
            sleeper.send_signal(signal.SIGSTOP)
            try:
                found = await judgements(batch)
            finally:
                sleeper.send_signal(signal.SIGCONT)
            assert [each.id for each in found] == wanted
            # It is a worker as before, and what it still held is not judged on.
            more = names("more", 40)
            found = await judgements(await dispatcher.submit(admission(*more, key="other")))
            assert [each.id for each in found] == more
            again = await dispatcher.attach("k", "d")
            assert again is not None
            assert [each.id for each in await judgements(again)] == wanted
        with cluster.ledger() as ledger:
            assert ledger.client.hget(f"{cluster.prefix}:load", "submissions") == "0"

    with cluster(tmp_path, workers=2) as running:
        asyncio.run(main(running))


def test_what_an_api_admitted_and_never_enqueued_is_judged(tmp_path: Path) -> None:
    wanted = names("s", 30)

    async def main(cluster: Cluster) -> None:
        with cluster.ledger() as ledger:
            ledger.admit(*admitted(wanted))
        await all_accepted(cluster, wanted)

    with cluster(tmp_path) as running:
        asyncio.run(main(running))


def test_a_job_that_its_worker_took_and_never_leased_outlives_a_restart_of_redis(
    tmp_path: Path,
) -> None:
    wanted = names("s", 30)

    async def main(cluster: Cluster) -> None:
        async with api(cluster) as [dispatcher]:
            await dispatcher.submit(admission(*wanted))
        with cluster.redis.connected() as connection:
            # What RQ's LMOVE has done when a worker dies right after it.
            queue = f"rq:queue:{cluster.prefix}"
            while connection.lmove(queue, f"{queue}:intermediate", "LEFT", "RIGHT"):
                pass
        cluster.redis.kill()
        cluster.redis.start()
        cluster.add_worker()
        await all_accepted(cluster, wanted)

    with cluster(tmp_path, workers=0) as running:
        asyncio.run(main(running))


def test_what_a_client_gave_up_is_judged_no_further(tmp_path: Path) -> None:
    async def main(cluster: Cluster) -> None:
        await cluster.has_workers(1)
        async with api(cluster) as [dispatcher]:
            batch = await dispatcher.submit(admission(*names("s", 500), key=None))
            await eventually(lambda: len(cluster.events("end")) > 5)
            batch.leave()
            found = await judgements(await dispatcher.submit(admission("x", key=None)))
            assert [each.id for each in found] == ["x"]
            assert len(cluster.events("begin")) < 250

    with cluster(tmp_path) as running:
        asyncio.run(main(running))


def test_a_worker_that_is_stopped_gives_its_work_back_at_once(tmp_path: Path) -> None:
    async def main(cluster: Cluster) -> None:
        await cluster.has_workers(1)
        async with api(cluster) as [dispatcher]:
            batch = await dispatcher.submit(admission(*names("s", 200)))
            await eventually(lambda: len(cluster.events("end")) > 5)
            os.kill(cluster.workers[0].process.pid, signal.SIGTERM)
            assert [each.id for each in await judgements(batch)] == names("s", 200)
        assert set(cluster.events("begin").values()) == {1}

    with cluster(tmp_path) as running:
        asyncio.run(main(running))


def admitted(wanted: list[str]) -> tuple[Entry, str, Terms]:
    """What an API process writes to the ledger before it enqueues."""
    tickets = [
        ticket_of(each).model_dump_json().encode() for each in admission(*wanted).assignments
    ]
    chunks = [range(first, first + 10) for first in range(0, len(wanted), 10)]
    entry = Entry("0" * 32, "k", "d", tickets, {}, chunks, 1000)
    terms = Terms(capacity=1000, bytes_max=10**9, kept_s=60, due_s=1, attached_s=1, abandoned_s=60)
    return entry, "dead-api", terms
