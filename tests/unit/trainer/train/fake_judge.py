"""A service over real HTTP whose verdicts are a function of the text; it fails on demand.

A completion's first line decides: `print(N)` passes the tests whose output is N, `slow` is TLE,
anything else WA. Rewards are computed as the real service does.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cupel.schema import (
    FailureClass,
    Info,
    Judgement,
    Problem,
    ProblemSummary,
    RewardsRequest,
    RewardsResponse,
    TestResult,
    Verdict,
)
from cupel_service.rewards import reward


@dataclass
class FakeJudge:
    url: str = ""
    port: int = 0
    pause_s: float = 0.0
    down: threading.Event = field(default_factory=threading.Event)  # then every answer is 503
    problems: dict[str, Problem] = field(default_factory=dict)
    requests: list[RewardsRequest] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)  # JE for so many times, by completion
    faults: deque[int] = field(default_factory=deque)  # statuses of the next answers
    lock: threading.Lock = field(default_factory=threading.Lock)

    def summary(self, name: str) -> ProblemSummary:
        problem = self.problems[name]
        tiers = Counter(test.tier or 1 for test in problem.tests)
        return ProblemSummary(
            id=name,
            title=problem.title,
            statement=problem.statement,
            limits=problem.limits,
            checker="tokens",
            tests_per_tier=tuple(tiers[tier] for tier in sorted(tiers)),
            digest="0" * 64,
        )

    def judge(self, name: str, completion: str) -> Judgement:
        with self.lock:
            failing = self.errors[completion] > 0
            self.errors[completion] -= failing
        problem = self.problems[name]
        said = re.match(r"print\((\w+)\)", completion.strip())
        results = []
        for test in problem.tests:
            if failing:
                verdict = Verdict.JE
            elif completion.startswith("slow"):
                verdict = Verdict.TLE if (test.tier or 1) > 1 else Verdict.AC
            else:
                verdict = Verdict.AC if said and said[1] == test.output else Verdict.WA
            results.append(
                TestResult(
                    name=test.name,
                    tier=test.tier or 1,
                    verdict=verdict,
                    cpu_s=0.0,
                    wall_s=0.0,
                    memory_bytes=0,
                )
            )
        failed = next((each for each in results if each.verdict is not Verdict.AC), None)
        tiers = self.summary(name).tests_per_tier
        return Judgement(
            id="0",
            problem=name,
            language=None,
            verdict=failed.verdict if failed else Verdict.AC,
            failure_class=FailureClass.NONE if failed is None else FailureClass.CORRECTNESS,
            complete=not failing,
            coverage=len(tiers),
            tiers=len(tiers),
            tests_per_tier=tiers,
            first_failing_tier=failed.tier if failed else None,
            cpu_s=0.0,
            wall_s=0.0,
            memory_bytes=0,
            tests=tuple(results),
        )

    def rewards(self, request: RewardsRequest) -> RewardsResponse:
        judgements = [
            self.judge(str(name), text)
            for name, text in zip(request.problems, request.completions, strict=True)
        ]
        return RewardsResponse(
            rewards=tuple(reward(each, request.reward) for each in judgements),
            extra_rewards={
                name: tuple(reward(each, spec) for each in judgements)
                for name, spec in request.extra_rewards.items()
            },
            judgements=tuple(judgements),
        )


INFO = Info(
    version="fake",
    box="none",
    cgroup="none",
    seccomp=False,
    user="ordinary",
    slots=1,
    physical_cores=1,
    queue_capacity=1,
    toolchains=(),
)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeJudge

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_GET(self) -> None:
        self._answered(b"")

    def do_POST(self) -> None:
        self._answered(self._body())

    def do_PUT(self) -> None:
        self._answered(self._body())

    def do_DELETE(self) -> None:
        self._answered(b"")

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers["content-length"]))

    def _answered(self, body: bytes) -> None:
        fake = self.fake
        with fake.lock:
            fault = 503 if fake.down.is_set() else fake.faults.popleft() if fake.faults else 0
        name = self.path.rpartition("/")[2]
        if fault:
            self._send(fault, json.dumps({"title": "fault", "status": fault}))
        elif self.path == "/v1/info":
            self._send(200, INFO.model_dump_json())
        elif self.path == "/v1/rewards":
            request = RewardsRequest.model_validate_json(body)
            with fake.lock:
                fake.requests.append(request)
            if missing := [each for each in request.problems if each not in fake.problems]:
                self._send(404, json.dumps({"title": f"no {missing[0]}", "status": 404}))
                return
            time.sleep(fake.pause_s)
            self._send(200, fake.rewards(request).model_dump_json())
        elif self.command == "PUT":
            fake.problems[name] = Problem.model_validate_json(body)
            self._send(200, fake.summary(name).model_dump_json())
        elif self.command == "DELETE":
            fake.problems.pop(name, None)
            self._send(204, "")
        else:
            self._send(404, json.dumps({"title": "nothing", "status": 404}))

    def _send(self, status: int, text: str) -> None:
        content = text.encode()
        self.send_response(status)
        kind = "application/json" if status < 400 else "application/problem+json"
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        return  # a client that was killed


@contextmanager
def fake_judge(fake: FakeJudge | None = None) -> Iterator[FakeJudge]:
    fake = fake or FakeJudge()
    handler = type("Handler", (_Handler,), {"fake": fake})
    server = _Server(("127.0.0.1", fake.port), handler)
    fake.port = server.server_address[1]
    fake.url = f"http://127.0.0.1:{fake.port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
