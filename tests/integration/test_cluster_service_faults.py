"""What a cluster survives: each accepted submission gets one judgement, whatever is killed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from cluster_stage import (
    SUM,
    WAIT_S,
    Cluster,
    ask,
    assert_each_judged_once,
    cluster,
    submissions,
    wait_until,
)
from cupel import Client, Submission, Verdict
from redis_stage import RedisServer, redis_server

pytestmark = [pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(300)]

SLOW_SUM = f"import time\ntime.sleep(0.1)\n{SUM}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def stage(tmp_path: Path, server: RedisServer) -> Iterator[Cluster]:
    with cluster(tmp_path, server) as made:
        yield made


def test_work_survives_an_api_killed_with_500_submissions_waiting(stage: Cluster) -> None:
    api = stage.api()
    stage.worker()
    body, key = submissions(500), uuid.uuid4().hex
    with ThreadPoolExecutor(1) as threads:
        cut = threads.submit(ask, api.url, body, key)
        wait_until(lambda: judging(stage), "the work begins")
        api.kill()
        assert isinstance(cut.exception(WAIT_S), httpx.HTTPError)
    again = stage.api()
    assert_each_judged_once(ask(again.url, body, key), 500)


def test_the_sdk_waits_for_a_killed_api_and_misses_nothing(stage: Cluster) -> None:
    api = stage.api()
    stage.worker()
    asked = [Submission.model_validate(each) for each in submissions(40, SLOW_SUM)["submissions"]]
    with ThreadPoolExecutor(1) as threads, Client(api.url) as client:
        answer = threads.submit(client.judge_all, asked)
        wait_until(lambda: judging(stage), "the work begins")
        api.kill()
        stage.api("--port", api.port)
        judgements = answer.result(WAIT_S)
    assert [each.id for each in judgements] == [each.id for each in asked]
    assert {each.verdict for each in judgements} == {Verdict.AC}


def test_work_survives_a_worker_killed_in_the_middle_of_it(stage: Cluster) -> None:
    api = stage.api()
    doomed = stage.worker("--name", "doomed")
    body, key = submissions(40, SLOW_SUM), uuid.uuid4().hex
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(ask, api.url, body, key)
        wait_until(lambda: judging(stage), "the work begins")
        stage.worker("--name", "heir")
        doomed.kill()
        assert_each_judged_once(answer.result(WAIT_S), 40)
    wait_until(lambda: stage.run(["worker", "--check", "--name", "doomed"]).returncode == 1, "gone")
    assert stage.run(["worker", "--check", "--name", "heir"]).returncode == 0


def test_a_worker_told_to_stop_gives_back_what_it_has_not_judged(stage: Cluster) -> None:
    api = stage.api()
    leaving = stage.worker()
    body = submissions(40, SLOW_SUM)
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(ask, api.url, body)
        wait_until(lambda: judging(stage), "the work begins")
        assert leaving.stop() == 0
        stage.worker()
        assert_each_judged_once(answer.result(WAIT_S), 40)


def test_a_client_that_left_in_mid_stream_gets_everything_when_it_comes_back(
    stage: Cluster,
) -> None:
    api = stage.api()
    stage.worker()
    body, key = submissions(40, SLOW_SUM), uuid.uuid4().hex
    with httpx.stream(
        "POST",
        f"{api.url}/v1/judgements",
        json=body,
        headers={"Idempotency-Key": key, "Accept": "application/x-ndjson"},
        timeout=WAIT_S,
    ) as stream:
        first = json.loads(next(stream.iter_lines()))
    assert first["verdict"] == "AC"
    assert_each_judged_once(ask(api.url, body, key), 40)
    assert_each_judged_once(ask(api.url, body, key), 40)  # and also when all is long finished


def test_two_apis_and_three_workers_share_work_and_problems(stage: Cluster) -> None:
    apis = [stage.api(), stage.api()]
    for _ in range(3):
        stage.worker()
    problem = {"tests": [{"name": "t", "input": "1 2\n", "output": "3\n"}]}
    put = httpx.put(f"{apis[0].url}/v1/problems/sum", json=problem, timeout=WAIT_S)
    assert put.status_code == 201, put.text
    body = submissions(60, problem="sum")
    with ThreadPoolExecutor(4) as threads:
        answers = [threads.submit(ask, api.url, body) for api in apis * 2]
        for answer in answers:
            assert_each_judged_once(answer.result(WAIT_S), 60)
    for api in apis:
        wait_until(lambda url=api.url: info(url)["workers"] == 3, "all workers are seen")  # type: ignore[misc]  # mypy sees no default here
        assert info(api.url)["slots"] == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_in_a_worker_s_cache_costs_nothing_but_time(stage: Cluster) -> None:
    cache = stage.folder / "cache"
    cache.mkdir()
    api = stage.api()
    # In a mount namespace of the worker's own: the disk goes with it.
    mount = f'mount -t tmpfs -o size=16k none {cache} && exec "$0" "$@"'
    stage.worker(before=["unshare", "--mount", "sh", "-c", mount])
    for name in ("one", "two"):
        long = "1 " * 50_000
        problem = {"tests": [{"name": "t", "input": f"{long}\n", "output": "50000\n"}]}
        put = httpx.put(f"{api.url}/v1/problems/{name}", json=problem, timeout=WAIT_S)
        assert put.status_code == 201, put.text
        assert_each_judged_once(ask(api.url, submissions(3, problem=name)), 3)
    assert "cannot be used (No space left on device)" in stage.processes[1].log.read_text()


def test_tests_that_the_store_has_lost_are_cupel_s_fault_until_they_are_back(
    stage: Cluster,
) -> None:
    api = stage.api()
    stage.worker()
    problem = {"tests": [{"name": "t", "input": "1 2\n", "output": "3\n"}]}
    url = f"{api.url}/v1/problems/sum"
    assert httpx.put(url, json=problem, timeout=WAIT_S).status_code == 201
    shutil.rmtree(stage.folder / "data" / "blobs")
    (judgement,) = ask(api.url, submissions(1, problem="sum")).json()["judgements"]
    assert judgement["verdict"] == "JE"
    assert httpx.put(url, json=problem, timeout=WAIT_S).status_code == 200
    assert_each_judged_once(ask(api.url, submissions(1, problem="sum")), 1)


def judging(stage: Cluster) -> bool:
    """Whether a worker holds work: one program at least runs."""
    return any(
        "/sub/main.py" in line
        for process in stage.processes
        for line in command_lines(process.popen.pid)
    )


def command_lines(root: int) -> Iterator[str]:
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(root).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                yield " ".join(child.cmdline())


def info(url: str) -> dict[str, object]:
    answer: dict[str, object] = httpx.get(f"{url}/v1/info", timeout=WAIT_S).json()
    return answer
