"""What the service costs: 200 submissions x 20 tests over HTTP against a bare loop on all cores.

The bare side does exactly what the service must do, and nothing else: on each core one process
takes a submission, compiles it with the same command, and spawns it 20 times, checking each output.
All sources differ, so that nothing can be compiled once for many. The ratio is tests per second of
the service over those of the bare loop. A second ratio leaves the compile time out on both sides
(the sum of the compile steps, spread over the slots or the cores): the harder one for C++.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from bare import spawn_and_wait, stdin_file
from cupel import Client, Language, Limits, Problem, Stop, Submission, Testcase, Verdict
from cupel.embedded import embedded_service
from cupel_sandbox.box import SUBMISSION
from cupel_sandbox.toolchains import find_toolchains
from cupel_service.languages import LanguageSetup, setup_languages
from report import Figure, show

SUBMISSIONS = 200
TESTS = 20
PROGRAMS = {
    # <cstdio> compiles in a tenth of the time of <iostream>: the runs weigh more, not less.
    Language.CPP: """
#include <cstdio>
int main() {
    long long sum = 0, value;
    while (std::scanf("%lld", &value) == 1) sum += value;
    std::printf("%lld\\n", sum);
}
""",
    Language.PYTHON: "import sys\nprint(sum(map(int, sys.stdin.read().split())))\n",
}
COMMENTS = {Language.CPP: "//", Language.PYTHON: "#"}


class BenchError(Exception):
    """A program did not do what it must: the figures would mean nothing."""


@dataclass(frozen=True, slots=True)
class Work:
    """What one side took for all submissions.

    Args:
        wall_s: From the first submission to the last answer.
        compile_s: The sum of all compile steps.
        lanes: How many of them could run at one time.
    """

    wall_s: float
    compile_s: float
    lanes: int

    @property
    def run_s(self) -> float:
        """Wall time without the compile steps, in seconds."""
        return self.wall_s - self.compile_s / self.lanes


def source(language: Language, number: int) -> str:
    """The program of a submission; its first line makes it differ from all others."""
    return f"{COMMENTS[language]} submission {number}\n{PROGRAMS[language]}"


def tests() -> tuple[Testcase, ...]:
    """The tests of every submission: a few numbers and their sum."""
    return tuple(
        Testcase(name=str(n), input=f"{n} {2 * n} {n * n}\n", output=f"{3 * n + n * n}\n")
        for n in range(1, TESTS + 1)
    )


def over_http(client: Client, language: Language, slots: int) -> Work:
    """Judges the submissions through the SDK.

    Raises:
        BenchError: One was not accepted.
        CupelError: The service failed.
    """
    submissions = [
        Submission(
            id=f"{language}-{number}",
            problem="sum",
            language=language,
            source=source(language, number),
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
    compile_s = sum(each.compile.wall_s for each in judgements if each.compile is not None)
    return Work(wall_s, compile_s, slots)


def bare_submission(setup: LanguageSetup, number: int) -> float:
    """Compiles one submission and runs its tests, without any sandbox.

    Returns:
        The wall time of its compile step, in seconds.

    Raises:
        BenchError: A test did not print what it must.
    """
    with tempfile.TemporaryDirectory(prefix="cupel-bare-") as folder:
        Path(folder, setup.source_name).write_text(source(setup.language, number), "utf-8")
        start = time.perf_counter()
        if setup.compile_argv is not None:
            argv = [_in_folder(part, folder) for part in setup.compile_argv]
            subprocess.run(argv, check=True, env={**setup.environment, "TMPDIR": folder})
        compile_s = time.perf_counter() - start
        run_argv = [_in_folder(part, folder) for part in setup.run_argv]
        for test in tests():
            with stdin_file(str(test.input).encode()) as stdin:
                ended = spawn_and_wait(run_argv, setup.environment, stdin)
            if ended.output.decode() != test.output:
                raise BenchError(f"test {test.name} printed {ended.output!r}")
    return compile_s


def _in_folder(part: str, folder: str) -> str:
    """Moves a path that in a box lies below /sub into a folder of the host."""
    return part.replace(SUBMISSION, folder, 1) if part.startswith(SUBMISSION) else part


def bare_loop(pool: ProcessPoolExecutor, setup: LanguageSetup, cores: int) -> Work:
    """Does the same work on all cores.

    Raises:
        BenchError: A program failed.
    """
    setup = replace(setup, environment=dict(setup.environment))  # a read-only view does not travel
    start = time.perf_counter()
    compile_s = sum(pool.map(bare_submission, [setup] * SUBMISSIONS, range(SUBMISSIONS)))
    return Work(time.perf_counter() - start, compile_s, cores)


def figures(language: Language, served: Work, bare: Work) -> Sequence[Figure]:
    """The ratios of one language: the whole work, and the runs alone where something compiles."""
    runs = SUBMISSIONS * TESTS
    whole = Figure(
        f"{language}_http_ratio",
        bare.wall_s / served.wall_s,
        "x",
        runs,
        {
            "service_tests_per_s": runs / served.wall_s,
            "bare_tests_per_s": runs / bare.wall_s,
            "service_compile_s": served.compile_s,
            "bare_compile_s": bare.compile_s,
        },
    )
    if not served.compile_s:
        return (whole,)
    run_only = Figure(
        f"{language}_http_run_only_ratio",
        bare.run_s / served.run_s,
        "x",
        runs,
        {
            "service_tests_per_s": runs / served.run_s,
            "bare_tests_per_s": runs / bare.run_s,
        },
    )
    return (whole, run_only)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object per figure and line")
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    setups = setup_languages(find_toolchains(), {}, {}, {})
    shown: list[Figure] = []
    forking = multiprocessing.get_context("fork")
    with (
        ProcessPoolExecutor(cores, mp_context=forking) as pool,
        embedded_service() as url,
        Client(url) as client,
    ):
        list(pool.map(abs, range(cores)))  # start the processes before the clock does
        client.problems.add("sum", Problem(limits=Limits(cpu_s=2.0), tests=tests()))
        slots = client.info().slots
        for language in PROGRAMS:
            bare = bare_loop(pool, setups[language], cores)
            served = over_http(client, language, slots)
            shown.extend(figures(language, served, bare))
    title = f"{SUBMISSIONS} x {TESTS} tests over HTTP ({slots} slots) against {cores} bare cores"
    show(title, shown, as_json=arguments.json)


if __name__ == "__main__":
    main()
