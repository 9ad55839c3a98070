"""The control pipes of a runner in a container, over the connection that the engine keeps to it."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import requests
from docker.errors import DockerException

from cupel_sandbox.docker_engine import Attached, Engine
from cupel_sandbox.runner_box import Death

_PIPE_BYTES = 1024 * 1024
_HEADER = struct.Struct(">BxxxI")  # before each piece of an attached stream: which one, how long
_STDERR = 2
_WORDS_BYTES_MAX = 4096
_DYING_S = 3.0
_RUNNER_DIED = 70  # the exit code of the runner's die()


class DockerChannel:
    """An attached connection: standard input as it is, output and error in labelled pieces.

    Args:
        engine: Where the container is.
        container: Its id; it has been started.
        connection: To its runner; closed with the channel.
        end: Removes the container and what was made for it; called once.
    """

    def __init__(
        self,
        engine: Engine,
        container: str,
        connection: Attached,
        end: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._container = container
        self._attached = connection
        self._connection = connection.socket
        self._end = end
        self._header = bytearray()
        self._stream = 0
        self._piece_left = 0
        self._words = bytearray()
        self._ended = False
        self._ready = select.poll()
        self._ready.register(connection.socket, select.POLLIN)
        self._closing = threading.Lock()
        self._closed = False

    def send(self, data: bytes) -> None:
        """See Channel.send."""
        try:
            self._connection.sendall(data)
        except OSError:
            self._ended = True
            raise

    def receive(self, timeout_s: float) -> bytes:
        """See Channel.receive."""
        deadline = time.monotonic() + timeout_s
        while True:
            if not self._ready.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError
            try:
                got = self._connection.recv(_PIPE_BYTES)
            except OSError:
                got = b""
            if not got:
                self._ended = True
                return b""
            output = self._take_output(memoryview(got))
            if output:
                return output

    def _take_output(self, got: memoryview) -> bytes:
        """What of it is the runner's standard output; its standard error is kept aside."""
        output = []
        while got:
            if not self._piece_left:
                missing = _HEADER.size - len(self._header)
                self._header += got[:missing]
                got = got[missing:]
                if len(self._header) == _HEADER.size:
                    self._stream, self._piece_left = _HEADER.unpack(self._header)
                    self._header.clear()
                continue
            piece, got = got[: self._piece_left], got[self._piece_left :]
            self._piece_left -= len(piece)
            if self._stream != _STDERR:
                output.append(piece)
            elif len(self._words) < _WORDS_BYTES_MAX:
                self._words += piece
        return b"".join(output)

    def death(self) -> Death:
        """See Channel.death."""
        connection_ended = self._ended
        deadline = time.monotonic() + _DYING_S
        with contextlib.suppress(OSError, TimeoutError):
            while not self._ended:
                self.receive(0.0)  # its last words may still be on their way
        try:
            state = self._state()
            # The end of the stream reaches us before the engine has noted how it came about.
            while connection_ended and state["Running"] and time.monotonic() < deadline:
                time.sleep(0.02)
                state = self._state()
        except (DockerException, requests.RequestException):
            # The engine is gone, or somebody removed the container.
            self.kill()
            return Death("the engine lost the container", by_host=True)
        self.kill()
        words = self._words.decode("utf-8", "replace").strip()
        if state["OOMKilled"]:
            return Death(words or "the container met its memory limit")
        died = state["ExitCode"] == _RUNNER_DIED and not state["Running"]
        silent = not connection_ended  # it did not answer, though all was well with the engine
        return Death(words, by_host=not (died or silent))

    def _state(self) -> Mapping[str, Any]:  # the API's JSON
        state: Mapping[str, Any] = self._engine.api.inspect_container(self._container)["State"]
        return state

    def kill(self) -> None:
        """See Channel.kill."""
        with contextlib.suppress(DockerException, requests.RequestException):
            self._engine.api.kill(self._container)
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """See Channel.close."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        self._attached.close()
        self._end()
