"""Clusters for tests: real API and worker processes on a Redis, all ended with the test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from redis_stage import RedisServer, remove_keys

WAIT_S = 60.0
LEASE_S = 1.0
ECHO = {"tests": [{"name": "t", "input": "1 2\n", "output": "3\n"}]}
SUM = "print(sum(map(int, input().split())))"


@dataclass(frozen=True)
class Process:
    """A `cupel serve` or `cupel worker` that has said it is ready."""

    popen: subprocess.Popen[str]
    ready: str
    log: Path

    @property
    def url(self) -> str:
        return self.ready.split("ready on ")[1].split()[0]

    @property
    def port(self) -> str:
        return self.url.rpartition(":")[2]

    def kill(self) -> None:
        """As the kernel's out-of-memory killer does it."""
        self.popen.kill()
        self.popen.wait(WAIT_S)

    def stop(self) -> int:
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(WAIT_S)


@dataclass
class Cluster:
    """Processes that share a Redis, a prefix of its keys, and a problem store."""

    folder: Path
    server: RedisServer
    prefix: str = field(default_factory=lambda: f"test-{uuid.uuid4().hex[:12]}")
    processes: list[Process] = field(default_factory=list)

    def api(self, *arguments: str, **variables: str) -> Process:
        return self.start(["serve", "--port", "0", *arguments], **variables)

    def worker(self, *arguments: str, before: Sequence[str] = (), **variables: str) -> Process:
        return self.start(["worker", "--slots", "1", *arguments], before=before, **variables)

    def start(
        self, arguments: Sequence[str], *, before: Sequence[str] = (), **variables: str
    ) -> Process:
        """Starts a process and waits until it says that it is ready."""
        log = self.folder / f"log-{len(self.processes)}"
        with log.open("w") as stderr:
            popen = subprocess.Popen(
                [*before, *self.command(arguments)],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=self.environment(variables),
                start_new_session=True,
            )
        process = Process(popen, _ready_line(popen), log)
        self.processes.append(process)
        assert "ready" in process.ready, log.read_text()
        return process

    def run(self, arguments: Sequence[str], **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs a command of Cupel to its end."""
        return subprocess.run(
            self.command(arguments),
            env=self.environment(variables),
            capture_output=True,
            text=True,
            check=False,
            timeout=WAIT_S,
        )

    @staticmethod
    def command(arguments: Sequence[str]) -> list[str]:
        return [sys.executable, "-m", "cupel.cli", *arguments]

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        return {
            **os.environ,
            "CUPEL_QUEUE": self.server.url,
            "CUPEL_QUEUE_PREFIX": self.prefix,
            "CUPEL_DATA_DIR": str(self.folder / "data"),
            "CUPEL_CACHE_DIR": str(self.folder / "cache"),
            "CUPEL_LEASE_S": str(LEASE_S),
            **variables,
        }


@contextmanager
def cluster(folder: Path, server: RedisServer) -> Iterator[Cluster]:
    """A cluster without any process yet; at the end none is left, and no key in Redis."""
    made = Cluster(folder, server)
    try:
        yield made
    finally:
        for process in made.processes:
            process.popen.kill()
        for process in made.processes:
            process.popen.communicate()
        remove_keys(server, made.prefix)


def submissions(count: int, source: str = SUM, **fields: Any) -> dict[str, Any]:
    """A request of so many submissions, each with a program of its own."""
    return {
        "submissions": [
            {
                "id": f"s{number}",
                "problem": ECHO,
                "language": "python",
                "source": f"# {number}\n{source}\n",
                **fields,
            }
            for number in range(count)
        ]
    }


def ask(url: str, body: object, key: str | None = None) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return httpx.post(f"{url}/v1/judgements", json=body, headers=headers, timeout=WAIT_S)


def assert_each_judged_once(answer: httpx.Response, count: int) -> None:
    """Every submission has one judgement, and none a fault that it did not commit."""
    assert answer.status_code == 200, answer.text
    judgements = answer.json()["judgements"]
    assert [each["id"] for each in judgements] == [f"s{number}" for number in range(count)]
    assert {each["verdict"] for each in judgements} == {"AC"}


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.05)


def _ready_line(popen: subprocess.Popen[str]) -> str:
    assert popen.stdout is not None
    return popen.stdout.readline()
