from __future__ import annotations

import asyncio
import json
import logging
import resource
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fake_boxes import BASELINE_BYTES, PYTHON_ONLY, FakePool, echo_problem, python
from fake_workspaces import Stage
from running_app import Service, problem_of, within

from cupel.schema import Language
from cupel_sandbox.errors import CannotStart
from cupel_service.app import create_app
from cupel_service.app_state import app_runtime
from cupel_service.baseline import measure_baselines
from cupel_service.data_folder import DataFolder
from cupel_service.errors import CannotServe
from cupel_service.host import physical_cores, warnings_of
from cupel_service.languages import setup_languages
from cupel_service.settings import Settings

SECRET = "SECRET-of-a-test"  # noqa: S105 (a marker)
KEYS: dict[str, Any] = {"api_keys": "first-key,second-key"}


def test_a_problem_is_put_read_listed_and_deleted(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        client, url = service.client, "/v1/problems/two-sum"
        created = await client.put(url, json=echo_problem(3, title="Two sum"))
        assert created.status_code == 201
        assert (await client.put(url, json=echo_problem(3, title="Two sum"))).status_code == 200
        summary = (await client.get(url)).json()
        assert summary == created.json()
        assert (summary["id"], summary["tests_per_tier"]) == ("two-sum", [1, 1, 1])
        assert (await client.get("/v1/problems")).json() == {"problems": [summary]}
        gone = await client.delete(url)
        assert (gone.status_code, gone.content) == (204, b"")
        problem_of(await client.get(url), 404)
        problem_of(await client.delete(url), 404)

    within(tmp_path, scenario)


def test_hidden_tests_are_never_readable(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        problem = echo_problem()
        problem["tests"][0] |= {"name": SECRET, "input": SECRET, "output": SECRET}
        answers = [
            await service.client.put("/v1/problems/p", json=problem),
            await service.client.get("/v1/problems/p"),
            await service.client.get("/v1/problems"),
        ]
        assert all(SECRET not in answer.text for answer in answers)

    within(tmp_path, scenario)


def test_problems_outlive_the_service(tmp_path: Path) -> None:
    async def put(service: Service) -> None:
        await service.client.put("/v1/problems/p", json=echo_problem())

    async def judge(service: Service) -> None:
        answer = await service.client.post("/v1/judgements", json=python("echo", problem="p"))
        assert answer.json()["judgements"][0]["verdict"] == "AC"

    within(tmp_path, put)
    within(tmp_path, judge)


def test_a_full_disk_is_507_with_a_remedy_and_the_old_problem_is_kept(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        before = await service.client.put("/v1/problems/p", json=echo_problem(2))
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            answer = await service.client.put("/v1/problems/p", json=echo_problem(100))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "Free space there" in problem_of(answer, 507)["detail"]
        assert (await service.client.get("/v1/problems/p")).json() == before.json()

    within(tmp_path, scenario)


def test_a_disk_that_fails_otherwise_is_500(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        (tmp_path / "blobs").touch()  # where a folder must be
        answer = await service.client.put("/v1/problems/p", json=echo_problem())
        assert "nothing was changed" in problem_of(answer, 500)["detail"]
        assert (await service.client.get("/v1/problems")).json() == {"problems": []}

    within(tmp_path, scenario)


@pytest.mark.parametrize(
    "body",
    [
        {"source": SECRET, "language": "python", "problem": {"tests": SECRET}},
        {"source": SECRET, "language": SECRET, "problem": "p"},
        {"source": SECRET, "completion": SECRET, "problem": "p"},
        {"source": SECRET, "language": "python", "problem": SECRET + " is no id"},
        {
            "source": SECRET,
            "language": "python",
            "problem": {
                "checker": {"type": SECRET},
                "tests": [{"name": "t", "input": {"base64": SECRET + "!"}, "output": [SECRET]}],
            },
        },
        {"submissions": [{"source": SECRET, "language": "python", "problem": 7, "stop": SECRET}]},
        {"submissions": SECRET},
    ],
)
def test_a_bad_request_is_told_where_and_never_what(
    tmp_path: Path, body: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="cupel_service")

    async def scenario(service: Service) -> None:
        answer = await service.client.post("/v1/judgements", json=body)
        assert problem_of(answer, 422)["errors"]
        assert SECRET not in answer.text

    within(tmp_path, scenario)
    assert SECRET not in caplog.text


def test_unknown_fields_are_named(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        answer = await service.client.post("/v1/judgements", json=python("echo", sotp="never"))
        assert problem_of(answer, 422)["errors"] == ["sotp: Extra inputs are not permitted"]

    within(tmp_path, scenario)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"\xff"', b"\x00", b"NaN"])
def test_a_body_that_is_no_document_is_422(tmp_path: Path, body: bytes) -> None:
    async def scenario(service: Service) -> None:
        for path in ("/v1/judgements", "/v1/rewards"):
            problem_of(await service.client.post(path, content=body), 422)
        problem_of(await service.client.put("/v1/problems/p", content=body), 422)

    within(tmp_path, scenario)


@pytest.mark.parametrize(
    "limits",
    [{"cpu_s": -1}, {"cpu_s": 1e9}, {"memory_bytes": 0}, {"processes": 10**9}, {"cpu_s": "NaN"}],
)
def test_absurd_limits_are_422(tmp_path: Path, limits: dict[str, Any]) -> None:
    async def scenario(service: Service) -> None:
        answer = await service.client.put("/v1/problems/p", json=echo_problem(limits=limits))
        assert any(next(iter(limits)) in error for error in problem_of(answer, 422)["errors"])

    within(tmp_path, scenario)


def test_a_bad_id_is_422(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        for name in ("-x", "a" * 129, "sp ace", "..", "%2e%2e%2fescape"):
            answer = await service.client.put(f"/v1/problems/{name}", json=echo_problem())
            assert answer.status_code in (404, 405, 422)
            problem_of(answer, answer.status_code)
        assert not (tmp_path / "problems").exists()
        assert not (tmp_path / "blobs").exists()

    within(tmp_path, scenario)


def test_paths_and_methods_that_do_not_exist_are_problem_details(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        problem_of(await service.client.get("/v2/nothing"), 404)
        answer = await service.client.delete("/v1/judgements")
        problem_of(answer, 405)
        assert answer.headers["allow"] == "POST"

    within(tmp_path, scenario)


def test_a_body_too_large_is_413_by_its_declared_length(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        answer = await service.client.post("/v1/judgements", content=b"x" * 2000)
        assert "CUPEL_REQUEST_BYTES_MAX" in problem_of(answer, 413)["detail"]

    within(tmp_path, scenario, request_bytes_max=1024)


def test_a_body_too_large_is_413_as_it_streams_in(tmp_path: Path) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 100

    async def scenario(service: Service) -> None:
        problem_of(await service.client.post("/v1/judgements", content=endless()), 413)

    within(tmp_path, scenario, request_bytes_max=1024)


@pytest.mark.parametrize("key", [None, "third-key", "first-key,second-key", "first-ke", "ключ"])
def test_without_a_known_key_nothing_is_served(tmp_path: Path, key: str | None) -> None:
    async def scenario(service: Service) -> None:
        headers = {} if key is None else {b"authorization": b"Bearer " + key.encode()}
        for path in ("/v1/info", "/v1/problems", "/v1/nothing"):
            answer = await service.client.get(path, headers=headers)
            problem_of(answer, 401)
            assert answer.headers["www-authenticate"] == "Bearer"

    within(tmp_path, scenario, **KEYS)


def test_every_known_key_is_served_and_probes_need_none(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        for key in ("first-key", "second-key"):
            headers = {"authorization": f"Bearer {key}", "host": "judge.example.org"}
            assert (await service.client.get("/v1/info", headers=headers)).status_code == 200
        for path in ("/healthz", "/readyz"):
            assert (await service.client.get(path)).json()["status"] == "ok"

    within(tmp_path, scenario, **KEYS)


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "rebound.example.org"},
        {"host": "127.0.0.1.example.org"},
        {"host": "[::1"},
        {"origin": "https://example.org"},
        {"origin": "null"},
    ],
)
def test_a_web_page_cannot_use_a_service_without_keys(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    async def scenario(service: Service) -> None:
        answer = await service.client.post("/v1/judgements", json=python("echo"), headers=headers)
        problem_of(answer, 403)

    within(tmp_path, scenario)


@pytest.mark.parametrize("host", ["localhost:8400", "127.0.0.1", "[::1]:80", "LOCALHOST"])
def test_this_machines_own_names_are_served(tmp_path: Path, host: str) -> None:
    async def scenario(service: Service) -> None:
        headers = {"host": host, "origin": "http://localhost:3000"}
        assert (await service.client.get("/readyz", headers=headers)).status_code == 200

    within(tmp_path, scenario)


def test_info_says_what_the_service_runs_on(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        info = (await service.client.get("/v1/info")).json()
        assert (info["box"], info["cgroup"], info["slots"]) == ("fake", "v2", 2)
        assert info["physical_cores"] == physical_cores()
        toolchains = {each["language"]: each for each in info["toolchains"]}
        assert toolchains["python"]["version"] == "Python 3.11.2"
        assert "apt install gcc" in toolchains["c"]["reason"]

    within(tmp_path, scenario, FakePool(2))


def test_warnings_name_what_makes_measurements_doubtful() -> None:
    assert warnings_of(2, 2, 1.9) == ()
    crowded, loaded, degraded = warnings_of(8, 2, 2.5, ("seccomp",))
    assert "8 slots share 2 physical cores" in crowded
    assert "2.5 on 2 cores" in loaded
    assert "'seccomp'" in degraded


def test_interpreters_are_measured_when_empty_and_compilers_are_not() -> None:
    pool = FakePool()
    pool.start()
    setups = setup_languages(PYTHON_ONLY, {}, {}, {})
    assert measure_baselines(pool.slots[0].box, setups) == {Language.PYTHON: BASELINE_BYTES}


@pytest.mark.parametrize("locked", [True, False])
def test_a_service_that_cannot_start_says_why_and_what_to_do(tmp_path: Path, locked: bool) -> None:
    pool = FakePool(cannot_start=CannotStart("no user namespaces", "Allow them with sysctl"))
    app = create_app(Settings(data_dir=tmp_path), pool)

    async def start() -> None:
        async with app.router.lifespan_context(app):
            raise AssertionError("it started")

    if locked:
        with DataFolder(tmp_path), pytest.raises(CannotServe, match="in use by another service"):
            asyncio.run(start())
        return
    with pytest.raises(CannotServe) as caught:
        asyncio.run(start())
    assert (caught.value.reason, caught.value.remedy) == (
        "no user namespaces",
        "Allow them with sysctl",
    )
    DataFolder(tmp_path).close()  # nothing is held any more


def test_an_app_that_does_not_run_answers_503(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        outside = create_app(Settings(data_dir=tmp_path), FakePool())
        assert app_runtime(outside) is None
        service.client._transport.app = outside  # type: ignore[attr-defined]  # the same client, an app not started
        assert (await service.client.get("/healthz")).status_code == 200
        assert (await service.client.get("/readyz")).json()["status"] == "starting"
        problem_of(await service.client.get("/v1/problems"), 503)

    within(tmp_path, scenario)


def test_a_defect_is_500_and_neither_answer_nor_log_quotes_the_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(service: Service) -> None:
        @service.app.get("/v1/defect")
        async def defect() -> None:
            raise RuntimeError(SECRET)

        answer = await service.client.get("/v1/defect")
        problem_of(answer, 500)
        assert SECRET not in answer.text

    within(tmp_path, scenario)
    assert "RuntimeError at test_app.py" in caplog.text
    assert SECRET not in caplog.text


def test_the_openapi_document_has_examples_that_are_valid(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        document = (await service.client.get("/openapi.json")).json()
        await service.client.put("/v1/problems/two-sum", json=echo_problem())
        opened = await service.client.post("/v1/sessions", json={"problem": "two-sum"})
        session = f"/v1/sessions/{opened.json()['id']}"
        await service.client.put(f"{session}/files/main.py", content=b"echo")
        snapshot = (await service.client.post(f"{session}/snapshots")).json()["id"]
        tried = 0
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                assert operation["summary"]
                content = operation.get("requestBody", {}).get("content", {})
                for example in content.get("application/json", {}).get("examples", {}).values():
                    body = json.dumps(example["value"]).replace('"c"', '"python"').encode()
                    # The fake boxes know no Python: what matters is that it is understood.
                    body = body.replace(b"print(", b"print (").replace(b"int main", b"echo ")
                    body = body.replace(b"0123456789abcdef01234567", snapshot.encode())
                    url = path.format(problem_id="example", session_id=opened.json()["id"])
                    answer = await service.client.request(method, url, content=body)
                    assert answer.is_success, answer.text
                    tried += 1
        assert tried == 12

    within(tmp_path, scenario, session_boxes=Stage().boxes(2))
