"""Real programs, over HTTP, through native boxes: what no fake can show."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]  # its stubs are a package of their own
import pytest

from cupel_sandbox.toolchains import find_toolchains
from cupel_service.app import create_app
from cupel_service.data_folder import DataFolder
from cupel_service.settings import Settings

LOOPBACK = "http://127.0.0.1"
COMMAND = """
import typer
from cupel_service.serve import serve
app = typer.Typer()
app.command("serve")(serve)
app()
"""
TWO_SUM: dict[str, Any] = {
    "limits": {"cpu_s": 1.0, "memory_bytes": 64 * 1024 * 1024},
    "tests": [
        {"name": "small", "input": "1 2\n", "output": "3\n", "tier": 1},
        {"name": "large", "input": "1000000 2000000\n", "output": "3000000\n", "tier": 2},
    ],
}
PROGRAMS = {
    "right-python": ("python", "print(sum(map(int, input().split())))", "AC"),
    "right-c": (
        "c",
        '#include <stdio.h>\nint main(void){long a,b;scanf("%ld %ld",&a,&b);printf("%ld\\n",a+b);}',
        "AC",
    ),
    "right-cpp": (
        "cpp",
        "#include <iostream>\nint main(){long a,b;std::cin>>a>>b;std::cout<<a+b;}",
        "AC",
    ),
    "wrong": ("python", "print(3)", "WA"),
    "crash": ("python", "raise SystemExit(1)", "RTE"),
    "endless": ("python", "while True: pass", "TLE"),
    "hungry": ("python", "x = bytearray(200 << 20)", "MLE"),
    "flood": ("python", "while True: print('x' * 100000)", "OLE"),
    "not-compiling": ("cpp", "int main( {", "CE"),
    "nul": ("python", "print(1)\0", "CE"),
}

needs_compilers = pytest.mark.skipif(
    not all(toolchain.available for toolchain in find_toolchains()),
    reason="needs a C compiler, a C++ compiler and Python",
)


@contextmanager
def native_service(folder: Path, **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "--port", "0", "--data-dir", str(folder), "--slots", "2"],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        ready = re.match(r"cupel: ready on (\S+) \(slots 2, native boxes, cgroup (v1|v2)\)", line)
        assert ready, line
        yield process, ready[1]
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with native_service(tmp_path_factory.mktemp("data")) as (_, url):
        yield url


@needs_compilers
def test_every_verdict_over_http(url: str) -> None:
    httpx.put(f"{url}/v1/problems/two-sum", json=TWO_SUM).raise_for_status()
    body = {
        "submissions": [
            {"id": name, "problem": "two-sum", "language": language, "source": source}
            for name, (language, source, _) in PROGRAMS.items()
        ]
    }
    answer = httpx.post(f"{url}/v1/judgements", json=body, timeout=120)
    got = {each["id"]: each["verdict"] for each in answer.json()["judgements"]}
    assert got == {name: verdict for name, (_, _, verdict) in PROGRAMS.items()}


@needs_compilers
def test_rewards_at_low_and_high_coverage(url: str) -> None:
    completions = [
        f"```{language}\n{source}\n```"
        for language, source in (
            PROGRAMS["right-cpp"][:2],
            PROGRAMS["wrong"][:2],
            PROGRAMS["not-compiling"][:2],
        )
    ]
    body = {
        "problems": [TWO_SUM] * 3,
        "completions": completions,
        "reward": {"coverage": 1},
        "extra_rewards": {"high": {}},
    }
    answer = httpx.post(f"{url}/v1/rewards", json=body, timeout=120).json()
    assert answer["rewards"] == [1, 1, 0]
    assert answer["extra_rewards"]["high"] == [1, 0, 0]


def test_an_empty_program_is_charged_no_memory(url: str) -> None:
    body = {
        "problem": {"tests": [{"name": "nothing", "output": ""}]},
        "language": "python",
        "source": "pass",
    }
    (judgement,) = httpx.post(f"{url}/v1/judgements", json=body, timeout=60).json()["judgements"]
    assert judgement["verdict"] == "AC"
    assert judgement["memory_bytes"] < 3 * 1024 * 1024


def test_a_quick_submission_is_answered_while_a_slow_one_runs(url: str) -> None:
    quick = PROGRAMS["right-python"][1]
    slow = f"import time\nwhile time.process_time() < 0.7: pass\n{quick}"
    body = {
        "submissions": [
            {"id": "slow", "problem": TWO_SUM, "language": "python", "source": slow},
            {"id": "quick", "problem": TWO_SUM, "language": "python", "source": quick},
        ]
    }
    headers = {"accept": "application/x-ndjson"}
    answer = httpx.post(f"{url}/v1/judgements", json=body, headers=headers, timeout=60)
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [(each["id"], each["verdict"]) for each in lines] == [("quick", "AC"), ("slow", "AC")]


def test_a_stop_interrupts_programs_and_lets_go_of_everything(tmp_path: Path) -> None:
    with native_service(tmp_path, CUPEL_STOP_GRACE_S="0") as (process, url):
        body = {
            "problem": {"limits": {"cpu_s": 300}, "tests": [{"name": "t", "output": ""}]},
            "language": "python",
            "source": "while True: pass",
        }

        began = time.monotonic()
        with ThreadPoolExecutor(1) as threads:
            request = threads.submit(httpx.post, f"{url}/v1/judgements", json=body, timeout=60)
            while not _runs_a_program(process.pid):
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            answer = request.result()
        assert answer.status_code == 503
        assert "retry-after" in answer.headers
        assert process.wait(timeout=60) == 0
        assert time.monotonic() - began < 60  # far from the program's own limit
        DataFolder(tmp_path).close()


def test_an_app_of_ones_own_has_native_boxes(tmp_path: Path) -> None:
    app = create_app(Settings(data_dir=tmp_path, slots=1))

    async def info() -> Any:
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url=LOOPBACK) as client:
                return (await client.get("/v1/info")).json()

    found = asyncio.run(info())
    assert (found["box"], found["slots"]) == ("native", 1)
    assert found["seccomp"]


def _runs_a_program(pid: int) -> bool:
    """Whether a box of a service runs a Python program."""
    for child in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.Error):  # it may end while it is looked at
            if "/sub/main.py" in child.cmdline():
                return True
    return False
