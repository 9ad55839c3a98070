"""The ledger's scripts, one promise each, on a real Redis."""

from __future__ import annotations

import json
import time
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import replace

import pytest

from cupel_service.queue.jobs import ChunkQueue
from cupel_service.queue.ledger import Entry, Excess, Known, Lease, Ledger, Terms
from redis_stage import RedisServer, redis_server, remove_keys

pytestmark = pytest.mark.redis

TERMS = Terms(capacity=100, bytes_max=10_000, kept_s=60, due_s=60, attached_s=60, abandoned_s=60)
API = "api"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def ledger(server: RedisServer) -> Iterator[Ledger]:
    prefix = f"test-{uuid.uuid4().hex}"
    with server.connected() as connection:
        yield Ledger(connection, prefix)
    remove_keys(server, prefix)


def entry(count: int = 4, *, key: str = "k", per_chunk: int = 2, bytes_: int = 10) -> Entry:
    chunks = [range(at, min(at + per_chunk, count)) for at in range(0, count, per_chunk)]
    tickets = [b"x" * bytes_] * count
    return Entry(uuid.uuid4().hex, key, "d", tickets, {"p": b"{}"}, chunks, 50)


def leased(ledger: Ledger, job: str, lease_s: float = 60) -> Lease:
    lease = ledger.lease(job, "holder", lease_s)
    assert lease is not None
    return lease


def results(ledger: Ledger, batch: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for _, fields in ledger.client.xrange(ledger.key("results", batch)):
        assert not found.keys() & fields.keys()
        found |= fields
    return found


def load(ledger: Ledger) -> dict[str, int]:
    found = ledger.client.hgetall(f"{ledger.prefix}:load")
    return {name: int(value) for name, value in found.items()}


def keys(ledger: Ledger) -> set[str]:
    return {
        name.removeprefix(ledger.prefix) for name in ledger.client.scan_iter(f"{ledger.prefix}*")
    }


def attempts(ledger: Ledger) -> list[str]:
    """What is due now, as chunk-attempt."""
    return [job.partition("-")[2] for job in ledger.claim(60)]


def test_all_of_a_request_is_admitted_or_none(ledger: Ledger) -> None:
    assert ledger.admit(entry(60), API, TERMS) is None
    assert ledger.admit(entry(41, key="other"), API, TERMS) == Excess(60, "submissions")
    assert ledger.attach("other", API, TERMS) is None
    assert ledger.admit(entry(40, key="other"), API, TERMS) is None


def test_an_admission_whose_answer_was_lost_can_be_repeated(ledger: Ledger) -> None:
    first = entry()
    assert ledger.admit(first, API, TERMS) is None
    before = load(ledger)
    assert ledger.admit(first, API, TERMS) is None
    assert load(ledger) == before


def test_a_key_is_admitted_once(ledger: Ledger) -> None:
    first = entry()
    ledger.admit(first, API, TERMS)
    assert ledger.admit(entry(), API, TERMS) == Known(first.batch, "d", 4)
    assert ledger.attach("k", API, TERMS) == Known(first.batch, "d", 4)
    assert load(ledger)["submissions"] == 4


def test_a_batch_that_is_over_leaves_nothing(ledger: Ledger) -> None:
    """With as many submissions that scripts must pass them in slices."""
    terms = replace(TERMS, capacity=10_000, bytes_max=10**7)
    big = entry(2500, per_chunk=1)
    ledger.admit(big, API, terms)
    for job in big.jobs():
        lease = leased(ledger, job)
        assert ledger.deliver(job, dict.fromkeys(lease.tickets, "{}"), last=True)
    assert len(results(ledger, big.batch)) == 2500
    ledger.detach(big.batch, API, terms)
    ledger.attach("k", API, replace(terms, attached_s=0, abandoned_s=0))
    ledger.client.zadd(f"{ledger.prefix}:batches", {big.batch: 1})
    assert ledger.expire() == []
    assert load(ledger) == {"submissions": 0, "bytes": 0}
    assert keys(ledger) <= {":load", ":due"}


def test_an_unfinished_batch_that_is_dropped_leaves_nothing(
    ledger: Ledger, server: RedisServer
) -> None:
    dropped = entry(key="")
    ledger.admit(dropped, API, TERMS)
    with server.connected(text=False) as raw:
        ChunkQueue(raw, ledger.prefix).push(dropped.jobs(), at_front=False)
    lease = leased(ledger, dropped.jobs()[0])
    ledger.detach(dropped.batch, API, TERMS)
    assert not ledger.deliver(lease.job, {0: "{}"}, last=False)
    assert ledger.renew("worker", "", 60, 60, [lease.job]) == [lease.job]
    assert ledger.lease(dropped.jobs()[1], "holder", 60) is None
    assert load(ledger) == {"submissions": 0, "bytes": 0}
    assert ledger.client.exists(f"rq:queue:{ledger.prefix}", f"rq:job:{dropped.jobs()[1]}") == 0
    assert keys(ledger) <= {":load", ":due", ":workers", ":worker:worker"}


def test_the_first_judgement_of_a_submission_stays(ledger: Ledger) -> None:
    only = entry(2)
    ledger.admit(only, API, TERMS)
    slow = leased(ledger, only.jobs()[0], lease_s=0)
    time.sleep(0.01)
    ledger.take_over()
    [job] = ledger.claim(60)
    fast = leased(ledger, job)
    assert not ledger.deliver(slow.job, {0: "slow"}, last=False)
    assert ledger.deliver(fast.job, {0: "fast", 1: "fast"}, last=True)
    assert not ledger.deliver(slow.job, {1: "slow"}, last=True)
    assert results(ledger, only.batch) == {"0": "slow", "1": "fast"}
    assert load(ledger)["submissions"] == 0


@pytest.mark.parametrize("last", [False, True])
def test_a_delivery_whose_answer_was_lost_can_be_repeated(ledger: Ledger, *, last: bool) -> None:
    only = entry(2, per_chunk=2 if last else 1)
    ledger.admit(only, API, TERMS)
    lease = leased(ledger, only.jobs()[0])
    done = dict.fromkeys(lease.tickets, "{}")
    ledger.deliver(lease.job, done, last=last)
    ledger.deliver(lease.job, done, last=last)
    assert len(results(ledger, only.batch)) == len(done)
    assert load(ledger)["submissions"] == 2 - len(done)


def test_a_job_is_leased_by_one_holder_who_may_ask_again(ledger: Ledger) -> None:
    only = entry(2)
    ledger.admit(only, API, TERMS)
    lease = leased(ledger, only.jobs()[0])
    assert leased(ledger, only.jobs()[0]) == lease
    assert ledger.lease(only.jobs()[0], "another", 60) is None


def test_a_chunk_that_lost_its_worker_goes_on_with_what_is_not_judged(ledger: Ledger) -> None:
    only = entry(3, per_chunk=3)
    ledger.admit(only, API, TERMS)
    lease = leased(ledger, only.jobs()[0], lease_s=0)
    ledger.deliver(lease.job, {1: "{}"}, last=False)
    time.sleep(0.01)
    assert len(ledger.take_over()) == 1
    [job] = ledger.claim(60)
    assert set(leased(ledger, job).tickets) == {0, 2}


def lose(ledger: Ledger, *, begin: bool = True) -> list[Lease]:
    """Every due job is leased, begun, and loses its worker."""
    found = [leased(ledger, job, lease_s=0) for job in ledger.claim(0)]
    for lease in found:
        if lease.alone and begin:
            assert ledger.begin(lease.job)
    time.sleep(0.01)
    ledger.take_over()
    return found


def test_the_second_loss_makes_submissions_run_alone_and_the_third_is_their_own(
    ledger: Ledger,
) -> None:
    ledger.admit(entry(2), API, replace(TERMS, due_s=0))
    assert [(len(each.tickets), each.alone) for each in lose(ledger)] == [(2, False)]
    assert [(len(each.tickets), each.alone) for each in lose(ledger)] == [(2, False)]
    # Whoever waits for its turn to run alone has not taken down anything.
    assert [(len(each.tickets), each.alone) for each in lose(ledger, begin=False)] == [
        (1, True),
        (1, True),
    ]
    assert [(each.alone, each.poison) for each in lose(ledger)] == [(True, False)] * 2
    assert [(each.alone, each.poison) for each in lose(ledger)] == [(True, True)] * 2


def test_a_job_that_is_given_back_has_lost_nothing(ledger: Ledger) -> None:
    ledger.admit(entry(2), API, replace(TERMS, due_s=0))
    for _ in range(5):
        [job] = ledger.claim(0)
        assert not leased(ledger, job).alone
        assert ledger.release(job) is not None
        assert ledger.release(job) is None


def test_a_job_that_nobody_leased_is_due_again(ledger: Ledger) -> None:
    only = entry(2)
    ledger.admit(only, API, TERMS)
    intermediate = f"rq:queue:{ledger.prefix}:intermediate"
    ledger.client.lpush(intermediate, only.jobs()[0], "somebody-elses")
    assert ledger.strand(0.05) == 0
    time.sleep(0.1)
    assert ledger.strand(0.05) == 1
    assert attempts(ledger) == ["0-2"]
    assert ledger.lease(only.jobs()[0], "late", 60) is None
    assert ledger.client.llen(intermediate) == 0


def test_what_an_api_did_not_enqueue_is_due_in_a_while(ledger: Ledger) -> None:
    ledger.admit(entry(), API, replace(TERMS, due_s=0.2))
    assert attempts(ledger) == []
    time.sleep(0.3)
    assert attempts(ledger) == ["0-1", "1-1"]
    assert attempts(ledger) == []  # who was given them has a while to enqueue them


def test_what_somebody_removed_from_rqs_queue_is_found(ledger: Ledger, server: RedisServer) -> None:
    removed = entry()
    ledger.admit(removed, API, TERMS)
    with server.connected(text=False) as raw:
        queue = ChunkQueue(raw, ledger.prefix)
        queue.push(removed.jobs(), at_front=False)
        assert ledger.recover() == 0
        queue.queue.empty()
    assert ledger.recover() == 2
    assert attempts(ledger) == ["0-2", "1-2"]
    assert ledger.recover() == 0


def test_finished_batches_go_before_work_is_turned_down(ledger: Ledger) -> None:
    old, new = entry(2, key="old", bytes_=3000), entry(1, key="new", bytes_=8000)
    ledger.admit(old, API, TERMS)
    assert ledger.admit(new, API, TERMS) == Excess(6052, "bytes")
    lease = leased(ledger, old.jobs()[0])
    ledger.deliver(lease.job, dict.fromkeys(lease.tickets, "{}"), last=True)
    assert load(ledger) == {"submissions": 0, "bytes": 50}
    ledger.client.hincrby(f"{ledger.prefix}:load", "bytes", 5000)
    ledger.client.hincrby(ledger.key("batch", old.batch), "result_bytes", 5000)
    assert ledger.admit(new, API, TERMS) is None
    assert ledger.attach("old", API, TERMS) is None


def test_one_request_larger_than_the_bound_on_bytes_is_taken_by_an_empty_queue(
    ledger: Ledger,
) -> None:
    assert ledger.admit(entry(1, bytes_=50_000), API, TERMS) is None
    assert ledger.admit(entry(1, key="other"), API, TERMS) == Excess(50_052, "bytes")


def test_a_batch_with_clients_elsewhere_stays(ledger: Ledger) -> None:
    terms = replace(TERMS, abandoned_s=0)
    batch = entry()
    ledger.admit(batch, API, terms)
    ledger.attach("k", "another", terms)
    ledger.detach(batch.batch, API, terms)
    assert ledger.expire() == []
    ledger.detach(batch.batch, "another", terms)
    time.sleep(0.01)
    assert ledger.expire() == [batch.batch]


def test_a_stop_drops_what_waits_without_a_key_and_leaves_what_has_one(ledger: Ledger) -> None:
    keyed, unkeyed = entry(), entry(key="")
    for each in (keyed, unkeyed):
        ledger.admit(each, API, TERMS)
        leased(ledger, each.jobs()[0])
        assert sorted(ledger.withdraw(each.batch)) == [2, 3]
    assert load(ledger)["submissions"] == 6
    assert ledger.lease(keyed.jobs()[1], "holder", 60) is not None
    assert ledger.lease(unkeyed.jobs()[1], "holder", 60) is None


def test_no_clients_text_is_part_of_a_keys_name(ledger: Ledger, server: RedisServer) -> None:
    ledger.admit(entry(key="x:batch:../*"), API, TERMS)
    assert not any("*" in name or "/" in name for name in keys(ledger))


def test_what_rq_stores_is_a_name_and_json(ledger: Ledger, server: RedisServer) -> None:
    only = entry(2)
    with server.connected(text=False) as raw:
        queue = ChunkQueue(raw, ledger.prefix)
        queue.push(only.jobs(), at_front=False)
        assert queue.queue.job_ids == only.jobs()
        stored = raw.hget(f"rq:job:{only.jobs()[0]}", "data")
        assert stored is not None
        _function, _instance, arguments, named = json.loads(zlib.decompress(stored))
        assert (arguments, named) == ([], {})
