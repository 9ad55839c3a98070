"""A small endpoint that speaks OpenAI's API over real HTTP, and fails on demand."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class FakeOpenAI:
    url: str = ""
    # For the next requests: a status (with its body), `cut`, `hang`, an answer's bytes, or None.
    faults: deque[int | str | bytes | tuple[int, bytes] | None] = field(default_factory=deque)
    retry_after: str | None = None
    received: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    release: threading.Event = field(default_factory=threading.Event)
    gather: threading.Barrier | None = None  # so many requests are answered together
    # What is answered to messages, drawn from a seed; by default the first one and the seed.
    script: Callable[[list[dict[str, str]], int], str] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeOpenAI

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.fake.lock:
            self.fake.received.append((self.path, headers, body))
            fault = self.fake.faults.popleft() if self.fake.faults else None
            self.fake.running += 1
            self.fake.most_running = max(self.fake.most_running, self.fake.running)
        try:
            if self.fake.gather is not None:
                self.fake.gather.wait(30)
            self._answer(body, fault)
        finally:
            with self.fake.lock:
                self.fake.running -= 1

    def _answer(self, body: dict[str, Any], fault: object) -> None:
        if fault == "hang":
            self.fake.release.wait(30)
        if fault in ("cut", "hang"):
            self.close_connection = True
        elif isinstance(fault, tuple):
            self._send(*fault)
        elif isinstance(fault, bytes):
            self._send(200, fault)
        elif isinstance(fault, int):
            self._send(fault, b'{"error": {"message": "not now"}}')
        else:
            self._send(200, json.dumps(self._completion(body)).encode())

    def _completion(self, body: dict[str, Any]) -> dict[str, Any]:
        chat = self.path.endswith("/chat/completions")
        if self.fake.script is not None:
            text = self.fake.script(body["messages"], body["seed"])
        else:
            prompt = body["messages"][0]["content"] if chat else body["prompt"]
            text = f"{prompt} from {body['seed']}"
        content = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        return {
            "choices": [{"index": 0, "finish_reason": "stop"} | content],
            "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
        }

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        if status == 429 and self.fake.retry_after is not None:
            self.send_header("retry-after", self.fake.retry_after)
        self.end_headers()
        self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        return  # a client that goes away early is part of what is tested


@contextmanager
def running_openai() -> Iterator[FakeOpenAI]:
    fake = FakeOpenAI()
    handler = type("Handler", (_Handler,), {"fake": fake})
    with _Server(("127.0.0.1", 0), handler) as server:
        fake.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield fake
        finally:
            fake.release.set()
            server.shutdown()
            thread.join()
