"""A Redis server for a bench: its own process, port and folder, and gone with the bench."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError


@contextmanager
def redis_running() -> Iterator[str]:
    """Starts a server with an append-only file, as a cluster needs it; yields its URL."""
    server = shutil.which("redis-server")
    if server is None:
        sys.exit("redis-server is not installed (apt install redis-server)")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        place = ["--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
        durable = ["--appendonly", "yes", "--save", ""]
        process = subprocess.Popen(
            [server, *place, *durable, "--logfile", str(Path(folder) / "redis.log")]
        )
        try:
            url = f"redis://127.0.0.1:{port}/0"
            _wait_for(url)
            yield url
        finally:
            process.terminate()
            process.wait()


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            with Redis.from_url(url) as link:
                link.ping()
        except RedisError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
