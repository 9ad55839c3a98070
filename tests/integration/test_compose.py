"""The whole of docker-compose.yml as a user starts it: its images, its networks, its workers."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from cupel import Client, Problem, Submission, Testcase, Verdict, load_problem
from docker_stage import IMAGE

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("cupel", "redis:7", IMAGE)
WAIT_S = 120.0
COMMAND_S = 180
QUEUE = "redis://redis:6379/0"
SUM = Problem(tests=(Testcase(name="small", input="1 2\n", output="3\n"),))
# Some tenths of a second of work: a worker that is killed is in the middle of one.
SLOW = "for i in range(5_000_000): pass\nprint(sum(map(int, input().split())))\n"
SUBMISSIONS = 40
KILLED_AFTER = 4


@dataclass(frozen=True)
class Project:
    """One project of Compose, with the means to speak to it."""

    command: tuple[str, ...]
    environment: dict[str, str]
    url: str
    key: str

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self.command, *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_S,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def workers(self) -> list[str]:
        return self.run("ps", "-q", "worker").split()

    def client(self) -> Client:
        return Client(self.url, self.key, timeout_s=WAIT_S)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A cluster of its own name, port, volumes and key; nothing of it is left at the end."""
    compose = _compose()
    for image in NEEDED:
        if _fails("docker", "image", "inspect", image):
            _do_without(f"there is no image {image}: run `make image`")
    folder = tmp_path_factory.mktemp("compose")
    key = uuid.uuid4().hex
    (folder / "keys").write_text(f"{key}\n")
    (folder / "keys").chmod(0o644)
    (folder / "env").touch()  # not the .env of whoever runs the tests
    port = _free_port()
    name = f"cupel-test-{uuid.uuid4().hex[:8]}"
    made = Project(
        command=(*compose, "--env-file", str(folder / "env"), "-p", name),
        environment={
            **{key: value for key, value in os.environ.items() if not key.startswith("CUPEL_")},
            "CUPEL_ADDRESS": f"127.0.0.1:{port}",
            "CUPEL_KEYS": str(folder / "keys"),
            "CUPEL_DOCKER_IMAGE": IMAGE,
            "CUPEL_SLOTS": "1",
        },
        url=f"http://127.0.0.1:{port}",
        key=key,
    )
    try:
        made.run("up", "-d")
        with made.client() as client:
            client.wait_until_ready(WAIT_S)
        yield made
    except BaseException:
        print(made.run("logs", "--no-color", "--tail", "50"))  # noqa: T201 - pytest shows it
        raise
    finally:
        made.run("down", "-v", "--timeout", "20")


def test_a_first_verdict_comes_from_docker_boxes(project):
    example = ROOT / "examples" / "two-sum"
    with project.client() as client:
        client.problems.add("two-sum", load_problem(example))
        for name, language, verdict in (
            ("right.cpp", "cpp", Verdict.AC),
            ("wrong.py", "python", Verdict.WA),
        ):
            source = (example / "solutions" / name).read_text("utf-8")
            judgement = client.judge(problem="two-sum", language=language, source=source)
            assert judgement.verdict is verdict
        assert client.info().box == "docker"


def test_the_api_has_no_rights_and_no_way_to_docker(project):
    probe = (
        "import os; status = open('/proc/self/status').read();"
        "print(os.getuid(), os.path.exists('/var/run/docker.sock'),"
        " 'CapEff:\\t0000000000000000' in status)"
    )
    assert project.run("exec", "-T", "api", "python3", "-c", probe).split() == [
        "10001",
        "False",
        "True",
    ]


def test_a_worker_can_be_asked_whether_it_is_alive(project):
    project.run("exec", "-T", "worker", "cupel", "worker", "--check", "--queue", QUEUE)


def test_a_second_worker_takes_over_from_a_killed_one_until_that_is_back(project):
    project.run("up", "-d", "--scale", "worker=2")
    with project.client() as client:
        _wait_for(lambda: client.info().workers == 2)
        client.problems.add("sum", SUM)
        submissions = [Submission(problem="sum", language="python", source=SLOW)] * SUBMISSIONS
        victim = project.workers()[0]
        judged = []
        for position, judgement in client.judge_many(submissions, batch_size=SUBMISSIONS):
            judged.append((position, judgement.verdict))
            if len(judged) == KILLED_AFTER:
                assert not _fails("docker", "kill", victim)
        assert sorted(judged) == [(position, Verdict.AC) for position in range(SUBMISSIONS)]
        _wait_for(lambda: client.info().workers == 1)
        project.run("up", "-d", "--scale", "worker=2")
        _wait_for(lambda: client.info().workers == 2)


def _compose() -> tuple[str, ...]:
    """The command of Compose v2, else of 1.29."""
    commands = (("docker", "compose"), ("docker-compose",))
    found = [command for command in commands if not _fails(*command, "version")]
    if not found:
        _do_without("there is no Docker Compose")
    return found[0]


def _fails(*command: str) -> bool:
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=COMMAND_S)
    except FileNotFoundError:
        return True
    return done.returncode != 0


def _do_without(reason: str) -> NoReturn:
    """Skips the test, or fails in CI."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.5)
