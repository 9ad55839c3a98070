"""A vLLM server over real HTTP, as far as training asks it: turns and log-probabilities."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class FakeVllm:
    url: str = ""
    tokens: tuple[int, ...] = (0,)
    finish_reason: str = "stop"
    faults: deque[int | bytes] = field(default_factory=deque)  # a status, or an answer
    gather: threading.Barrier | None = None  # so many requests are answered together
    received: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeVllm

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_GET(self) -> None:
        self._send(200, json.dumps({"data": [{"id": "tiny"}]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        fake = self.fake
        with fake.lock:
            fake.received.append(body)
            fault = fake.faults.popleft() if fake.faults else None
        if fake.gather is not None:
            fake.gather.wait(30)
        if isinstance(fault, int):
            self._send(fault, b"not now")
            return
        prompt = body["prompt"]
        choice = {
            "token_ids": list(fake.tokens),
            "logprobs": {"token_logprobs": [-0.5] * len(fake.tokens)},
            "finish_reason": fake.finish_reason,
            # Minus the token's own id, beside another token at the same place.
            "prompt_logprobs": [
                None,
                *({str(token): {"logprob": -token}, "99": {"logprob": 0}} for token in prompt[1:]),
            ],
        }
        self._send(200, fault or json.dumps({"choices": [choice]}).encode())

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def fake_vllm() -> Iterator[FakeVllm]:
    fake = FakeVllm()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"fake": fake}))
    server.daemon_threads = True
    fake.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
