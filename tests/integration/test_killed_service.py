"""A service that is killed in the middle of its work leaves nothing of itself behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import cupel
from cupel.schema import Limits, Problem, Submission, Testcase

GONE_WITHIN_S = 2.0


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A service of its own, on a free port."""
    server = subprocess.Popen(
        [sys.executable, "-m", "cupel.cli", "serve", "--port", "0", "--data-dir", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        start_new_session=True,
    )
    assert server.stdout
    assert server.stderr
    (tmp_path / "tmp").mkdir()
    line = server.stdout.readline()
    assert "ready on" in line, server.stderr.read()
    url = line.split("ready on ")[1].split()[0]
    yield server, url
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.communicate()


def _cgroups_of(pid: int) -> list[str]:
    return [str(path) for path in Path("/sys/fs/cgroup").rglob(f"cupel-{pid}-*")]


def _runners() -> set[int]:
    return {
        process.pid
        for process in psutil.process_iter(["name", "status"])
        if (process.info["name"] or "").startswith("cupel-runner")
        and process.info["status"] != psutil.STATUS_ZOMBIE
    }


def _wait_until_gone(pid: int, before: set[int], marker: str) -> list[str]:
    """What is still there after the grace period; empty as soon as nothing is."""
    deadline = time.monotonic() + GONE_WITHIN_S
    while True:
        left = [f"cgroup {path}" for path in _cgroups_of(pid)]
        left += [f"process {runner}" for runner in _runners() - before]
        left += [
            f"program {process.pid}"
            for process in psutil.process_iter(["cmdline"])
            if marker in " ".join(process.info["cmdline"] or [])
        ]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.02)


def test_kill_dash_nine_in_mid_run_leaves_no_process_mount_cgroup_or_file(
    served: tuple[subprocess.Popen[str], str], tmp_path: Path
) -> None:
    server, url = served
    marker = f"marker-{os.getpid()}-{time.monotonic_ns()}"
    mounts_before = Path("/proc/self/mounts").read_text()
    before = _runners() - {child.pid for child in psutil.Process(server.pid).children(True)}
    endless = Submission(
        problem=Problem(
            limits=Limits(cpu_s=60), tests=(Testcase(name="only", input="", output="x"),)
        ),
        language="python",
        # A daemon of its own session, ignoring signals, with the marker in its command line.
        source=(
            "import os, signal, sys\n"
            "for number in (1, 2, 15): signal.signal(number, signal.SIG_IGN)\n"
            "os.fork() or os.setsid()\n"
            f"os.execv(sys.executable, ['python3', '-c', 'while True: pass', '{marker}'])\n"
        ),
    )

    def ask() -> None:
        with cupel.Client(url, max_retries=0) as client, contextlib.suppress(cupel.CupelError):
            client.judge(endless)

    asking = threading.Thread(target=ask)
    asking.start()
    deadline = time.monotonic() + 30
    while not any(
        marker in " ".join(process.info["cmdline"] or [])
        for process in psutil.process_iter(["cmdline"])
    ):
        assert time.monotonic() < deadline, "the program never started"
        time.sleep(0.02)

    os.kill(server.pid, signal.SIGKILL)

    assert _wait_until_gone(server.pid, before, marker) == []
    assert Path("/proc/self/mounts").read_text() == mounts_before
    assert list((tmp_path / "tmp").iterdir()) == []
    asking.join()
    server.wait()
