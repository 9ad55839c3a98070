"""`cupel serve --box docker`, on the host's own engine and the image that deployments use."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import NotFound

import cupel
from cupel.schema import Language, Limits, Problem, Submission, Testcase
from cupel_sandbox.docker_boxes import DockerHost
from docker_engine_stage import wait_until
from docker_stage import IMAGE

pytestmark = [pytest.mark.docker, pytest.mark.slow]

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "two-sum"
SUFFIXES = {Language.C: "c", Language.CPP: "cpp", Language.PYTHON: "py"}
BOXES = 2 + 1
"""Two slots, and a box for sessions."""

ENDLESS = Submission(
    problem=Problem(limits=Limits(cpu_s=60), tests=(Testcase(name="only", input="", output="x"),)),
    language=Language.PYTHON,
    source="while True: pass",
)


@contextmanager
def docker_service(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The service and the line by which it said that it is ready."""
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "cupel.cli", "serve", "--box", "docker", "--port", "0"),
                *("--slots", "2", "--data-dir", str(folder / "data")),
            ],
            env={**os.environ, "CUPEL_DOCKER_IMAGE": IMAGE, "CUPEL_SESSION_BOXES": "1"},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "ready on" in line, (folder / "log").read_text()
        yield process, line
    finally:
        process.terminate()
        process.communicate(timeout=60)


def url_in(line: str) -> str:
    return line.split("ready on ")[1].split()[0]


def running_boxes_of(pid: int) -> Sequence[str]:
    """Ids of the containers that bind a cgroup of this process; others' are not looked at."""
    client = docker.from_env()
    try:
        found: list[dict[str, Any]] = client.api.containers(filters={"label": "cupel=box"})
        return [
            str(each["Id"])
            for each in found
            if any(f"/cupel-{pid}-" in mount.get("Source", "") for mount in each["Mounts"])
        ]
    finally:
        client.close()


def remove(containers: Sequence[str]) -> None:
    """Removes containers that somebody else may remove at the same time."""
    client = docker.from_env()
    try:
        for container in containers:
            with suppress(NotFound):
                client.api.remove_container(container, force=True)
    finally:
        client.close()


def cgroups_of(pid: int) -> list[Path]:
    return list(Path("/sys/fs/cgroup").rglob(f"cupel-{pid}-*"))


def test_a_docker_service_says_what_its_boxes_are_and_accepts_right_programs(
    docker_host: DockerHost, tmp_path: Path
) -> None:
    facts = docker_host.facts
    with docker_service(tmp_path) as (process, line):
        boxes = f"docker boxes {facts.runtime}, cgroup {facts.cgroup}"
        assert re.fullmatch(rf"cupel: ready on \S+ \(slots 2, {boxes}\)\n", line), line
        assert len(running_boxes_of(process.pid)) == BOXES
        with cupel.Client(url_in(line)) as client:
            info = client.info()
            assert (info.box, info.runtime, info.image) == ("docker", facts.runtime, facts.image)
            assert info.image.startswith(IMAGE)
            assert (info.accounting, info.cgroup, info.degraded) == ("cgroup", facts.cgroup, ())
            assert info.box_limits.memory_bytes == facts.box_memory_bytes > 0
            assert info.box_limits.processes == facts.box_processes > 0
            assert info.box_limits.scratch_bytes == facts.scratch_bytes > 0
            problem = cupel.load_problem(EXAMPLE)
            for language, suffix in SUFFIXES.items():
                source = (EXAMPLE / "solutions" / f"right.{suffix}").read_text()
                judgement = client.judge(
                    Submission(problem=problem, language=language, source=source)
                )
                assert judgement.verdict is cupel.Verdict.AC, judgement
                assert judgement.degraded == ()
            assert client.execute("print(6 * 7)").stdout == "42\n"
            with client.session() as session:
                session.write("greeting", b"hello")
                assert session.run("cat greeting").stdout == "hello"
        pid = process.pid
    assert running_boxes_of(pid) == []
    assert cgroups_of(pid) == []


def test_kill_dash_nine_of_a_docker_service_leaves_nothing_running(
    docker_host: DockerHost, tmp_path: Path
) -> None:
    with docker_service(tmp_path) as (process, line):

        def ask() -> None:
            with cupel.Client(url_in(line), patience_s=0) as client, suppress(cupel.CupelError):
                client.judge(ENDLESS)

        asking = threading.Thread(target=ask)
        asking.start()
        wait_until(lambda: _has_a_program(process.pid), "the program runs")
        boxes = running_boxes_of(process.pid)
        assert len(boxes) == BOXES

        os.kill(process.pid, signal.SIGKILL)

        # The engine may be at other people's work; the janitor gives it five seconds.
        wait_until(lambda: not running_boxes_of(process.pid), "its boxes have ended")
        wait_until(lambda: not cgroups_of(process.pid), "its cgroups are gone", within_s=5.0)
        asking.join()
    remove(boxes)  # the next service would, too


def _has_a_program(pid: int) -> bool:
    """Whether any box of the process has a run in it, by the cgroups of runs."""
    members = [group / "cgroup.procs" for top in cgroups_of(pid) for group in top.rglob("*/")]
    return any(file.read_text().strip() for file in members if file.exists())
