from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cupel
from cupel import Client, embedded_service
from cupel.cli import main

PARENT = """
import signal, sys
from cupel import embedded_service
with embedded_service() as url:
    print(url, flush=True)
    signal.pause()
"""


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Installs the fake `cupel serve` for child processes; gives the socket that it connects to."""
    dist = tmp_path / "fake_serve-1.dist-info"
    dist.mkdir()
    (dist / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-serve\nVersion: 1\n")
    (dist / "entry_points.txt").write_text("[cupel.commands]\nserve = fake_serve:serve\n")
    here = Path(__file__).parent
    package = Path(cupel.__file__).parent.parent
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{here}:{package}")
    with socket.create_server(("127.0.0.1", 0)) as watch:
        monkeypatch.setenv("FAKE_SERVE_WATCH", str(watch.getsockname()[1]))
        watch.settimeout(60)
        yield watch


def folder_and_end(watch: socket.socket) -> Path:
    """Waits until the service has ended; returns its folder."""
    connection, _ = watch.accept()
    with connection:
        connection.settimeout(60)
        said = b""
        while piece := connection.recv(1000):
            said += piece
    return Path(said.decode().strip())


def test_the_service_lives_as_long_as_the_block_and_leaves_nothing(serve: socket.socket) -> None:
    with embedded_service() as url, Client(url) as client:
        assert client.ready().status == "ok"
    assert not folder_and_end(serve).exists()


def test_an_error_inside_the_block_stops_the_service(serve: socket.socket) -> None:
    with pytest.raises(KeyboardInterrupt), embedded_service():
        raise KeyboardInterrupt
    assert not folder_and_end(serve).exists()


def test_a_service_that_does_not_start_is_quoted(serve: socket.socket) -> None:
    with (
        pytest.raises(cupel.EmbeddedServiceFailed, match=r"exit code 1 .*\s.*no cgroup here"),
        embedded_service(["--broken"]),
    ):
        pytest.fail("it did not start")


def test_a_service_that_never_gets_ready_is_stopped(serve: socket.socket) -> None:
    with (
        pytest.raises(cupel.EmbeddedServiceFailed, match="not ready after 0 s"),
        embedded_service(start_timeout_s=0),
    ):
        pytest.fail("no service is ready at once")


def test_the_service_stops_when_its_parent_is_killed(serve: socket.socket) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline().startswith(b"http://127.0.0.1:")
        parent.send_signal(signal.SIGKILL)
    assert not folder_and_end(serve).exists()


def test_judging_a_file_needs_no_server(
    serve: socket.socket, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    problem = tmp_path / "sum"
    (problem / "tests").mkdir(parents=True)
    (problem / "problem.toml").touch()
    (problem / "tests" / "a.in").touch()
    (problem / "tests" / "a.ans").touch()
    solution = tmp_path / "solution.py"
    solution.write_text("# right\n")
    with pytest.raises(SystemExit) as ended:
        main(["judge", str(solution), "--problem", str(problem)])
    assert ended.value.code == 0
    assert "AC" in capfd.readouterr().out
    assert not folder_and_end(serve).exists()
