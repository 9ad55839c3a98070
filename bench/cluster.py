"""What a cluster costs: one worker behind Redis against an embedded service with as many slots.

Both judge the same 300 submissions x 10 tests over HTTP, in turns, so that a machine that grows
slower slows both; the best round of each counts, since other work only ever slows. The programs are
in C and do next to nothing: they leave the least work to hide a queue in. Redis keeps its
append-only file, as it must where nothing may be lost.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from redis import Redis

from cupel import Client, Language, Limits, Problem, Stop, Submission, Testcase, Verdict
from cupel.embedded import embedded_service
from redis_running import redis_running
from report import Figure, show

SUBMISSIONS = 300
TESTS = 10
ROUNDS = 4
SLOTS = len(os.sched_getaffinity(0))
PROGRAM = r"""
#include <stdio.h>
int main(void) {
    long long sum = 0, value;
    while (scanf("%lld", &value) == 1) sum += value;
    printf("%lld\n", sum);
}
"""


class BenchError(Exception):
    """Something did not start, or did not do what it must: the figures would mean nothing."""


@contextmanager
def cupel(arguments: Sequence[str], folder: Path, queue: str) -> Iterator[str]:
    """Runs a process of the cluster; yields the line by which it said that it was ready.

    Raises:
        BenchError: It does not start.
    """
    log = folder / f"{arguments[0]}.log"
    environment = os.environ | {"CUPEL_QUEUE": queue, "CUPEL_DATA_DIR": str(folder / "data")}
    environment["CUPEL_CACHE_DIR"] = str(folder / "cache")
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "cupel.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=environment,
        ) as process,
    ):
        try:
            line = process.stdout.readline() if process.stdout is not None else ""
            if "ready" not in line:
                raise BenchError(f"{arguments[0]} did not start: {log.read_text()}")
            yield line
        finally:
            process.send_signal(signal.SIGTERM)


def problem() -> Problem:
    """The problem of every submission: a few numbers and their sum."""
    tests = tuple(
        Testcase(name=str(n), input=f"{n} {2 * n} {n * n}\n", output=f"{3 * n + n * n}\n")
        for n in range(1, TESTS + 1)
    )
    return Problem(limits=Limits(cpu_s=2.0), tests=tests)


def judge_all(client: Client, round_number: int) -> float:
    """Judges all submissions, every one with a source of its own; returns the wall time.

    Raises:
        BenchError: One was not accepted.
    """
    submissions = [
        Submission(
            id=f"{round_number}-{number}",
            problem="sum",
            language=Language.C,
            source=f"// submission {round_number} {number}\n{PROGRAM}",
            stop=Stop.NEVER,
        )
        for number in range(SUBMISSIONS)
    ]
    start = time.perf_counter()
    judgements = client.judge_all(submissions)
    wall_s = time.perf_counter() - start
    for judgement in judgements:
        if judgement.verdict is not Verdict.AC or len(judgement.tests) != TESTS:
            raise BenchError(f"{judgement.id}: {judgement.verdict} {judgement.message}")
    return wall_s


def commands(link: Redis) -> int:
    """How many commands Redis has processed, its scripts' own included."""
    return int(dict(link.info("stats"))["total_commands_processed"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object per figure and line")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cupel-bench-")))
        queue = stack.enter_context(redis_running())
        link = stack.enter_context(Redis.from_url(queue))
        ready = stack.enter_context(cupel(["serve", "--port", "0"], folder, queue))
        stack.enter_context(cupel(["worker", "--slots", str(SLOTS)], folder, queue))
        cluster = stack.enter_context(Client(ready.split("ready on ")[1].split()[0]))
        alone = stack.enter_context(
            Client(stack.enter_context(embedded_service(["--slots", str(SLOTS)])))
        )
        times: dict[Client, list[float]] = {alone: [], cluster: []}
        for client in times:
            client.problems.add("sum", problem())
            judge_all(client, 0)  # what is first read, loaded or compiled
        used = 0
        for round_number in range(1, ROUNDS + 1):
            for client, taken in times.items():
                before = commands(link)
                taken.append(judge_all(client, round_number))
                used += commands(link) - before if client is cluster else 0
    alone_s, cluster_s = (min(taken) for taken in times.values())
    figures = [
        Figure(
            "cluster_over_embedded_ratio",
            alone_s / cluster_s,
            "x",
            ROUNDS * SUBMISSIONS,
            {
                "cluster_submissions_per_s": SUBMISSIONS / cluster_s,
                "embedded_submissions_per_s": SUBMISSIONS / alone_s,
            },
        ),
        Figure(
            "redis_commands_per_submission",
            used / (ROUNDS * SUBMISSIONS),
            "commands",
            ROUNDS * SUBMISSIONS,
        ),
    ]
    title = (
        f"{SUBMISSIONS} x {TESTS} tests: one worker behind Redis against embedded, {SLOTS} slots"
    )
    show(title, figures, as_json=arguments.json)


if __name__ == "__main__":
    main()
