"""Whether a box measures what a program uses: memory, CPU time, and how soon a limit bites.

Memory: programs that touch exactly 50, 100 and 200 MiB, in five ways; a reading is right within 5%
or 3 MiB. CPU time: programs that use exactly 0.5, 1 and 2 s by their own CPU clock, in four ways;
right within 3%. Limits: how long after its kill point a spinner's end is reported, and a sleeper's.
And 150 MiB under a limit of 100 MiB, fifty times: how often that is a memory limit.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.progress import track

from cupel.schema import Language
from cupel_sandbox.box import MEBIBYTE, Box, Limit, Outcome, Run, RunLimits
from cupel_sandbox.native import NativeBoxConfig, NativeHost
from cupel_sandbox.toolchains import find_toolchains
from cupel_service.baseline import measure_baselines
from cupel_service.languages import setup_languages
from report import Figure, show

C_SOURCE = r"""
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void spin(clockid_t clock, double seconds)
{
	struct timespec now;
	double begin;
	clock_gettime(clock, &now);
	begin = now.tv_sec + now.tv_nsec / 1e9;
	do
		clock_gettime(clock, &now);
	while (now.tv_sec + now.tv_nsec / 1e9 - begin < seconds);
}

static void *spin_thread(void *seconds)
{
	spin(CLOCK_THREAD_CPUTIME_ID, *(double *)seconds);
	return NULL;
}

static void touch(volatile char *at, size_t bytes)
{
	for (size_t i = 0; i < bytes; i += 4096)
		at[i] = 1;
}

int main(int count, char **words)
{
	const char *way = words[1];
	double amount = atof(words[2]);
	size_t bytes = (size_t)(amount * 1048576);
	(void)count;
	if (!strcmp(way, "malloc")) {
		touch(malloc(bytes), bytes);
	} else if (!strcmp(way, "shared")) {
		touch(mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), bytes);
	} else if (!strcmp(way, "children")) {
		for (int i = 0; i < 2; i++)
			if (!fork()) {
				touch(malloc(bytes / 2), bytes / 2);
				usleep(300000);
				_exit(0);
			}
		while (wait(NULL) > 0)
			;
	} else if (!strcmp(way, "file")) {
		int file = open("/tmp/file", O_RDWR | O_CREAT, 0600);
		static char block[1 << 20];
		for (size_t i = 0; i < bytes; i += sizeof block)
			if (write(file, block, sizeof block) != sizeof block)
				return 1;
	} else if (!strcmp(way, "process")) {
		spin(CLOCK_PROCESS_CPUTIME_ID, amount);
	} else if (!strcmp(way, "threads")) {
		pthread_t threads[2];
		double half = amount / 2;
		for (int i = 0; i < 2; i++)
			pthread_create(&threads[i], NULL, spin_thread, &half);
		for (int i = 0; i < 2; i++)
			pthread_join(threads[i], NULL);
	} else if (!strcmp(way, "waited")) {
		for (int i = 0; i < 2; i++)
			if (!fork()) {
				spin(CLOCK_PROCESS_CPUTIME_ID, amount / 2);
				_exit(0);
			}
		while (wait(NULL) > 0)
			;
	} else if (!strcmp(way, "unwaited")) {
		int ends[2];
		char byte;
		signal(SIGCHLD, SIG_IGN); /* the kernel then adds their time to nobody's */
		if (pipe(ends))
			return 1;
		for (int i = 0; i < 2; i++)
			if (!fork()) {
				close(ends[0]);
				spin(CLOCK_PROCESS_CPUTIME_ID, amount / 2);
				_exit(0);
			}
		close(ends[1]);
		while (read(ends[0], &byte, 1) > 0)
			;
	}
	return 0;
}
"""
PROGRAM = "/sub/use"
BYTEARRAY = "import sys; held = bytearray(int(sys.argv[1]) << 20)"
WIDE = RunLimits(
    cpu_s=20, wall_s=40, memory_bytes=1024 * MEBIBYTE, file_bytes=1024 * MEBIBYTE, processes=16
)


def run_one(box: Box, argv: tuple[str, ...], limits: RunLimits, baseline: int = 0) -> Outcome:
    """Runs one program and returns its outcome."""
    (outcome,) = box.run([Run(argv, limits=limits, memory_baseline_bytes=baseline)])
    return outcome


def memory_figures(box: Box, python: str, baseline: int) -> list[Figure]:
    """The worst error of each way to use memory, as a share of its allowance (1 is the bar)."""
    figures = []
    for way in ("malloc", "bytearray", "children", "shared", "file"):
        worst, shown = 0.0, {}
        for mebibytes in (50, 100, 200):
            wanted = mebibytes * MEBIBYTE
            if way == "bytearray":
                argv = (python, "-c", BYTEARRAY, str(mebibytes))
                outcome = run_one(box, argv, WIDE, baseline)
            else:
                outcome = run_one(box, (PROGRAM, way, str(mebibytes)), WIDE)
            shown[f"of_{mebibytes}_mib"] = outcome.memory_bytes / MEBIBYTE
            allowance = max(0.05 * wanted, 3 * MEBIBYTE)
            worst = max(worst, abs(outcome.memory_bytes - wanted) / allowance)
        figures.append(Figure(f"memory_{way}_error", worst, "of allowance", 3, shown))
    return figures


def cpu_figures(box: Box) -> list[Figure]:
    """The worst relative error of each way to use CPU time, in percent (3 is the bar)."""
    figures = []
    for way in ("process", "threads", "waited", "unwaited"):
        worst, shown = 0.0, {}
        for seconds in (0.5, 1.0, 2.0):
            outcome = run_one(box, (PROGRAM, way, str(seconds)), WIDE)
            shown[f"of_{seconds}_s"] = outcome.cpu_s
            worst = max(worst, 100 * abs(outcome.cpu_s - seconds) / seconds)
        figures.append(Figure(f"cpu_{way}_error", worst, "%", 3, shown))
    return figures


def limit_figures(box: Box, times: int) -> list[Figure]:
    """How late limits bite, in milliseconds, and how often 150 MiB pass under 100."""
    spinner = (PROGRAM, "process", "30")
    cpu = RunLimits(cpu_s=0.55, wall_s=20)
    late_cpu, over = [], []
    for _ in range(10):
        begin = time.perf_counter()
        outcome = run_one(box, spinner, cpu)
        # One spinner alone uses a core's whole time: its wall time is its CPU time, if it has one.
        late_cpu.append(1000 * (time.perf_counter() - begin - outcome.wall_s + over_s(outcome)))
        over.append(1000 * over_s(outcome))
    sleeper = ("/bin/sleep", "30")
    late_wall = []
    for _ in range(5):
        begin = time.perf_counter()
        run_one(box, sleeper, RunLimits(cpu_s=5, wall_s=0.5))
        late_wall.append(1000 * (time.perf_counter() - begin - 0.5))
    tight = RunLimits(cpu_s=20, wall_s=40, memory_bytes=100 * MEBIBYTE)
    met = sum(
        run_one(box, (PROGRAM, way, "150"), tight).limit is Limit.MEMORY
        for _ in track(range(times // 5), "memory limit", console=Console(stderr=True))
        for way in ("malloc", "children", "shared", "file", "malloc")
    )
    return [
        Figure("cpu_limit_late", max(late_cpu), "ms", 10, {"cpu_over_ms": max(over)}),
        Figure(
            "wall_limit_late", max(late_wall), "ms", 5, {"median_ms": statistics.median(late_wall)}
        ),
        Figure("memory_limit_met", met, f"of {times}", times),
    ]


def over_s(outcome: Outcome) -> float:
    """CPU seconds beyond the kill point of the spinner."""
    return outcome.cpu_s - 0.55


def compile_program() -> bytes:
    """The C program, compiled on the host (it is ours)."""
    with tempfile.TemporaryDirectory() as folder:
        source, binary = Path(folder, "use.c"), Path(folder, "use")
        source.write_text(C_SOURCE)
        subprocess.run(["cc", "-O1", "-pthread", "-o", binary, source], check=True)
        return binary.read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object per figure and line")
    parser.add_argument("-n", type=int, default=50, help="runs against the memory limit")
    arguments = parser.parse_args()
    toolchains = find_toolchains()
    mounts = tuple(mount for toolchain in toolchains for mount in toolchain.mounts)
    host = NativeHost(NativeBoxConfig(mounts=mounts))
    box = host.open_box()
    try:
        baselines = measure_baselines(box, setup_languages(toolchains, {}, {}, {}))
        box.put("use", compile_program(), executable=True)
        python = next(found.executable for found in toolchains if found.name == "python")
        figures = memory_figures(box, python, baselines.get(Language.PYTHON, 0))
        figures += cpu_figures(box)
        figures += limit_figures(box, arguments.n)
    finally:
        box.close()
        host.close()
    show("What a box measures", figures, as_json=arguments.json)


if __name__ == "__main__":
    main()
