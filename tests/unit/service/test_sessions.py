"""Sessions over the API, in fake workspaces: who has a box, who waits on disk, what runs once."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_boxes import FakePool, echo_problem
from fake_workspaces import Stage
from running_app import Service, problem_of, within

from cupel_service.sessions.spool import Spool


class Sessions:
    """Calls of sessions over one client."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def open(self, **fields: Any) -> str:
        answer = await self.client.post("/v1/sessions", json=fields)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def post(
        self, session: str, what: str, body: dict[str, Any] | None = None, key: str | None = None
    ) -> httpx.Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        url = f"/v1/sessions/{session}/{what}"
        return await self.client.post(url, json=body, headers=headers)

    async def run(self, session: str, command: str, **fields: Any) -> str:
        answer = await self.post(session, "exec", {"command": command, **fields})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["stdout"])

    async def state(self, session: str) -> str:
        answer = await self.client.get(f"/v1/sessions/{session}")
        assert answer.status_code == 200, answer.text
        return str(answer.json()["state"])

    async def states(self, *sessions: str) -> list[str]:
        return [await self.state(session) for session in sessions]


def staged(
    folder: Path,
    scenario: Callable[[Sessions, Stage], Awaitable[None]],
    *,
    boxes: int = 2,
    **settings: Any,
) -> None:
    stage = Stage()

    async def run(service: Service) -> None:
        try:
            await scenario(Sessions(service.client), stage)
        finally:
            stage.gate.set()

    within(folder, run, session_boxes=stage.boxes(boxes), **settings)
    assert not stage.in_use, "every box was given back"


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await condition():  # noqa: ASYNC110 (the condition is the service's)
            await asyncio.sleep(0.01)


async def begun(stage: Stage, count: int = 1) -> None:
    """Waits until that many `wait` commands run."""
    for _ in range(count):
        assert await asyncio.to_thread(stage.waiting.acquire, timeout=60)


# ---- boxes


def test_opening_a_session_takes_no_box(tmp_path: Path) -> None:
    async def scenario(sessions: Sessions, stage: Stage) -> None:
        opened = [await sessions.open() for _ in range(50)]
        assert set(await sessions.states(*opened)) == {"parked"}
        assert stage.opened == 0

    staged(tmp_path, scenario)


def test_the_longest_idle_session_gives_its_box_to_the_next(tmp_path: Path) -> None:
    async def scenario(sessions: Sessions, stage: Stage) -> None:
        a, b, c = [await sessions.open() for _ in range(3)]
        await sessions.run(a, "put f a")
        await sessions.run(b, "put f b")
        await sessions.run(a, "echo again")  # now b is the longest idle
        await sessions.run(c, "put f c")
        assert await sessions.states(a, b, c) == ["live", "parked", "live"]
        assert await sessions.run(b, "cat f") == "b"
        assert await sessions.states(a, b, c) == ["parked", "live", "live"]
        assert await sessions.run(a, "cat f") == "a"

    staged(tmp_path, scenario)


def test_a_folder_that_did_not_change_is_not_saved_again(tmp_path: Path) -> None:
    async def scenario(sessions: Sessions, stage: Stage) -> None:
        a, b = await sessions.open(), await sessions.open()
        await sessions.run(a, "put f a")
        await sessions.run(b, "put f b")
        assert stage.saves == 1
        listing = await sessions.client.get(f"/v1/sessions/{a}/files")  # reads only
        assert [entry["name"] for entry in listing.json()["entries"]] == ["f"]
        assert stage.saves == 2
        await sessions.run(b, "cat f")
        assert stage.saves == 2
        assert await sessions.run(a, "cat f") == "a"

    staged(tmp_path, scenario, boxes=1)


def test_a_session_with_processes_keeps_its_box(tmp_path: Path) -> None:
    async def scenario(sessions: Sessions, stage: Stage) -> None:
        pinned, other, third = [await sessions.open() for _ in range(3)]
        await sessions.run(pinned, "spawn")
        await sessions.run(other, "echo")
        await sessions.run(third, "echo")
        assert await sessions.states(pinned, other, third) == ["live", "parked", "live"]
        background = await sessions.post(third, "processes", {"command": "forever"})
        assert background.status_code == 201
        full = await sessions.post(other, "exec", {"command": "echo"})
        problem_of(full, 429)
        assert int(full.headers["retry-after"]) >= 1
        killed = await sessions.client.delete(
            f"/v1/sessions/{third}/processes/{background.json()['id']}"
        )
        assert (killed.json()["running"], killed.json()["signal"]) == (False, 9)
        assert await sessions.run(other, "echo room") == "room\n"

    staged(tmp_path, scenario, session_wait_s=0.5)


def test_a_live_interpreter_keeps_its_box(tmp_path: Path) -> None:
    async def scenario(sessions: Sessions, stage: Stage) -> None:
        first, second = await sessions.open(), await sessions.open()
        asked = {"source": "text", "session": first}
        answer = await sessions.client.post("/v1/executions", json=asked)
        assert (answer.json()["stdout"], answer.json()["exit_code"]) == ("text", 0)
        problem_of(await sessions.post(second, "exec", {"command": "echo"}), 429)

    staged(tmp_path, scenario, boxes=1, session_wait_s=0.2)


def test_beyond_its_grace_a_pinned_session_is_ended_by_the_host(tmp_path: Path) -> None:
    async def scenario(sessions: Sessions, stage: Stage) -> None:
        first, second, third = [await sessions.open() for _ in range(3)]
        await sessions.run(first, "spawn")
        await sessions.run(second, "spawn")
        assert await sessions.run(third, "echo here") == "here\n"
        gone = problem_of(await sessions.post(first, "exec", {"command": "echo"}), 410)
        assert gone["by_host"] is True
        assert "needed its box" in gone["detail"]
        assert await sessions.states(first, second, third) == ["ended", "live", "live"]

    staged(tmp_path, scenario, session_grace_s=0.0)


def test_a_session_too_large_to_park_is_pinned_and_others_give_way(tmp_path: Path) -> None:
    async def scenario(sessions: Sessions, stage: Stage) -> None:
        large, small, third = [await sessions.open() for _ in range(3)]
        await sessions.client.put(f"/v1/sessions/{large}/files/f", content=b"x" * 2_000_000)
        await sessions.run(small, "echo")
        await sessions.run(third, "echo")
        assert await sessions.states(large, small, third) == ["live", "parked", "live"]

    staged(tmp_path, scenario, session_folder_bytes=1024 * 1024)


def test_sessions_are_served_in_the_order_of_asking(tmp_path: Path) -> None:
    async def scenario(sessions: Sessions, stage: Stage) -> None:
        busy = await sessions.open()
        running = asyncio.create_task(sessions.run(busy, "wait"))
        await begun(stage)
        waiting = []
        for number in range(5):
            session = await sessions.open()
            waiting.append(asyncio.create_task(sessions.run(session, f"echo {number}")))
            await asyncio.sleep(0.02)
        stage.gate.set()
        await asyncio.gather(running, *waiting)
        assert stage.ran == ["wait", *(f"echo {number}" for number in range(5))]

    staged(tmp_path, scenario, boxes=1)


def test_commands_at_one_time_are_bounded(tmp_path: Path) -> None:
    async def scenario(sessions: Sessions, stage: Stage) -> None:
        first, second = await sessions.open(), await sessions.open()
        running = asyncio.create_task(sessions.run(first, "wait"))
        await begun(stage)
        problem_of(await sessions.post(second, "exec", {"command": "echo"}), 429)
        assert stage.ran == ["wait"]
        stage.gate.set()
        await running
        assert await sessions.run(second, "echo now") == "now\n"

    staged(tmp_path, scenario, session_commands=1, session_wait_s=0.2)


def test_sixty_sessions_on_three_boxes_do_not_mix(tmp_path: Path) -> None:
    async def scenario(sessions: Sessions, stage: Stage) -> None:
        opened = [await sessions.open() for _ in range(60)]

        async def episode(number: int, session: str) -> None:
            for step in range(4):
                await sessions.run(session, f"append log {number}.{step}")
            expected = "".join(f"{number}.{step}" for step in range(4))
            assert await sessions.run(session, "cat log") == expected

        await asyncio.gather(*(episode(*each) for each in enumerate(opened)))
        info = (await sessions.client.get("/v1/info")).json()["sessions"]
        assert (info["boxes"], info["live"] + info["parked"]) == (3, 60)
        assert info["live"] <= 3

    staged(tmp_path, scenario, boxes=3)


# ---- lives


def test_an_idle_session_ends_and_says_why(tmp_path: Path) -> None:
    async def scenario(sessions: Sessions, stage: Stage) -> None:
        session = await sessions.open(limits={"idle_s": 0.2})
        await sessions.run(session, "echo")

        async def ended() -> bool:
            return await sessions.state(session) == "ended"

        await until(ended)
        gone = problem_of(await sessions.post(session, "exec", {"command": "echo"}), 410)
        assert "nothing was asked of it" in gone["detail"]
        assert gone["by_host"] is False
        problem_of(await sessions.client.delete(f"/v1/sessions/{session}"), 410)

    staged(tmp_path, scenario)


def test_a_session_ends_at_its_age_in_the_middle_of_a_command(tmp_path: Path) -> None:
    async def scenario(sessions: Sessions, stage: Stage) -> None:
        session = await sessions.open(limits={"life_s": 0.5})
        gone = problem_of(await sessions.post(session, "exec", {"command": "forever"}), 410)
        assert "its life of 0.5 s is over" in gone["detail"]

    staged(tmp_path, scenario)


def test_open_sessions_are_bounded(tmp_path: Path) -> None:
    async def scenario(sessions: Sessions, stage: Stage) -> None:
        first, _ = await sessions.open(), await sessions.open()
        full = await sessions.client.post("/v1/sessions", json={})
        assert "CUPEL_SESSIONS_MAX" in problem_of(full, 429)["detail"]
        assert "retry-after" in full.headers
        assert (await sessions.client.delete(f"/v1/sessions/{first}")).status_code == 204
        await sessions.open()

    staged(tmp_path, scenario, sessions_max=2)


def test_what_ends_a_box_from_inside_is_the_sessions_own_doing(tmp_path: Path) -> None:
    async def scenario(sessions: Sessions, stage: Stage) -> None:
        session, other = await sessions.open(), await sessions.open()
        gone = problem_of(await sessions.post(session, "exec", {"command": "die"}), 410)
        assert gone["by_host"] is False
        assert "bytes of memory" in gone["detail"]
        assert await sessions.run(other, "echo well") == "well\n"

    staged(tmp_path, scenario, boxes=1)


def test_a_box_lost_by_the_host_ends_its_session_by_the_host(tmp_path: Path) -> None:
    async def scenario(sessions: Sessions, stage: Stage) -> None:
        session, other = await sessions.open(), await sessions.open()
        gone = problem_of(await sessions.post(session, "exec", {"command": "lose"}), 410)
        assert gone["by_host"] is True
        assert await sessions.run(other, "echo well") == "well\n"

    staged(tmp_path, scenario, boxes=1)


def test_a_box_that_was_dead_already_is_replaced_unnoticed(tmp_path: Path) -> None:
    async def scenario(sessions: Sessions, stage: Stage) -> None:
        session = await sessions.open()
        stage.lost_at_open = 1
        assert await sessions.run(session, "echo well") == "well\n"

    staged(tmp_path, scenario)


def test_a_session_that_can_have_no_box_is_ended_by_the_host(tmp_path: Path) -> None:
    async def scenario(sessions: Sessions, stage: Stage) -> None:
        session = await sessions.open()
        stage.lost_at_open = 2
        gone = problem_of(await sessions.post(session, "exec", {"command": "echo"}), 410)
        assert gone["by_host"] is True

    staged(tmp_path, scenario)


def test_cpu_time_is_that_of_all_boxes_together(tmp_path: Path) -> None:
    async def scenario(sessions: Sessions, stage: Stage) -> None:
        session, other = await sessions.open(limits={"cpu_s": 0.4}), await sessions.open()
        for _ in range(2):  # each box has used 0.25 s when it is given back
            await sessions.run(session, "echo")
            await sessions.run(other, "echo")
        gone = problem_of(await sessions.post(session, "exec", {"command": "echo"}), 410)
        assert "CPU time of 0.4 s is used up" in gone["detail"]

    staged(tmp_path, scenario, boxes=1)


def test_names_that_were_never_given_and_those_of_another_life(tmp_path: Path) -> None:
    async def scenario(sessions: Sessions, stage: Stage) -> None:
        session = await sessions.open()
        problem_of(await sessions.client.get("/v1/sessions/nothing"), 404)
        forged = session[:-4] + "0000"
        problem_of(await sessions.client.get(f"/v1/sessions/{forged}"), 404)
        before = "00000000" + session[8:]
        assert problem_of(await sessions.client.get(f"/v1/sessions/{before}"), 410)["by_host"]

    staged(tmp_path, scenario)


def test_a_service_without_boxes_for_sessions_says_what_to_set(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        for path in ("/v1/sessions", "/v1/executions"):
            answer = await service.client.post(path, json={"source": ""})
            assert "CUPEL_SESSION_BOXES" in problem_of(answer, 501)["detail"]
        assert (await service.client.get("/v1/info")).json()["sessions"]["boxes"] == 0

    within(tmp_path, scenario)


# ---- once only


def test_a_command_under_one_key_runs_once_however_often_it_is_asked(tmp_path: Path) -> None:
    async def scenario(sessions: Sessions, stage: Stage) -> None:
        session = await sessions.open()
        asked = [
            asyncio.create_task(sessions.post(session, "exec", {"command": "wait"}, key="k"))
            for _ in range(3)
        ]
        await begun(stage)
        asked.pop().cancel()  # a client that goes away
        stage.gate.set()
        answers = [await each for each in asked]
        answers.append(await sessions.post(session, "exec", {"command": "wait"}, key="k"))
        assert {answer.json()["stdout"] for answer in answers} == {"waiting\n"}
        assert stage.ran == ["wait"]
        problem_of(await sessions.post(session, "exec", {"command": "echo"}, key="k"), 422)

    staged(tmp_path, scenario)


def test_a_command_that_was_never_started_may_be_tried_again(tmp_path: Path) -> None:
    async def scenario(sessions: Sessions, stage: Stage) -> None:
        first, second = await sessions.open(), await sessions.open()
        running = asyncio.create_task(sessions.run(first, "wait"))
        await begun(stage)
        problem_of(await sessions.post(second, "exec", {"command": "echo"}, key="k"), 429)
        stage.gate.set()
        await running
        again = await sessions.post(second, "exec", {"command": "echo"}, key="k")
        assert again.status_code == 200
        assert stage.ran == ["wait", "echo"]

    staged(tmp_path, scenario, boxes=1, session_wait_s=0.2)


def test_a_session_under_one_key_is_opened_once(tmp_path: Path) -> None:
    async def scenario(sessions: Sessions, stage: Stage) -> None:
        headers = {"Idempotency-Key": "one"}
        answers = [
            await sessions.client.post("/v1/sessions", json={}, headers=headers) for _ in range(3)
        ]
        assert len({answer.json()["id"] for answer in answers}) == 1

    staged(tmp_path, scenario)


def test_a_streamed_command_is_streamed_again_from_its_beginning(tmp_path: Path) -> None:
    async def scenario(sessions: Sessions, stage: Stage) -> None:
        session = await sessions.open()
        headers = {"Accept": "application/x-ndjson", "Idempotency-Key": "k"}
        url = f"/v1/sessions/{session}/exec"
        lines = []
        for _ in range(2):
            answer = await sessions.client.post(url, json={"command": "both"}, headers=headers)
            assert answer.headers["content-type"].startswith("application/x-ndjson")
            lines.append([json.loads(line) for line in answer.text.splitlines()])
        assert lines[0] == lines[1]
        assert lines[0][:2] == [
            {"stream": "stdout", "text": "out\n"},
            {"stream": "stderr", "text": "err\n"},
        ]
        assert lines[0][2]["result"]["exit_code"] == 0
        assert stage.ran == ["both"]

    staged(tmp_path, scenario)


# ---- commands


def test_a_command_is_killed_at_its_time_limit_and_the_session_goes_on(tmp_path: Path) -> None:
    async def scenario(sessions: Sessions, stage: Stage) -> None:
        session = await sessions.open()
        asked = {"command": "forever", "timeout_s": 0.1}
        result = (await sessions.post(session, "exec", asked)).json()
        assert (result["timed_out"], result["signal"], result["limit"]) == (True, 9, "wall")
        assert await sessions.run(session, "echo on") == "on\n"

    staged(tmp_path, scenario)


def test_output_is_bounded_and_its_middle_is_cut_out(tmp_path: Path) -> None:
    async def scenario(sessions: Sessions, stage: Stage) -> None:
        session = await sessions.open()
        asked = {"command": "flood 5000", "output_bytes": 100}
        result = (await sessions.post(session, "exec", asked)).json()
        assert result["stdout_bytes"] == 5000
        assert result["stdout"] == "x" * 50 + "\n[... 4900 bytes cut out ...]\n" + "x" * 50

    staged(tmp_path, scenario)


def test_an_interpreter_that_hangs_is_restarted_and_says_so(tmp_path: Path) -> None:
    async def scenario(sessions: Sessions, stage: Stage) -> None:
        session = await sessions.open()

        async def python(source: str, wall_s: float) -> dict[str, Any]:
            asked = {"source": source, "session": session, "limits": {"wall_s": wall_s}}
            answer = await sessions.client.post("/v1/executions", json=asked)
            assert answer.status_code == 200, answer.text
            result: dict[str, Any] = answer.json()
            return result

        assert not (await python("fine", 60.0))["restarted"]
        hung = await python("hang", 0.1)
        assert (hung["restarted"], hung["timed_out"]) == (True, True)
        after = await python("fine", 60.0)
        assert (after["restarted"], after["stdout"]) == (False, "fine")

    staged(tmp_path, scenario)


@pytest.mark.parametrize(
    "path", ["..%2Fx", "a/..%2F..%2Fx", "%2Fetc%2Fpasswd", "%2Fwork%2F..%2Fx", "a%00b", "%2Fwork"]
)
def test_paths_lead_nowhere_else(tmp_path: Path, path: str) -> None:
    async def scenario(sessions: Sessions, stage: Stage) -> None:
        session = await sessions.open()
        url = f"/v1/sessions/{session}/files/{path}"
        for method in ("GET", "PUT", "DELETE"):
            problem_of(await sessions.client.request(method, url), 422)
        assert stage.opened == 0

    staged(tmp_path, scenario)


def test_a_file_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    async def scenario(sessions: Sessions, stage: Stage) -> None:
        session = await sessions.open()
        problem_of(await sessions.client.get(f"/v1/sessions/{session}/files/none"), 404)

    staged(tmp_path, scenario)


# ---- snapshots


def test_a_snapshot_goes_back_and_into_a_new_session(tmp_path: Path) -> None:
    async def scenario(sessions: Sessions, stage: Stage) -> None:
        session = await sessions.open()
        await sessions.run(session, "put f before")
        taken = (await sessions.post(session, "snapshots")).json()["id"]
        await sessions.run(session, "put f after")
        assert (await sessions.post(session, "restore", {"snapshot": taken})).status_code == 200
        assert await sessions.run(session, "cat f") == "before"
        await sessions.client.delete(f"/v1/sessions/{session}")
        heir = await sessions.open(snapshot=taken)
        assert await sessions.run(heir, "cat f") == "before"

    staged(tmp_path, scenario, boxes=1)


def test_restoring_ends_what_runs_but_not_the_session(tmp_path: Path) -> None:
    async def scenario(sessions: Sessions, stage: Stage) -> None:
        session = await sessions.open()
        taken = (await sessions.post(session, "snapshots")).json()["id"]
        running = asyncio.create_task(sessions.post(session, "exec", {"command": "forever"}))
        await begun(stage)
        assert (await sessions.post(session, "restore", {"snapshot": taken})).status_code == 200
        assert "a snapshot was put in place" in problem_of(await running, 422)["detail"]
        assert await sessions.run(session, "echo on") == "on\n"

    staged(tmp_path, scenario)


def test_snapshots_are_bounded_and_can_be_deleted(tmp_path: Path) -> None:
    async def scenario(sessions: Sessions, stage: Stage) -> None:
        session = await sessions.open()
        first = (await sessions.post(session, "snapshots")).json()["id"]
        await sessions.post(session, "snapshots")
        problem_of(await sessions.post(session, "snapshots"), 422)
        url = f"/v1/sessions/{session}/snapshots/{first}"
        assert (await sessions.client.delete(url)).status_code == 204
        problem_of(await sessions.client.delete(url), 404)
        problem_of(await sessions.post(session, "restore", {"snapshot": first}), 404)
        assert (await sessions.post(session, "snapshots")).status_code == 201

    staged(tmp_path, scenario, snapshots_max=2)


# ---- the folder on disk


def test_nothing_of_a_session_stays_on_disk(tmp_path: Path) -> None:
    async def scenario(sessions: Sessions, stage: Stage) -> None:
        opened = [await sessions.open() for _ in range(3)]
        for session in opened:
            await sessions.run(session, "put f content")
        kept = (await sessions.client.get("/v1/info")).json()["sessions"]["spool_bytes"]
        assert kept > 0
        for session in opened:
            await sessions.client.delete(f"/v1/sessions/{session}")
        assert (await sessions.client.get("/v1/info")).json()["sessions"]["spool_bytes"] == 0

    staged(tmp_path, scenario, boxes=1)
    assert not list((tmp_path / "sessions").iterdir())


def test_files_of_a_killed_service_are_removed_and_those_of_a_living_one_are_not(
    tmp_path: Path,
) -> None:
    living = Spool(tmp_path, 1000)
    archive = living.write(b"content")
    dead = tmp_path / "12345-0"
    dead.mkdir()
    (dead / "lock").touch()
    (dead / "1.folder").write_bytes(b"left")
    other = Spool(tmp_path, 1000)
    assert not dead.exists()
    assert living.read(archive) == b"content"
    living.close()
    other.close()
    assert not list(tmp_path.iterdir())


# ---- submissions

HIDDEN = {
    "name": "HIDDEN-NAME",
    "input": "HIDDEN-TEXT",
    "output": "HIDDEN-TEXT",
    "tier": 2,
}
SEEN = {"name": "seen", "input": "1\n", "output": "1\n", "tier": 1, "public": True}
PROBLEM = {"tests": [SEEN, HIDDEN]}


def test_public_tests_lie_in_the_folder_and_hidden_ones_do_not(tmp_path: Path) -> None:
    async def scenario(sessions: Sessions, stage: Stage) -> None:
        await sessions.client.put("/v1/problems/p", json=PROBLEM)
        shown = (await sessions.client.get("/v1/problems/p")).text
        assert "HIDDEN" not in shown
        assert json.loads(shown)["public_tests"] == [
            {"name": "seen", "input": "1\n", "output": "1\n"}
        ]
        session = await sessions.open(problem="p")
        assert await sessions.run(session, "cat examples/1.in") == "1\n"
        listing = (await sessions.client.get(f"/v1/sessions/{session}/files")).json()
        names = [entry["name"] for entry in listing["entries"]]
        assert names == ["examples/1.in", "examples/1.out"]
        assert all(b"HIDDEN" not in file for file in stage.in_use.popitem()[1].files.values())
        stage.in_use.clear()

    staged(tmp_path, scenario)


@pytest.mark.parametrize(
    ("program", "verdict", "passed", "reward"),
    [("print 1", "WA", 0, 0.5), ("echo", "AC", 1, 1.0), ("fail", "RTE", 0, 0.0)],
)
def test_feedback_holds_nothing_hidden(
    tmp_path: Path, program: str, verdict: str, passed: int, reward: float
) -> None:
    async def scenario(sessions: Sessions, stage: Stage) -> None:
        session = await sessions.open(
            problem=PROBLEM, reward={}, extra_rewards={"part": {"kind": "test_fraction"}}
        )
        await sessions.client.put(f"/v1/sessions/{session}/files/main.py", content=program)
        answer = (await sessions.post(session, "submit", {"path": "main.py"})).json()
        feedback = answer["feedback"]
        assert "HIDDEN" not in json.dumps(feedback)
        assert feedback["verdict"] == verdict
        assert feedback["hidden_tests"] == {"passed": passed, "judged": 1, "total": 1}
        (public,) = feedback["public_tests"]
        assert (public["name"], public["input"], public["expected"]) == ("seen", "1\n", "1\n")
        assert public["actual"] == {"print 1": "1", "echo": "1\n", "fail": ""}[program]
        assert answer["rewards"] == {"reward": float(verdict == "AC"), "part": reward}
        assert answer["source"] == program
        assert answer["judgement"]["complete"]

    staged(tmp_path, scenario)


def test_submissions_are_bounded_and_what_is_not_judged_is_not_counted(tmp_path: Path) -> None:
    async def scenario(sessions: Sessions, stage: Stage) -> None:
        session = await sessions.open(problem=PROBLEM, language="python", limits={"submissions": 1})
        problem_of(await sessions.post(session, "submit", {"path": "none.py"}), 404)
        await sessions.client.put(f"/v1/sessions/{session}/files/main.py", content="echo")
        answer = await sessions.post(session, "submit", {"path": "main.py"}, key="k")
        assert answer.json()["submissions_left"] == 0
        assert answer.json()["rewards"] is None
        again = await sessions.post(session, "submit", {"path": "main.py"}, key="k")
        assert again.json() == answer.json()
        refused = problem_of(await sessions.post(session, "submit", {"path": "main.py"}), 422)
        assert "no submission is left" in refused["detail"]

    staged(tmp_path, scenario)


def test_a_judging_error_is_no_reward_and_not_counted(tmp_path: Path) -> None:
    async def run(service: Service) -> None:
        sessions = Sessions(service.client)
        session = await sessions.open(problem=echo_problem(), reward={})
        await service.client.put(f"/v1/sessions/{session}/files/main.py", content="die")
        service.pool.interrupted.set()  # no lost box is replaced: Cupel's own fault
        answer = (await sessions.post(session, "submit", {"path": "main.py"})).json()
        assert answer["feedback"]["verdict"] == "JE"
        assert answer["rewards"] == {"reward": None}
        assert answer["submissions_left"] == 10

    within(tmp_path, run, FakePool(), Stage().boxes(1))


@pytest.mark.parametrize(
    "fields",
    [
        {"reward": {}},
        {"problem": PROBLEM, "reward": {"kind": "test_fraction"}, "stop": "first_failure"},
        {"problem": PROBLEM, "reward": {"kind": "tier_weights", "weights": [1.0]}},
        {"problem": PROBLEM, "extra_rewards": {"reward": {}}},
        {"language": "cpp"},
        {"limits": {"idle_s": 0}},
        {"environment": {"A=B": "c"}},
    ],
)
def test_a_session_that_could_not_be_rewarded_is_not_opened(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    async def scenario(sessions: Sessions, stage: Stage) -> None:
        problem_of(await sessions.client.post("/v1/sessions", json=fields), 422)

    staged(tmp_path, scenario)


def test_a_stop_ends_sessions_in_the_middle_of_their_commands(tmp_path: Path) -> None:
    answers: list[asyncio.Task[httpx.Response]] = []

    async def scenario(sessions: Sessions, stage: Stage) -> None:
        session = await sessions.open()
        asked = sessions.post(session, "exec", {"command": "forever"})
        answers.append(asyncio.create_task(asked))
        await begun(stage)

    began_s = time.monotonic()
    staged(tmp_path, scenario)
    assert time.monotonic() - began_s < 30
