"""Requests that are shown again under their key, and urgent ones."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_boxes import echo_problem, python
from running_app import Service, problem_of, settled, within

from cupel_service.problem_details import service_error_response
from cupel_service.queue.contract import QueueUnreachable

KEY = {"idempotency-key": "mine"}
NDJSON = {"accept": "application/x-ndjson"}
ONE_TEST = echo_problem(1)
ROUTES = ["/v1/judgements", "/v1/rewards"]


def body_of(path: str, *programs: str, problem: Any = ONE_TEST) -> dict[str, Any]:
    """Programs without ids, for either route."""
    if path == "/v1/judgements":
        return {"submissions": [python(each, problem=problem) for each in programs]}
    completions = [f"```python\n{each}\n```" for each in programs]
    return {"problems": [problem] * len(programs), "completions": completions}


def named(*programs: str) -> dict[str, Any]:
    submissions = [python(each, id=each, problem=ONE_TEST) for each in programs]
    return {"submissions": submissions}


@pytest.mark.parametrize("path", ROUTES)
def test_a_key_shown_again_gets_the_same_answer_and_nothing_is_judged_twice(
    tmp_path: Path, path: str
) -> None:
    async def scenario(service: Service) -> None:
        body = body_of(path, "echo", "print 7")
        first = await service.client.post(path, json=body, headers=KEY)
        again = await service.client.post(path, json=body, headers=KEY)
        assert (first.status_code, again.status_code) == (200, 200)
        assert again.json() == first.json()
        ids = [each["id"] for each in first.json()["judgements"]]
        assert len(set(ids)) == 2
        assert Counter(service.pool.ran) == {"echo": 1, "print": 1}

    within(tmp_path, scenario)


def test_generated_ids_differ_between_keys_and_between_requests(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        ids: set[str] = set()
        for key in ("one", "two"):
            for path in ROUTES:
                headers = {"idempotency-key": f"{key} {path}".replace(" ", "")}
                body = body_of(path, "echo", "echo")
                answer = await service.client.post(path, json=body, headers=headers)
                ids.update(each["id"] for each in answer.json()["judgements"])
        assert len(ids) == 8

    within(tmp_path, scenario)


def test_a_key_of_another_request_is_422(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        body = body_of("/v1/judgements", "echo")
        await service.client.post("/v1/judgements", json=body, headers=KEY)
        other = {**body, "urgent": True}
        answer = await service.client.post("/v1/judgements", json=other, headers=KEY)
        assert "new key" in problem_of(answer, 422)["detail"]
        rewards = body_of("/v1/rewards", "echo")
        problem_of(await service.client.post("/v1/rewards", json=rewards, headers=KEY), 422)

    within(tmp_path, scenario)


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("key", ["", "x" * 201, "two words", "caf\u00e9".encode(), b"a\tb"])
def test_a_key_is_1_to_200_visible_ascii_characters(
    tmp_path: Path, path: str, key: str | bytes
) -> None:
    async def scenario(service: Service) -> None:
        shown = key.encode() if isinstance(key, str) else key
        answer = await service.client.post(
            path, json=body_of(path, "echo"), headers=[(b"idempotency-key", shown)]
        )
        assert "visible ASCII" in problem_of(answer, 422)["detail"]
        assert not service.pool.ran

    within(tmp_path, scenario)


def test_two_keys_are_one_too_many(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        headers = [("idempotency-key", "a"), ("idempotency-key", "b")]
        body = body_of("/v1/judgements", "echo")
        problem_of(await service.client.post("/v1/judgements", json=body, headers=headers), 422)
        longest = {"idempotency-key": "~" * 200}
        answer = await service.client.post("/v1/judgements", json=body, headers=longest)
        assert answer.status_code == 200

    within(tmp_path, scenario)


def test_a_client_cut_off_in_mid_stream_comes_back_and_gets_everything_once(
    tmp_path: Path,
) -> None:
    async def scenario(service: Service) -> None:
        body = named("print 1", "wait", "print 2", "print 3")
        async with asyncio.timeout(60):
            cut = Cut(service, body, {**KEY, **NDJSON})
            first = await cut.first_line()
            assert first["id"] == "print 1"
            await service.has_started()
            await cut.off()
            again = asyncio.create_task(
                service.client.post("/v1/judgements", json=body, headers={**KEY, **NDJSON})
            )
            await settled()
            service.pool.gate.set()
            lines = [json.loads(line) for line in (await again).text.splitlines()]
            assert lines[0] == first
            assert [line["id"] for line in lines] == ["print 1", "wait", "print 2", "print 3"]
            assert Counter(service.pool.ran) == {"print": 3, "wait": 1}

    within(tmp_path, scenario)


class Cut:
    """A streamed request whose client goes away after the first line."""

    def __init__(self, service: Service, body: Any, headers: dict[str, str]) -> None:
        request = service.client.build_request("POST", "/v1/judgements", json=body, headers=headers)
        self._body = [request.content]
        self._gone = asyncio.Event()
        self._sent: asyncio.Queue[bytes] = asyncio.Queue()
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "path": "/v1/judgements",
            "raw_path": b"/v1/judgements",
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
        }
        self._task = asyncio.create_task(service.app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self._body:
            return {"type": "http.request", "body": self._body.pop(), "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message.get("body"):
            self._sent.put_nowait(message["body"])

    async def first_line(self) -> dict[str, Any]:
        line: dict[str, Any] = json.loads((await self._sent.get()).splitlines()[0])
        return line

    async def off(self) -> None:
        """Disconnects, and waits until the service has noticed."""
        self._gone.set()
        await self._task


def test_two_clients_may_show_one_key_at_one_time(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        body = named("wait", "print 2")
        answers = [
            asyncio.create_task(service.client.post("/v1/judgements", json=body, headers=KEY))
            for _ in range(3)
        ]
        await service.has_started()
        service.pool.gate.set()
        first, *others = [(await answer).json() for answer in answers]
        assert others == [first, first]
        assert Counter(service.pool.ran) == {"wait": 1, "print": 1}

    within(tmp_path, scenario)


def test_a_service_that_was_stopped_goes_on_and_the_key_is_good_with_the_next(
    tmp_path: Path,
) -> None:
    body = body_of("/v1/rewards", "print 1", "wait", "echo")
    ran: list[str] = []
    judged: list[dict[str, Any]] = []

    async def interrupted(service: Service) -> None:
        request = asyncio.create_task(service.client.post("/v1/rewards", json=body, headers=KEY))
        await service.has_started()
        stop = asyncio.create_task(service.dispatcher.stop(60))
        await settled()
        service.pool.gate.set()
        problem_of(await request, 503)
        await stop
        ran.extend(service.pool.ran)

    async def resumed(service: Service) -> None:
        answer = await service.client.post("/v1/rewards", json=body, headers=KEY)
        assert answer.json()["rewards"] == [1, 1, 1]
        judged.extend(answer.json()["judgements"])
        ran.extend(service.pool.ran)

    within(tmp_path, interrupted)
    within(tmp_path, resumed)
    within(tmp_path, resumed)
    assert Counter(ran) == {"print": 1, "wait": 1, "echo": 1}
    assert judged[:3] == judged[3:]


def test_a_known_key_is_answered_when_its_problem_is_gone(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        await service.client.put("/v1/problems/echo", json=echo_problem())
        body = python("echo", problem="echo")
        first = await service.client.post("/v1/judgements", json=body, headers=KEY)
        await service.client.delete("/v1/problems/echo")
        again = await service.client.post("/v1/judgements", json=body, headers=KEY)
        assert again.json() == first.json()
        problem_of(await service.client.post("/v1/judgements", json=body), 404)

    within(tmp_path, scenario)


def test_a_problem_deleted_before_a_restart_leaves_a_judging_error_without_a_reward(
    tmp_path: Path,
) -> None:
    body = {
        **body_of("/v1/rewards", "wait", "echo", problem="echo"),
        "reward": {"kind": "tier_weights", "weights": [1, 2]},
    }

    async def interrupted(service: Service) -> None:
        await service.client.put("/v1/problems/echo", json=echo_problem())
        request = asyncio.create_task(service.client.post("/v1/rewards", json=body, headers=KEY))
        await service.has_started()
        await service.client.delete("/v1/problems/echo")
        await service.dispatcher.stop(0)
        problem_of(await request, 503)

    async def resumed(service: Service) -> None:
        answer = (await service.client.post("/v1/rewards", json=body, headers=KEY)).json()
        assert answer["rewards"] == [None, None]
        for judgement in answer["judgements"]:
            assert judgement["verdict"] == "JE"
            assert "'echo' was deleted meanwhile" in judgement["message"]

    within(tmp_path, interrupted)
    within(tmp_path, resumed)


def test_a_refused_request_leaves_its_key_free(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        first = asyncio.create_task(
            service.client.post("/v1/judgements", json=named("wait", "print 2"))
        )
        await service.has_started()
        answer = await service.client.post("/v1/judgements", json=named("echo"), headers=KEY)
        problem_of(answer, 429)
        service.pool.gate.set()
        await first
        answer = await service.client.post("/v1/judgements", json=named("print 1"), headers=KEY)
        assert answer.status_code == 200

    within(tmp_path, scenario, queue_capacity=2)


@pytest.mark.parametrize("path", ROUTES)
def test_an_urgent_request_goes_before_what_waits(tmp_path: Path, path: str) -> None:
    async def scenario(service: Service) -> None:
        # A registered problem in memory: admission then needs no other thread.
        await service.client.put("/v1/problems/echo", json=echo_problem(1))

        async def ask(program: str, **fields: bool) -> asyncio.Task[httpx.Response]:
            body = body_of(path, program, problem="echo") | fields
            request = asyncio.create_task(service.client.post(path, json=body))
            await settled()
            return request

        asked = [await ask("wait")]
        await service.has_started()
        asked += [await ask("echo", urgent=False), await ask("print 1", urgent=True)]
        service.pool.gate.set()
        for each in asked:
            assert (await each).status_code == 200
        assert service.pool.ran == ["wait", "print", "echo"]

    within(tmp_path, scenario)


def test_a_queue_that_cannot_be_reached_is_503_with_a_time_to_come_back() -> None:
    answer = service_error_response(QueueUnreachable("Redis does not answer", 7))
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "7"
