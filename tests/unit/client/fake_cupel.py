"""A small Cupel over real HTTP: it judges by looking for words, and fails on demand."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cupel.schema import (
    FAILURE_CLASS,
    Info,
    Judgement,
    JudgementsRequest,
    JudgementsResponse,
    Limits,
    Problem,
    ProblemDetails,
    ProblemList,
    ProblemSummary,
    RewardsRequest,
    RewardsResponse,
    Submission,
    TestResult,
    Verdict,
)


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answers with an error."""

    status: int
    detail: str = ""
    errors: tuple[str, ...] = ()
    retry_after: str | None = None
    text: str | None = None  # in place of problem details


@dataclass(frozen=True, slots=True)
class CutAfter:
    """Ends the connection after so many NDJSON lines, or before any answer (0)."""

    lines: int
    torn: bytes = b""  # part of a further line


@dataclass(frozen=True, slots=True)
class EndAfter:
    """Ends the answer in good order after so many NDJSON lines."""

    lines: int


Fault = Refuse | CutAfter | EndAfter


@dataclass(frozen=True, slots=True)
class Received:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def ids(self) -> list[str]:
        return [each["id"] for each in json.loads(self.body)["submissions"]]


@dataclass
class FakeCupel:
    url: str = ""
    faults: deque[Fault] = field(default_factory=deque)
    received: list[Received] = field(default_factory=list)
    problems: dict[str, Problem] = field(default_factory=dict)
    status: str = "ok"
    running: int = 0
    most_running: int = 0
    release: threading.Event | None = None  # judging waits for it, where given
    no_puts: Refuse | None = None  # what every PUT gets, where given
    judging_errors: int = 0  # so many of the next submissions become JE, whatever they say
    lock: threading.Lock = field(default_factory=threading.Lock)


INFO = Info(
    version="1.2.3",
    box="fake",
    cgroup="v2",
    seccomp=True,
    user="ordinary",
    slots=2,
    physical_cores=2,
    queue_capacity=4096,
    toolchains=(),
)


def judgement_of(submission: Submission, verdict: Verdict | None = None) -> Judgement:
    """AC if the program says `right`, JE if it says `je`, else WA; or the verdict given."""
    text = submission.source or submission.completion or ""
    if verdict is None:
        verdict = Verdict.AC if "right" in text else Verdict.JE if "je" in text else Verdict.WA
    test = TestResult(
        name="1/a", tier=1, verdict=verdict, cpu_s=0.5, wall_s=0.6, memory_bytes=3 * 1024 * 1024
    )
    return Judgement(
        id=submission.id or "",
        problem=submission.problem if isinstance(submission.problem, str) else None,
        language=submission.language,
        verdict=verdict,
        failure_class=FAILURE_CLASS[verdict],
        complete=verdict is not Verdict.JE,
        coverage=1,
        tiers=1,
        tests_per_tier=(1,),
        cpu_s=0.5,
        wall_s=0.6,
        memory_bytes=3 * 1024 * 1024,
        tests=(test,),
        message=f"judged {text}\u2028",
    )


def rewards_of(request: RewardsRequest) -> RewardsResponse:
    """The reward is the number that the completion holds; none for `je`."""
    rewards = tuple(None if text == "je" else float(text) for text in request.completions)
    judgements = tuple(
        judgement_of(Submission(id=f"r{n}", problem="p", completion=text))
        for n, text in enumerate(request.completions)
    )
    extra = dict.fromkeys(request.extra_rewards, rewards)
    return RewardsResponse(rewards=rewards, extra_rewards=extra, judgements=judgements)


def summary_of(problem_id: str, problem: Problem) -> ProblemSummary:
    return ProblemSummary(
        id=problem_id,
        title=problem.title,
        statement=problem.statement,
        limits=Limits(),
        checker=problem.checker.type,
        tests_per_tier=(len(problem.tests),),
        digest="0123456789abcdef",
    )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeCupel

    def log_message(self, format: str, *args: object) -> None:
        return

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.fake.lock:
            self.fake.received.append(Received(self.command, self.path, headers, body))
            fault = self.fake.faults.popleft() if self.fake.faults else None
            self.fake.running += 1
            self.fake.most_running = max(self.fake.most_running, self.fake.running)
        try:
            if self.command == "PUT" and self.fake.no_puts is not None:
                self._refuse(self.fake.no_puts)
            elif isinstance(fault, Refuse):
                self._refuse(fault)
            elif fault == CutAfter(0):
                self.close_connection = True
            else:
                self._route(body, fault)
        finally:
            with self.fake.lock:
                self.fake.running -= 1

    do_GET = do_PUT = do_POST = do_DELETE = _handle  # noqa: N815 (names of http.server)

    def _route(self, body: bytes, fault: CutAfter | EndAfter | None) -> None:
        problem_id = self.path.removeprefix("/v1/problems/")
        if self.path == "/v1/judgements":
            self._judge(JudgementsRequest.model_validate_json(body), fault)
        elif self.path == "/v1/rewards":
            self._json(rewards_of(RewardsRequest.model_validate_json(body)).model_dump_json())
        elif self.path == "/v1/info":
            self._json(INFO.model_dump_json())
        elif self.path == "/readyz":
            status = 200 if self.fake.status == "ok" else 503
            self._json(json.dumps({"status": self.fake.status, "reason": "making boxes"}), status)
        elif self.path == "/v1/problems":
            known = [summary_of(*item) for item in self.fake.problems.items()]
            self._json(ProblemList(problems=tuple(known)).model_dump_json())
        elif self.command == "PUT":
            self.fake.problems[problem_id] = Problem.model_validate_json(body)
            self._json(summary_of(problem_id, self.fake.problems[problem_id]).model_dump_json())
        elif problem_id not in self.fake.problems:
            self._refuse(Refuse(404, f"no problem {problem_id!r}"))
        elif self.command == "DELETE":
            del self.fake.problems[problem_id]
            self.send_response(204)
            self.end_headers()
        else:
            self._json(summary_of(problem_id, self.fake.problems[problem_id]).model_dump_json())

    def _judge(self, request: JudgementsRequest, fault: CutAfter | EndAfter | None) -> None:
        judgements = [
            judgement_of(submission, self._judging_error()) for submission in request.submissions
        ]
        if self.headers["accept"] != "application/x-ndjson":
            self._json(JudgementsResponse(judgements=tuple(judgements)).model_dump_json())
            return
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        wanted = judgements[::-1] if fault is None else judgements[::-1][: fault.lines]
        for judgement in wanted:
            self._chunk(judgement.model_dump_json().encode() + b"\n")
            if self.fake.release is not None:
                self.fake.release.wait(30)
        if isinstance(fault, CutAfter):
            if fault.torn:
                self._chunk(fault.torn)
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")

    def _judging_error(self) -> Verdict | None:
        with self.fake.lock:
            if self.fake.judging_errors == 0:
                return None
            self.fake.judging_errors -= 1
            return Verdict.JE

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _refuse(self, fault: Refuse) -> None:
        details = ProblemDetails(
            title="Refused", status=fault.status, detail=fault.detail, errors=fault.errors
        )
        text = details.model_dump_json() if fault.text is None else fault.text
        self._json(text, fault.status, fault.retry_after)

    def _json(self, text: str, status: int = 200, retry_after: str | None = None) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        if retry_after is not None:
            self.send_header("retry-after", retry_after)
        self.end_headers()
        self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        return  # a client that goes away early is part of what is tested


@contextmanager
def running_fake() -> Iterator[FakeCupel]:
    fake = FakeCupel()
    handler = type("Handler", (_Handler,), {"fake": fake})
    with _Server(("127.0.0.1", 0), handler) as server:
        fake.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield fake
        finally:
            server.shutdown()
            thread.join()
