"""A Redis server for tests: its own process, port and folder, and gone with the test."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

PATIENCE_S = 60.0
SERVER = shutil.which("redis-server")


def needs_redis() -> None:
    """Skips the test where there is no redis-server; in CI that is a failure."""
    if SERVER is not None:
        return
    message = "redis-server is not installed (apt install redis-server)"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@dataclass
class RedisServer:
    """A server that can be stopped, killed, frozen and started again on the same data.

    Args:
        folder: Where its append-only file is.
        port: Where it listens.
    """

    folder: Path
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self.url_of("")

    def url_of(self, user: str) -> str:
        """The address for a user made by `admit`."""
        login = f"{user}:{user}@" if user else ""
        return f"redis://{login}127.0.0.1:{self.port}/0"

    @contextmanager
    def connected(self, *, text: bool = True) -> Iterator[Redis]:
        with Redis(
            port=self.port, decode_responses=text, protocol=2, socket_timeout=5
        ) as connection:
            yield connection

    def start(self) -> None:
        assert SERVER is not None
        listening = ["--port", str(self.port), "--bind", "127.0.0.1"]
        lasting = ["--dir", str(self.folder), "--appendonly", "yes", "--save", ""]
        log = ["--logfile", str(self.folder / "redis.log")]
        self._process = subprocess.Popen([SERVER, *listening, *lasting, *log])
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                with self.connected() as connection:
                    connection.ping()
            except RedisError:
                assert self._process.poll() is None, (self.folder / "redis.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """Lets it end in order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it as kill -9 does."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """It holds its connections, and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def commands(self) -> int:
        """How many commands it has done, those within scripts too."""
        with self.connected() as connection:
            return int(connection.info("stats")["total_commands_processed"])

    def admit(self, user: str) -> str:
        """The address for a user of its own, so that `cut_off` can end just its connections."""
        with self.connected() as connection:
            connection.acl_setuser(
                user,
                enabled=True,
                passwords=[f"+{user}"],
                keys=["*"],
                channels=["*"],
                commands=["+@all"],
            )
        return self.url_of(user)

    def cut_off(self, user: str) -> None:
        """From now on a user's process can do nothing that a dead one could not."""
        with self.connected() as connection:
            connection.acl_deluser(user)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.send_signal(how)
        self._process.wait(PATIENCE_S)
        self._process = None


@contextmanager
def redis_server(folder: Path) -> Iterator[RedisServer]:
    """A running server, for one test or for many."""
    needs_redis()
    folder.mkdir(parents=True, exist_ok=True)
    server = RedisServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def remove_keys(server: RedisServer, prefix: str) -> None:
    """Removes what a test left under its prefix, in RQ's keys too."""
    with server.connected() as connection:
        waiting = [f"rq:queue:{prefix}", f"rq:queue:{prefix}:intermediate"]
        jobs = {job for name in waiting for job in connection.lrange(name, 0, -1)}
        keys = [*connection.scan_iter(f"{prefix}:*")]
        keys += [*waiting, *(f"rq:job:{job}" for job in jobs), f"rq:workers:{prefix}"]
        connection.delete(*keys)
