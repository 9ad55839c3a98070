"""A worker process of a cluster, with a judge that does what a submission's id says.

    python queue_worker.py URL PREFIX SLOTS LEASE_S LOG

`poison...` ends its process; `shy...` does so only while something else runs in it; `slow...` takes
30 s; all else takes 20 ms. LOG gets a line when a judging begins, and one when it has ended.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

from cupel.schema import FAILURE_CLASS, Judgement, Limits, TokensChecker, Verdict
from cupel_service.queue.consumer import Consumer
from cupel_service.queue.contract import Assignment
from cupel_service.suite import Suite

SUITE = Suite((), Limits(), TokensChecker(), (1,), "0" * 64)
JUDGE_S = 0.02
SHY_S = 0.3
SLOW_S = 30.0


def judgement_of(assignment: Assignment, verdict: Verdict = Verdict.AC) -> Judgement:
    return Judgement(
        id=assignment.submission_id,
        problem=assignment.problem_id,
        language=None,
        verdict=verdict,
        failure_class=FAILURE_CLASS[verdict],
        complete=verdict is not Verdict.JE,
        coverage=1,
        tiers=1,
        tests_per_tier=(1,),
        cpu_s=0,
        wall_s=0,
        memory_bytes=0,
    )


def judging_error(assignment: Assignment) -> Judgement:
    return judgement_of(assignment, Verdict.JE)


class Judge:
    """Judges by the id. Thread-safe.

    Args:
        log: Where each beginning and end is written down, whole, whatever is killed.
    """

    def __init__(self, log: Path) -> None:
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._lock = threading.Lock()
        self._running = 0
        self.interrupted = threading.Event()

    def __call__(self, assignment: Assignment, slot: object) -> Judgement:
        name = assignment.submission_id
        with self._lock:
            self._running += 1
        self._write("begin", name)
        self._do(name)
        self._write("end", name)
        with self._lock:
            self._running -= 1
        return judgement_of(assignment)

    def _do(self, name: str) -> None:
        if name.startswith("poison"):
            os._exit(1)
        if name.startswith("shy"):
            until = time.monotonic() + SHY_S
            while time.monotonic() < until:
                if self._running > 1:
                    os._exit(1)
                time.sleep(0.001)
        self.interrupted.wait(SLOW_S if name.startswith("slow") else JUDGE_S)

    def _write(self, what: str, name: str) -> None:
        os.write(self._log, f"{os.getpid()} {what} {name}\n".encode())


def main() -> None:
    url, prefix, slots, lease_s, log = sys.argv[1:]
    judge = Judge(Path(log))
    consumer = Consumer(
        url,
        prefix,
        [object() for _ in range(int(slots))],
        judge,
        judging_error,
        lambda digest, problem_id, inline: SUITE,
        interrupt=judge.interrupted.set,
        lease_s=float(lease_s),
        name="worker",
    )
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda signum, frame: stopping.set())
    consumer.start()
    stopping.wait()
    consumer.stop(10)


if __name__ == "__main__":
    main()
