"""What a box costs: one test through a box against a bare spawn of the same program.

Both sides run the same file with the same input, in turns within one run, so that noise of the
machine meets both. The programs do next to nothing (read a few numbers, print their sum): what is
measured is the start, the plumbing, the accounting and the cleaning up.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import track

from bare import spawn_and_wait, stdin_file
from cupel.schema import Language
from cupel_sandbox.box import Box, Outcome, Run
from cupel_sandbox.docker_boxes import DockerBoxConfig, DockerHost
from cupel_sandbox.errors import SandboxError
from cupel_sandbox.native import NativeBoxConfig, NativeHost
from cupel_sandbox.pool import Host
from cupel_sandbox.toolchains import find_toolchains
from cupel_service.languages import LanguageSetup, setup_languages
from report import Figure, show

SOURCES = {
    Language.CPP: """
#include <iostream>
int main() {
    long long sum = 0, value;
    while (std::cin >> value) sum += value;
    std::cout << sum << std::endl;
}
""",
    Language.PYTHON: "import sys\nprint(sum(map(int, sys.stdin.read().split())))\n",
}
INPUT = b"3 14 159 2653\n"
OUTPUT = b"2829\n"
WARM_UP = 10


class BenchError(Exception):
    """A program did not do what it must: the figures would mean nothing."""


def build(box: Box, setup: LanguageSetup) -> bytes:
    """Puts the language's program into a box.

    Args:
        box: The box.
        setup: The language.

    Returns:
        The file that is run: the binary, or the source of an interpreted language.

    Raises:
        BenchError: It does not compile.
    """
    source = SOURCES[setup.language].encode()
    box.put(setup.source_name, source)
    if setup.compile_argv is None:
        return source
    compile_run = Run(
        argv=setup.compile_argv,
        limits=setup.compile_limits,
        environment=setup.environment,
        writable_submission=True,
    )
    (outcome,) = box.run([compile_run])
    if outcome.exit_code != 0:
        raise BenchError(outcome.stderr.decode("utf-8", "replace"))
    return box.get("main", 64 * 1024 * 1024)


def measure(kind: str, box: Box, setup: LanguageSetup, folder: Path, runs: int) -> Figure:
    """Measures one language, the box and the bare spawn in turns.

    Args:
        kind: The kind of box.
        box: A box of its own.
        setup: The language.
        folder: Where the program lies for the bare spawn.
        runs: How many runs of each kind.

    Returns:
        The ratio of the medians.

    Raises:
        BenchError: A run did not print the sum.
    """
    program = folder / Path(setup.run_argv[-1]).name
    program.write_bytes(build(box, setup))
    program.chmod(0o755)
    bare_argv = (*setup.run_argv[:-1], str(program))
    run = Run(argv=setup.run_argv, stdin=INPUT, environment=setup.environment)
    box_s: list[float] = []
    bare_s: list[float] = []
    with stdin_file(INPUT) as stdin:

        def through_box() -> bytes:
            (outcome,) = box.run([run])
            return _output(outcome)

        def bare() -> bytes:
            return spawn_and_wait(bare_argv, setup.environment, stdin).output

        for _ in range(WARM_UP):
            _timed(through_box)
            _timed(bare)
        what = f"{setup.language}, {kind} box and bare in turns"
        for _ in track(range(runs), what, console=Console(stderr=True)):
            box_s.append(_timed(through_box))
            bare_s.append(_timed(bare))
    box_median_s, floor_s = statistics.median(box_s), statistics.median(bare_s)
    return Figure(
        f"{setup.language}_{kind}_ratio",
        box_median_s / floor_s,
        "x",
        runs,
        {"floor_ms": floor_s * 1000, "box_ms": box_median_s * 1000},
    )


def _output(outcome: Outcome) -> bytes:
    if outcome.exit_code != 0:
        raise BenchError(f"a run in the box failed: {outcome}")
    return outcome.stdout


def _timed(action: Callable[[], bytes]) -> float:
    start = time.perf_counter()
    output = action()
    elapsed_s = time.perf_counter() - start
    if output != OUTPUT:
        raise BenchError(f"printed {output!r} instead of {OUTPUT!r}")
    return elapsed_s


def measure_resets(kind: str, box: Box, resets: int) -> Figure:
    """How long a box takes after a submission until it is as if new, in milliseconds."""
    took_s = []
    for _ in range(resets):
        box.put("main", bytes(20_000))
        list(box.run([Run(("/bin/sh", "-c", "echo left >/tmp/left"))]))
        start = time.perf_counter()
        box.reset()
        took_s.append(time.perf_counter() - start)
    return Figure(f"{kind}_reset_ms", statistics.median(took_s) * 1000, "ms", resets, {})


def measure_starts(kind: str, host: Host, starts: int) -> Figure:
    """How long a new box takes until it can be used, in milliseconds."""
    took_s = []
    for _ in range(starts):
        start = time.perf_counter()
        box = host.open_box()
        took_s.append(time.perf_counter() - start)
        box.close()
    details = {"slowest_ms": max(took_s) * 1000}
    return Figure(f"{kind}_start_ms", statistics.median(took_s) * 1000, "ms", starts, details)


def measure_kind(kind: str, host: Host, runs: int) -> list[Figure]:
    """All figures of one kind of box.

    Raises:
        BenchError: A toolchain is missing, or a program did not do what it must.
    """
    box = host.open_box()
    try:
        setups = setup_languages(host.find_toolchains(box), {}, {}, {})
    finally:
        box.close()
    figures = []
    for language in SOURCES:
        if language not in setups:
            raise BenchError(f"no toolchain for {language}: `cupel doctor` says what to install")
        box = host.open_box()
        try:
            with tempfile.TemporaryDirectory(prefix="cupel-floor-") as folder:
                figures.append(measure(kind, box, setups[language], Path(folder), runs))
            if language is Language.CPP:
                figures.append(measure_resets(kind, box, 200))
        finally:
            box.close()
    figures.append(measure_starts(kind, host, 20))
    return figures


def open_host(kind: str, image: str) -> Host:
    """The host of one kind of box."""
    if kind == "native":
        mounts = tuple(mount for each in find_toolchains() for mount in each.mounts)
        return NativeHost(NativeBoxConfig(mounts=mounts))
    return DockerHost(DockerBoxConfig(image=image, runtime="runsc" if kind == "runsc" else None))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=400, help="runs of each kind, at least 300")
    parser.add_argument(
        "--box",
        action="append",
        choices=["native", "docker", "runsc"],
        help="kind of box, once or more often; default: native",
    )
    parser.add_argument("--image", default="cupel-sandbox", help="image of docker boxes")
    parser.add_argument("--json", action="store_true", help="one JSON object per figure and line")
    arguments = parser.parse_args()
    if arguments.runs < 300:
        parser.error("--runs must be at least 300, else the medians are noise")
    figures: list[Figure] = []
    try:
        for kind in arguments.box or ["native"]:
            host = open_host(kind, arguments.image)
            try:
                figures += measure_kind(kind, host, arguments.runs)
            finally:
                host.close()
    except (BenchError, SandboxError) as error:
        parser.error(str(error))
    show("One test in a box against a bare spawn", figures, as_json=arguments.json)


if __name__ == "__main__":
    main()
