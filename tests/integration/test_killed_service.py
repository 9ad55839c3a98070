"""A service that is killed in the middle of its work leaves nothing behind, and loses nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

import cupel
from cupel.schema import Limits, Problem, Submission, Testcase

GONE_WITHIN_S = 2.0


@dataclass
class Served:
    """A service of its own, on a port of its own; started again it takes the same one."""

    folder: Path
    port: int = 0
    url: str = ""
    process: subprocess.Popen[str] | None = None

    def start(self) -> subprocess.Popen[str]:
        (self.folder / "tmp").mkdir(exist_ok=True)
        command = [sys.executable, "-m", "cupel.cli", "serve", "--port", str(self.port)]
        self.process = server = subprocess.Popen(
            [*command, "--data-dir", str(self.folder / "data")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(self.folder / "tmp")},
            start_new_session=True,
        )
        assert server.stdout
        assert server.stderr
        line = server.stdout.readline()
        assert "ready on" in line, server.stderr.read()
        self.url = line.split("ready on ")[1].split()[0]
        self.port = int(self.url.rpartition(":")[2])
        return server

    def kill(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path)
    served.start()
    yield served
    served.kill()


def _cgroups_of(pid: int) -> list[str]:
    return [str(path) for path in Path("/sys/fs/cgroup").rglob(f"cupel-{pid}-*")]


def _is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _mounts_of(folder: Path) -> list[str]:
    """Mounts of ours; other programs of this host may come and go with theirs."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return [mount for mount in mounts if str(folder) in mount or "cupel" in mount]


def _wait_until_gone(pid: int, processes: Iterable[psutil.Process], marker: str) -> list[str]:
    """What is still there after the grace period; empty as soon as nothing is."""
    deadline = time.monotonic() + GONE_WITHIN_S
    while True:
        left = [f"cgroup {path}" for path in _cgroups_of(pid)]
        left += [f"process {process.pid}" for process in processes if _is_alive(process)]
        left += [
            f"program {process.pid}"
            for process in psutil.process_iter(["cmdline"])
            if marker in " ".join(process.info["cmdline"] or [])
        ]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.02)


def test_kill_dash_nine_in_mid_run_leaves_no_process_mount_cgroup_or_file(
    served: Served, tmp_path: Path
) -> None:
    server, url = served.process, served.url
    assert server is not None
    marker = f"marker-{os.getpid()}-{time.monotonic_ns()}"
    mounts_before = _mounts_of(tmp_path)
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
        with cupel.Client(url, patience_s=0) as client, contextlib.suppress(cupel.CupelError):
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

    processes = psutil.Process(server.pid).children(recursive=True)
    assert any(process.name().startswith("cupel-runner") for process in processes)

    os.kill(server.pid, signal.SIGKILL)

    assert _wait_until_gone(server.pid, processes, marker) == []
    assert _mounts_of(tmp_path) == mounts_before
    assert list((tmp_path / "tmp").iterdir()) == []
    asking.join()
    server.wait()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_kill_dash_nine_with_500_submissions_waiting_loses_none(served: Served) -> None:
    problem = Problem(
        limits=Limits(cpu_s=10), tests=(Testcase(name="only", input="20 22", output="42"),)
    )
    submissions = [
        Submission(
            id=f"s{number}",
            problem=problem,
            language="python",
            source=f"print(sum(map(int, input().split())))  # {number}",
        )
        for number in range(500)
    ]
    judged: list[cupel.Judgement] = []
    some_are_judged = threading.Event()

    def ask() -> None:
        with cupel.Client(served.url) as client:
            # All of them at one time: four requests of 125.
            for each in client.judge_many(submissions, batch_size=125, concurrency=4):
                judged.append(each.judgement)
                if len(judged) == 20:
                    some_are_judged.set()

    asking = threading.Thread(target=ask)
    asking.start()
    assert some_are_judged.wait(60)
    served.kill()
    before = {each.id: each for each in judged}
    assert len(before) < 500
    served.start()
    asking.join(240)

    assert not asking.is_alive()
    assert Counter(each.id for each in judged) == {each.id: 1 for each in submissions}
    assert {each.verdict for each in judged} == {cupel.Verdict.AC}
    # What had been reported before the kill is what is on record, measured times and all.
    kept = _kept_judgements(served.folder / "data" / "queue.sqlite3")
    assert len(kept) == 500
    assert {name: kept[name] for name in before} == before


def _kept_judgements(path: Path) -> dict[str, cupel.Judgement]:
    """What the service keeps for whoever shows a key again."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        assert connection.execute("SELECT count(*) FROM ticket").fetchone() == (0,)
        rows = connection.execute("SELECT body FROM judgement").fetchall()
    kept = [cupel.Judgement.model_validate_json(body) for (body,) in rows]
    return {each.id: each for each in kept}
