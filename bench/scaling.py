"""How a cluster's queue scales: 1 to 16 workers with a judge that sleeps for 20 ms.

Each worker is a process with one slot, as `cupel worker` is; the judge sleeps, so that 16 of them
fit on any machine and only the queue is measured. `scaling_16` is the throughput of 16 workers over
16 times that of one.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from redis import Redis

from cupel._batches import BATCH_SIZE
from cupel.schema import (
    FAILURE_CLASS,
    Judgement,
    Limits,
    Submission,
    TokensChecker,
    Verdict,
)
from cupel_service.queue.cluster import ClusterDispatcher
from cupel_service.queue.consumer import Consumer
from cupel_service.queue.contract import Admission, Assignment
from cupel_service.queue.ledger import Ledger
from cupel_service.queue.roster import live_workers
from cupel_service.suite import Suite
from redis_running import redis_running
from report import Figure, show

JUDGE_S = 0.02
LEASE_S = 5.0
WORKERS = (1, 2, 4, 8, 16)
LEAST = 600
PER_WORKER = 200
WARM_UP = 40
REQUESTS = 8

_PREFIX = "scaling"
_SUITE = Suite((), Limits(), TokensChecker(), (1,), "0" * 64)


@dataclass(frozen=True, slots=True)
class Measured:
    """One run: throughput per second, share of the slots' time spent judging, Redis commands."""

    throughput: float
    busy: float
    commands: float


def sleep_and_accept(assignment: Assignment, slot: object) -> Judgement:
    started_at = time.monotonic()
    time.sleep(JUDGE_S)
    return Judgement(
        id=assignment.submission_id,
        problem="p",
        language=None,
        verdict=Verdict.AC,
        failure_class=FAILURE_CLASS[Verdict.AC],
        complete=True,
        coverage=1,
        tiers=1,
        tests_per_tier=(1,),
        cpu_s=0,
        wall_s=time.monotonic() - started_at,
        memory_bytes=0,
    )


def fail(assignment: Assignment) -> Judgement:
    raise AssertionError(f"{assignment.submission_id} could not be judged")


def work(url: str) -> None:
    """Is a worker until standard input ends."""
    consumer = Consumer(
        url,
        _PREFIX,
        [object()],
        sleep_and_accept,
        fail,
        lambda digest, problem_id, inline: _SUITE,
        interrupt=lambda: None,
        lease_s=LEASE_S,
        name="bench",
    )
    consumer.start()
    sys.stdin.read()
    consumer.stop(5)


@contextmanager
def workers_running(url: str, count: int) -> Iterator[None]:
    command = [sys.executable, __file__, "--work", url]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(count)]
    try:
        with Redis.from_url(url, decode_responses=True, protocol=2) as link:
            while len(live_workers(Ledger(link, _PREFIX))) != count:
                time.sleep(0.1)
        yield
    finally:
        for process in processes:
            if process.stdin is not None:
                process.stdin.close()
        for process in processes:
            process.wait()


async def measure(url: str, workers: int) -> Measured:
    dispatcher = ClusterDispatcher(
        url, _PREFIX, capacity=10_000, lease_s=LEASE_S, abandoned_s=60, results_kept_s=60
    )
    await dispatcher.start()
    try:
        await _judged(dispatcher, WARM_UP * workers, "warm-up")
        await asyncio.sleep(2)  # so that the API knows its workers and their pace
        commands = _commands(url)
        count = max(LEAST, PER_WORKER * workers)
        started_at = time.monotonic()
        judgements = await _judged(dispatcher, count, "run")
        took_s = time.monotonic() - started_at
        commands = _commands(url) - commands
    finally:
        await dispatcher.stop(0)
    busy_s = sum(judgement.wall_s for judgement in judgements)
    return Measured(count / took_s, busy_s / (took_s * workers), commands / count)


async def _judged(dispatcher: ClusterDispatcher, count: int, key: str) -> list[Judgement]:
    """Sends submissions as the SDK does: a few requests at a time, each with its key."""
    submission = Submission(problem="p", completion="")
    names = [str(number) for number in range(count)]
    requests = [names[first : first + BATCH_SIZE] for first in range(0, count, BATCH_SIZE)]
    in_flight = asyncio.Semaphore(REQUESTS)

    async def answered(number: int) -> list[Judgement]:
        async with in_flight:
            assignments = [Assignment(submission, name, "p", _SUITE) for name in requests[number]]
            request = Admission(assignments, key=f"{key}-{number}-{time.time_ns()}")
            batch = await dispatcher.submit(request)
            return [finished.judgement async for bunch in batch for finished in bunch]

    answers = await asyncio.gather(*map(answered, range(len(requests))))
    found = [judgement for answer in answers for judgement in answer]
    if {judgement.id for judgement in found} != set(names) or len(found) != count:
        sys.exit(f"{count} submissions were accepted, and {len(found)} judgements came")
    return found


def _commands(url: str) -> int:
    with Redis.from_url(url) as link:
        return int(link.info("stats")["total_commands_processed"])


def _median(runs: Sequence[Measured]) -> Measured:
    return Measured(
        statistics.median(run.throughput for run in runs),
        statistics.median(run.busy for run in runs),
        statistics.median(run.commands for run in runs),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind (default 3)")
    parser.add_argument("--json", action="store_true", help="one JSON object per figure and line")
    parser.add_argument("--work", metavar="URL", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work)
        return
    found = {}
    with redis_running() as url:
        for workers in WORKERS:
            with workers_running(url, workers):
                runs = [asyncio.run(measure(url, workers)) for _ in range(arguments.rounds)]
            found[workers] = _median(runs)
    one = found[1].throughput
    figures = [
        Figure(
            f"scaling_{workers}",
            run.throughput / (workers * one),
            "x",
            arguments.rounds,
            {
                "throughput_per_s": run.throughput,
                "slots_busy_ratio": run.busy,
                "commands_per_submission": run.commands,
            },
        )
        for workers, run in found.items()
    ]
    figures.append(Figure("queue_overhead_ratio", 1 - found[1].busy, "x", arguments.rounds))
    show("scaling of a cluster's queue, with a judge of 20 ms", figures, as_json=arguments.json)


if __name__ == "__main__":
    main()
