"""A cluster as its operator and its clients see it: real processes, real Redis, native boxes."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster_stage import (
    WAIT_S,
    Cluster,
    ask,
    assert_each_judged_once,
    cluster,
    submissions,
    wait_until,
)
from redis_stage import RedisServer, redis_server

pytestmark = [pytest.mark.redis, pytest.mark.slow]

CPP = {"language": "cpp", "source": "int main() {}"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def stage(tmp_path: Path, server: RedisServer) -> Iterator[Cluster]:
    with cluster(tmp_path, server) as made:
        yield made


def test_a_first_verdict_takes_an_api_and_a_worker(stage: Cluster) -> None:
    url_with_password = stage.server.admit("secret")
    api = stage.api(CUPEL_QUEUE=url_with_password)
    assert re.fullmatch(
        rf"cupel: ready on \S+ \(queue redis://127.0.0.1:{stage.server.port}/0, no workers yet\)\n",
        api.ready,
    )
    waiting = get(api.url, "/readyz", 503)
    assert "cupel worker --queue redis://127.0.0.1" in waiting["reason"]
    assert get(api.url, "/v1/info")["toolchains"] == []

    worker = stage.worker("--name", "first", "--queue", url_with_password)
    assert re.fullmatch(
        r"cupel: worker first-\w+ ready \(slots 1, native boxes, cgroup (v1|v2), "
        rf"queue redis://127.0.0.1:{stage.server.port}/0\)\n",
        worker.ready,
    )
    wait_until(lambda: httpx.get(f"{api.url}/readyz").status_code == 200, "ready")
    assert_each_judged_once(ask(api.url, submissions(3)), 3)
    info = get(api.url, "/v1/info")
    assert (info["queue"], info["workers"], info["slots"], info["box"]) == ("redis", 1, 1, "native")
    assert info["accounting"] == "cgroup"
    assert {each["language"] for each in info["toolchains"]} >= {"c", "cpp", "python"}

    assert worker.stop() == 0
    wait_until(lambda: httpx.get(f"{api.url}/readyz").status_code == 503, "not ready")
    assert get(api.url, "/v1/info")["toolchains"] == info["toolchains"]  # still the last known ones
    assert api.stop() == 0
    for process in (api, worker):
        assert "secret" not in process.log.read_text()


def test_an_api_without_workers_keeps_what_it_accepts(stage: Cluster) -> None:
    api = stage.api()
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(ask, api.url, submissions(5))
        wait_until(lambda: waiting_jobs(stage) > 0, "it is accepted")
        stage.worker()
        assert_each_judged_once(answer.result(WAIT_S), 5)


def test_a_check_says_whether_a_worker_of_that_name_is_alive(stage: Cluster) -> None:
    stage.api()
    worker = stage.worker("--name", "one")
    check = ["worker", "--check", "--name"]
    wait_until(lambda: stage.run([*check, "one"]).returncode == 0, "alive")
    assert stage.run([*check, "on"]).returncode == 1
    worker.kill()
    wait_until(lambda: stage.run([*check, "one"]).returncode == 1, "dead")


def test_another_version_of_cupel_on_the_queue_is_refused(stage: Cluster) -> None:
    with stage.server.connected() as redis:
        redis.set(f"{stage.prefix}:protocol", "0", ex=600)
    for command in ("serve", "worker"):
        done = stage.run([command])
        assert done.returncode == 2
        assert "another version of Cupel" in done.stderr
        assert "CUPEL_QUEUE_PREFIX" in done.stderr


def test_a_worker_without_the_api_s_store_refuses_to_start(stage: Cluster) -> None:
    stage.api()
    done = stage.run(["worker", "--data-dir", str(stage.folder / "elsewhere")])
    assert done.returncode == 2
    assert "there is no problem store" in done.stderr
    assert "--store" in done.stderr


def test_a_worker_told_to_stop_twice_does_not_wait(stage: Cluster) -> None:
    api = stage.api()
    worker = stage.worker(CUPEL_STOP_GRACE_S="3600")
    endless = submissions(1, "import time; time.sleep(3600)")
    endless["submissions"][0]["problem"] = {
        "tests": [{"name": "t", "input": "", "output": "x"}],
        "limits": {"cpu_s": 60, "wall_s": 3600},
    }
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(ask, api.url, endless)
        wait_until(lambda: waiting_jobs(stage) == 0 and held(stage), "it runs")
        worker.popen.send_signal(signal.SIGTERM)
        wait_until(lambda: "told to stop" in worker.log.read_text(), "it stops")
        assert worker.stop() == 0
        api.stop()
        assert answer.result(WAIT_S).status_code == 503


def waiting_jobs(stage: Cluster) -> int:
    with stage.server.connected() as redis:
        return int(redis.llen(f"rq:queue:{stage.prefix}"))


def held(stage: Cluster) -> bool:
    with stage.server.connected() as redis:
        return bool(redis.zcard(f"{stage.prefix}:leases"))


def get(url: str, path: str, status: int = 200) -> dict[str, Any]:
    answer = httpx.get(f"{url}{path}", timeout=WAIT_S)
    assert answer.status_code == status, answer.text
    document: dict[str, Any] = answer.json()
    return document
