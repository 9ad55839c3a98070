"""Servers that tests start: of vLLM, and of Cupel from the environment that can run it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from asking import ENGINE

from cupel_trainer.engine.swap import SHARED_MEMORY, WORKER_EXTENSION

READY = re.compile(r"^cupel: ready on (http://\S+)", re.MULTILINE)
CHECKOUT = Path(__file__).resolve().parents[2]


@contextmanager
def started_server(model: Path, log: Path, *options: str) -> Iterator[str]:
    """A vLLM server that takes weights through shared memory, on a port of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--worker-extension-cls", WORKER_EXTENSION]
    command += ["--weight-transfer-config", f'{{"backend": "{SHARED_MEMORY}"}}']
    for option, value in ENGINE.items():
        command.append("--" + option.replace("_", "-"))
        command += [] if value is True else [str(value)]
    command += options
    environment = os.environ | {"VLLM_SERVER_DEV_MODE": "1"}
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        while not is_healthy(url):
            assert server.poll() is None, log.read_text()[-4000:]
            time.sleep(0.2)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGKILL)  # its workers, too
        server.wait()


def is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=10).is_success
    except httpx.TransportError:
        return False


@contextmanager
def started_judge(folder: Path) -> Iterator[str]:
    """Cupel's service; it runs in another environment, since vLLM wants an older fastapi."""
    cupel = Path(os.environ.get("CUPEL_TEST_SERVICE", CHECKOUT / ".venv" / "bin" / "cupel"))
    if not cupel.is_file():
        pytest.skip(f"{cupel} is not there to judge: make venv, or name one in CUPEL_TEST_SERVICE")
    log = folder / "judge.log"
    environment = {key: os.environ[key] for key in os.environ if key != "PYTHONPATH"}
    command = [str(cupel), "serve", "--port", "0", "--data-dir", str(folder / "judge")]
    with log.open("wb") as output:
        service = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        while not (found := READY.search(log.read_text())):
            assert service.poll() is None, log.read_text()[-4000:]
            time.sleep(0.1)
        yield found[1]
    finally:
        service.terminate()
        service.wait()
