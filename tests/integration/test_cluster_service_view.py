"""What an API knows of its cluster, and what keeps processes out of one; with a real Redis."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from cupel.schema import Info, Language, ToolchainInfo
from cupel_service.capabilities import info_of_workers
from cupel_service.cluster_service import ClusterView
from cupel_service.errors import CannotServe
from cupel_service.joining import PROTOCOL_KEPT_S, claim_protocol, join_cluster
from cupel_service.queue.ledger import Ledger
from cupel_service.queue.redis_link import connect
from cupel_service.queue.roster import WorkerRecord
from cupel_service.settings import Settings
from redis_stage import RedisServer, redis_server, remove_keys

pytestmark = pytest.mark.redis

PYTHON = ToolchainInfo(language=Language.PYTHON, available=True, version="Python 3.11.2")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path / "redis") as running:
        yield running


@pytest.fixture
def ledger(server: RedisServer) -> Iterator[Ledger]:
    prefix = f"test-{uuid.uuid4().hex[:12]}"
    with connect(server.url, text=True) as link:
        yield Ledger(link, prefix)
    remove_keys(server, prefix)


def view_of(ledger: Ledger, server: RedisServer) -> ClusterView:
    settings = Settings(queue=server.url, queue_prefix=ledger.prefix)
    return ClusterView(settings, ledger.client, "redis://here")


def live(ledger: Ledger, name: str, slots: int, info: str | None = None) -> None:
    """A worker's heartbeat."""
    if info is None:
        settings = Settings(queue="redis://127.0.0.1")
        empty = info_of_workers(settings, [])
        known: Info = empty.model_copy(update={"slots": slots, "toolchains": (PYTHON,)})
        info = known.model_dump_json()
    record = WorkerRecord(name, slots, 0.0, info)
    ledger.renew(name, record.to_json(), record_s=60.0, lease_s=1.0, jobs=[])


def test_the_view_follows_the_workers(ledger: Ledger, server: RedisServer) -> None:
    view = view_of(ledger, server)
    view.refresh()
    assert "cupel worker --queue redis://here" in view.obstacle
    assert (view.info.workers, view.info.toolchains) == (0, ())

    live(ledger, "one", 2)
    live(ledger, "two", 3)
    view.refresh()
    assert view.obstacle == ""
    assert (view.info.workers, view.info.slots, view.info.toolchains) == (2, 5, (PYTHON,))

    ledger.client.delete(ledger.key("worker", "one"), ledger.key("worker", "two"))
    view.refresh()
    assert view.obstacle
    assert (view.info.workers, view.info.slots) == (0, 0)
    assert view.info.toolchains == (PYTHON,)  # languages are those of the last workers


def test_a_worker_that_nobody_understands_is_no_worker(ledger: Ledger, server: RedisServer) -> None:
    live(ledger, "strange", 2, info="{}")
    view = view_of(ledger, server)
    view.refresh()
    assert view.info.workers == 0


def test_while_redis_is_away_the_workers_are_as_they_were(
    ledger: Ledger, server: RedisServer
) -> None:
    view = view_of(ledger, server)
    live(ledger, "one", 2)
    view.refresh()
    server.stop()
    view.refresh()
    assert "cannot be reached" in view.obstacle
    assert view.info.workers == 1
    server.start()
    view.refresh()
    assert view.obstacle == ""


def test_a_claim_lasts_while_it_is_renewed_and_keeps_others_out(ledger: Ledger) -> None:
    key = f"{ledger.prefix}:protocol"
    claim_protocol(ledger.client, ledger.prefix)
    ledger.client.expire(key, 1)
    claim_protocol(ledger.client, ledger.prefix)
    assert 1 < ledger.client.ttl(key) <= PROTOCOL_KEPT_S
    ledger.client.set(key, "0")
    with pytest.raises(CannotServe, match="another version"):
        claim_protocol(ledger.client, ledger.prefix)


def test_a_wrong_password_is_said_without_it(server: RedisServer) -> None:
    with pytest.raises(CannotServe) as caught:
        join_cluster(f"redis://nobody:geheim@127.0.0.1:{server.port}/0", "cupel", patience_s=0)
    assert "refuses the password" in caught.value.reason
    assert "geheim" not in str(caught.value)


def test_a_redis_that_drops_keys_is_refused(server: RedisServer) -> None:
    with server.connected() as redis:
        redis.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(CannotServe, match="noeviction"):
        join_cluster(server.url, "cupel", patience_s=0)
