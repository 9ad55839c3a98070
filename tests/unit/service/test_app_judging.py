from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from fake_boxes import FakeFacts, FakePool, echo_problem, python
from running_app import Service, problem_of, settled, within

from cupel.schema import SOURCE_BYTES_MAX

NDJSON = {"accept": "application/x-ndjson"}
JSON = {"content-type": "application/json"}


def many(*sources: str) -> dict[str, Any]:
    return {"submissions": [python(source, id=source) for source in sources]}


def fenced(program: str) -> str:
    return f"```python\n{program}\n```"


def verdicts(answer: dict[str, Any]) -> list[str]:
    return [judgement["verdict"] for judgement in answer["judgements"]]


def test_one_submission_is_judged(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        answer = await service.client.post("/v1/judgements", json=python("echo", id="mine"))
        (judgement,) = answer.json()["judgements"]
        assert (judgement["id"], judgement["verdict"], judgement["complete"]) == (
            "mine",
            "AC",
            True,
        )
        assert [test["name"] for test in judgement["tests"]] == ["t1", "t2"]

    within(tmp_path, scenario)


def test_many_are_answered_in_the_order_of_the_request(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        sources = ["echo", "print 1", "crash", "print 7"]
        answer = await service.client.post("/v1/judgements", json=many(*sources))
        assert [each["id"] for each in answer.json()["judgements"]] == sources
        assert verdicts(answer.json()) == ["AC", "WA", "RTE", "WA"]

    within(tmp_path, scenario, FakePool(3))


def test_lines_come_in_the_order_of_completion(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        request = asyncio.create_task(
            service.client.post("/v1/judgements", json=many("wait", "echo"), headers=NDJSON)
        )
        await service.has_started()
        # The other slot judges `echo`, and one more that was admitted after it.
        await service.client.post("/v1/judgements", json=python("echo"))
        service.pool.gate.set()
        answer = await request
        assert answer.headers["content-type"].startswith("application/x-ndjson")
        assert [json.loads(line)["id"] for line in answer.text.splitlines()] == ["echo", "wait"]

    within(tmp_path, scenario, FakePool(2))


def test_ids_are_generated_and_unique(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        body = {"submissions": [python("echo"), python("echo")]}
        answer = (await service.client.post("/v1/judgements", json=body)).json()
        first, second = (judgement["id"] for judgement in answer["judgements"])
        assert first != second

    within(tmp_path, scenario)


def test_a_registered_problem_is_judged_by_its_id(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        await service.client.put("/v1/problems/echo", json=echo_problem(3))
        answer = await service.client.post("/v1/judgements", json=python("echo", problem="echo"))
        (judgement,) = answer.json()["judgements"]
        assert (judgement["problem"], judgement["tests_per_tier"]) == ("echo", [1, 1, 1])

    within(tmp_path, scenario)


def test_rewards_follow_from_one_judgement_at_every_coverage(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        body = {
            "problems": [echo_problem()] * 4,
            "completions": [fenced("echo"), fenced("print 1"), fenced("crash"), ""],
            "language": "python",
            "reward": {"coverage": 1},
            "extra_rewards": {
                "high": {},
                "part": {"kind": "test_fraction"},
                "weighed": {"kind": "tier_weights", "weights": [1, 3]},
            },
        }
        answer = (await service.client.post("/v1/rewards", json=body)).json()
        assert answer["rewards"] == [1, 1, 0, 0]
        assert answer["extra_rewards"] == {
            "high": [1, 0, 0, 0],
            "part": [1, 0.5, 0, 0],
            "weighed": [1, 0.25, 0, 0],
        }
        assert verdicts(answer) == ["AC", "WA", "RTE", "CE"]

    within(tmp_path, scenario)


def test_a_reward_at_one_coverage_judges_no_further(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        body = {
            "problems": [echo_problem(4)],
            "completions": [fenced("echo")],
            "reward": {"coverage": 2},
            "extra_rewards": {"low": {"coverage": 1}},
        }
        answer = (await service.client.post("/v1/rewards", json=body)).json()
        assert len(answer["judgements"][0]["tests"]) == 2

    within(tmp_path, scenario)


def test_weights_that_do_not_fit_are_refused_before_judging(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        body = {
            "problems": [echo_problem(2)],
            "completions": [fenced("wait")],
            "extra_rewards": {"w": {"kind": "tier_weights", "weights": [1, 2, 3]}},
        }
        details = problem_of(await service.client.post("/v1/rewards", json=body), 422)
        assert "extra_rewards.w has 3 weights, but 2 tiers" in details["detail"]

    within(tmp_path, scenario)


def test_a_completion_that_is_too_large_fails_alone(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        body = {
            "problems": [echo_problem()] * 2,
            "completions": ["x" * (SOURCE_BYTES_MAX + 1), fenced("echo")],
        }
        answer = (await service.client.post("/v1/rewards", json=body)).json()
        assert answer["rewards"] == [0, 1]
        assert verdicts(answer) == ["CE", "AC"]
        assert "more than 1048576 bytes" in answer["judgements"][0]["message"]

    within(tmp_path, scenario)


def test_a_fence_of_a_language_that_is_not_here_is_no_program(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        body = {"problems": [echo_problem()], "completions": ["```cpp\nint main() {}\n```"]}
        answer = (await service.client.post("/v1/rewards", json=body)).json()
        assert answer["rewards"] == [0]
        assert "apt install g++" in answer["judgements"][0]["message"]

    within(tmp_path, scenario)


def test_a_source_that_is_too_large_is_refused_by_its_index(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        body = {"submissions": [python("echo"), python("é" * (SOURCE_BYTES_MAX // 2 + 1))]}
        details = problem_of(await service.client.post("/v1/judgements", json=body), 422)
        assert "submission 1 has more than 1048576 bytes" in details["detail"]

    within(tmp_path, scenario)


def test_equal_ids_in_one_request_are_refused(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        body = {"submissions": [python("echo", id=name) for name in ("a", "b", "a")]}
        details = problem_of(await service.client.post("/v1/judgements", json=body), 422)
        assert "submissions 0 and 2" in details["detail"]

    within(tmp_path, scenario)


@pytest.mark.parametrize("path", ["/v1/judgements", "/v1/rewards"])
def test_an_unknown_problem_is_named(tmp_path: Path, path: str) -> None:
    async def scenario(service: Service) -> None:
        body = (
            {"problems": ["nowhere"], "completions": ["x"]}
            if path == "/v1/rewards"
            else python("echo", problem="nowhere")
        )
        details = problem_of(await service.client.post(path, json=body), 404)
        assert "'nowhere'" in details["detail"]

    within(tmp_path, scenario)


def test_an_unknown_language_is_told_what_there_is(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        body = {"submissions": [{**python("echo"), "language": "cobol"}]}
        details = problem_of(await service.client.post("/v1/judgements", json=body), 422)
        assert details["errors"] == [
            "submissions.0.language: Input should be 'c', 'cpp' or 'python'"
        ]

    within(tmp_path, scenario)


def test_a_missing_toolchain_is_told_what_to_install(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        body = {**python("int main() {}"), "language": "cpp"}
        details = problem_of(await service.client.post("/v1/judgements", json=body), 422)
        assert "apt install g++" in details["detail"]
        assert "Languages here: python" in details["detail"]

    within(tmp_path, scenario)


def test_a_full_queue_is_429_with_a_time_to_come_back(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        first = asyncio.create_task(
            service.client.post("/v1/judgements", json=many("wait", "echo"))
        )
        await service.has_started()
        answer = await service.client.post("/v1/judgements", json=many("echo"), headers=NDJSON)
        problem_of(answer, 429)
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        service.pool.gate.set()
        assert (await first).status_code == 200
        assert (await service.client.post("/v1/judgements", json=many("echo"))).status_code == 200

    within(tmp_path, scenario, queue_capacity=2)


def test_a_request_larger_than_the_queue_is_413_and_told_to_split(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        answer = await service.client.post("/v1/judgements", json=many("echo", "crash"))
        assert "split" in problem_of(answer, 413)["detail"]

    within(tmp_path, scenario, queue_capacity=1)


@pytest.mark.parametrize("headers", [{}, NDJSON])
def test_a_client_that_leaves_takes_its_waiting_submissions_along(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    async def scenario(service: Service) -> None:
        leave = asyncio.Event()
        body = [json.dumps(many("wait", "echo", "crash")).encode()]

        async def receive() -> dict[str, Any]:
            if body:
                return {"type": "http.request", "body": body.pop(), "more_body": False}
            await leave.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            """Nobody listens."""

        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "path": "/v1/judgements",
            "raw_path": b"/v1/judgements",
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "headers": [
                (b"host", b"localhost"),
                *((name.encode(), value.encode()) for name, value in headers.items()),
            ],
        }
        request = asyncio.create_task(service.app(scope, receive, send))
        await service.has_started()
        leave.set()
        await settled()
        later = asyncio.create_task(
            service.client.post("/v1/judgements", json=many("print 1", "print 2", "print 3"))
        )
        await settled()
        service.pool.gate.set()
        await request
        assert (await later).status_code == 200  # there was room for three
        assert set(service.pool.ran) == {"wait", "print"}

    within(tmp_path, scenario, FakePool(1), queue_capacity=4)


def test_a_stop_answers_what_runs_and_returns_what_waits(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        running = asyncio.create_task(service.client.post("/v1/judgements", json=many("wait")))
        await service.has_started()
        waiting = asyncio.create_task(service.client.post("/v1/judgements", json=many("echo")))
        await settled()
        stop = asyncio.create_task(service.dispatcher.stop(60))
        answer = await waiting
        problem_of(answer, 503)
        assert int(answer.headers["retry-after"]) >= 1
        ready = await service.client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "stopping")
        refused = await service.client.post("/v1/judgements", json=many("echo"))
        problem_of(refused, 503)
        service.pool.gate.set()
        assert verdicts((await running).json()) == ["AC"]
        await stop

    within(tmp_path, scenario)


def test_a_program_that_takes_its_box_along_gets_no_reward_out_of_it(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        body = {"problems": [echo_problem()] * 2, "completions": [fenced("die"), fenced("echo")]}
        answer = (await service.client.post("/v1/rewards", json=body)).json()
        assert answer["rewards"] == [0, 1]

    within(tmp_path, scenario)


def test_a_degraded_service_says_so_in_every_judgement(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        answer = await service.client.post("/v1/judgements", json=python("echo"))
        assert answer.json()["judgements"][0]["degraded"] == ["cgroup"]
        info = (await service.client.get("/v1/info")).json()
        assert info["degraded"] == ["cgroup"]
        assert any("cgroup" in warning for warning in info["warnings"])

    within(tmp_path, scenario, FakePool(facts=FakeFacts(cgroup="none", degraded=("cgroup",))))
