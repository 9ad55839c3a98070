from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from fake_boxes import python

from cupel_service.data_folder import DataFolder

COMMAND = """
import typer
from cupel_service.serve import serve
app = typer.Typer()
app.command("serve")(serve)
app()
"""
READY = re.compile(
    r"cupel: ready on (http://127\.0\.0\.1:\d+) \(slots 1, fake boxes, cgroup v2\)\n"
)


@dataclass(frozen=True)
class Served:
    process: subprocess.Popen[str]
    url: str

    def post_in_background(self, body: object) -> socket.socket:
        """Sends a request whose answer is read later."""
        host, _, port = self.url.removeprefix("http://").partition(":")
        connection = socket.create_connection((host, int(port)), timeout=60)
        content = json.dumps(body).encode()
        connection.sendall(
            b"POST /v1/judgements HTTP/1.1\r\nHost: localhost\r\nAccept: application/x-ndjson\r\n"
            + b"Content-Length: %d\r\n\r\n%b" % (len(content), content)
        )
        return connection

    def stop(self, *signals: signal.Signals) -> int:
        for each in signals:
            self.process.send_signal(each)
        return self.process.wait(timeout=60)


@contextmanager
def served(folder: Path, **variables: str) -> Iterator[Served]:
    environment = {
        **os.environ,
        "CUPEL_DATA_DIR": str(folder),
        "CUPEL_PORT": "0",
        **variables,
    }
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("serve_fake_boxes.py"))],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        ready = READY.fullmatch(line)
        assert ready, (line, process.poll())
        yield Served(process, ready[1])
    finally:
        process.kill()
        process.communicate()


def refused(folder: Path, *arguments: str, **variables: str) -> str:
    """What `cupel serve` says when it does not start, checked for its exit code and manner."""
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments],
        env={**os.environ, "CUPEL_DATA_DIR": str(folder), "CUPEL_PORT": "0", **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("cupel: cannot serve: ")
    return done.stderr


def test_it_is_ready_when_it_says_so_on_the_port_it_names(tmp_path: Path) -> None:
    with served(tmp_path) as service:
        assert httpx.get(f"{service.url}/readyz").json() == {"status": "ok", "reason": ""}
        answer = httpx.post(f"{service.url}/v1/judgements", json=python("echo"))
        assert answer.json()["judgements"][0]["verdict"] == "AC"


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_ends_it_with_success(tmp_path: Path, sig: signal.Signals) -> None:
    with served(tmp_path) as service:
        assert service.stop(sig) == 0
        DataFolder(tmp_path).close()  # let go of


def test_a_stop_in_the_middle_of_lines_breaks_them_off(tmp_path: Path) -> None:
    with served(tmp_path, CUPEL_STOP_GRACE_S="0") as service:
        body = {"submissions": [python("echo", id="done"), python("wait", id="cut")]}
        with service.post_in_background(body) as connection:
            answer = b""
            while b'"id":"done"' not in answer:
                answer += connection.recv(65536)
            assert service.stop(signal.SIGTERM) == 0
            while more := connection.recv(65536):
                answer += more
        assert b'"id":"cut"' not in answer
        assert not answer.endswith(b"0\r\n\r\n")  # the end of a whole chunked answer


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    with served(tmp_path, CUPEL_STOP_GRACE_S="3600") as service:
        body = {"submissions": [python("echo", id="done"), python("wait", id="cut")]}
        with service.post_in_background(body) as connection:
            answer = b""
            while b'"id":"done"' not in answer:
                answer += connection.recv(65536)
            service.process.send_signal(signal.SIGTERM)
            while httpx.get(f"{service.url}/readyz").status_code == 200:
                pass
            assert service.stop(signal.SIGTERM) == 0


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = refused(tmp_path, "--port", str(port))
    assert f"port {port} on 127.0.0.1 is in use" in said
    assert "--port" in said


def test_a_second_service_on_the_data_folder_is_told_of_the_first(tmp_path: Path) -> None:
    with served(tmp_path) as service:
        said = refused(tmp_path / "elsewhere", "--data-dir", str(tmp_path))
        assert f"in use by another service (process {service.process.pid})" in said
        assert "--data-dir" in said
        assert httpx.get(f"{service.url}/readyz").status_code == 200


def test_listening_beyond_loopback_without_a_key_is_refused(tmp_path: Path) -> None:
    assert "CUPEL_API_KEYS" in refused(tmp_path, "--host", "0.0.0.0")  # noqa: S104 (refused)


def test_a_bad_value_is_named(tmp_path: Path) -> None:
    assert "CUPEL_PORT: " in refused(tmp_path, "--port", "99999")
    assert "CUPEL_SLOTS: " in refused(tmp_path, CUPEL_SLOTS="two")
    assert "CUPEL_BOX: " in refused(tmp_path, "--box", "cardboard")
    assert "CUPEL_QUEUE: " in refused(tmp_path, "--queue", "http://127.0.0.1")


def test_an_address_that_is_not_ours_is_said(tmp_path: Path) -> None:
    said = refused(tmp_path, "--host", "192.0.2.1", CUPEL_API_KEYS="key")
    assert "cannot listen on 192.0.2.1" in said


def test_a_data_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be used" in refused(tmp_path, "--data-dir", str(tmp_path / "file" / "data"))
