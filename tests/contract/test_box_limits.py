"""What every box promises of limits: each holds for the whole process tree, and says its name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from box_stage import LIMITS, SLOWNESS, Stage
from cupel_sandbox.box import MEBIBYTE, Limit

SPIN = """
    #include <pthread.h>
    #include <signal.h>
    #include <stdlib.h>
    #include <sys/wait.h>
    #include <time.h>
    #include <unistd.h>
    static void *spin(void *nothing) { for (;;) ; }
    static void burn(double seconds) { /* CPU time of this process */
        struct timespec now;
        do clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
        while (now.tv_sec + now.tv_nsec / 1e9 < seconds);
    }
    int main(int count, char **words) {
        pthread_t thread;
        switch (*words[1]) {
        case 'o': for (;;) ;                                              /* one process */
        case 't': pthread_create(&thread, 0, spin, 0); spin(0);           /* threads */
        case 'w': for (;;) if (!fork()) { burn(.02); _exit(0); } else wait(0);
        case 'n': if (!fork()) spin(0); for (;;) pause();                 /* not waited for */
        case 'i': signal(SIGCHLD, SIG_IGN);                               /* never reported */
                  for (;;) if (!fork()) { burn(.02); _exit(0); } else wait(0);
        case 'd': for (;;) if (!fork()) { if (!fork()) { setsid(); burn(.02); } _exit(0); }
                  else { wait(0); usleep(20000); }                        /* daemons */
        }
    }
"""

HOARD = """
    #include <fcntl.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/mman.h>
    #include <sys/wait.h>
    #include <unistd.h>
    static void file(const char *path, size_t size) {
        static char block[1 << 20];
        int f = open(path, O_RDWR | O_CREAT, 0600);
        memset(block, 1, sizeof block);
        for (; size; size -= sizeof block)
            if (write(f, block, sizeof block) != sizeof block) _exit(9);
    }
    int main(int count, char **words) {
        size_t size = (size_t)atoi(words[2]) << 20;
        int ready[2];
        switch (*words[1]) {
        case 'm': memset(malloc(size), 1, size); break;
        case 's': memset(mmap(0, size, 3, MAP_SHARED | MAP_ANONYMOUS, -1, 0), 1, size); break;
        case 't': file("/tmp/f", size); break;
        case 'w': file("/work/f", size); break;
        case 'd': file("/dev/shm/f", size); break;
        case 'c': /* two children with half each, both alive at one time */
            pipe(ready);
            for (int i = 0; i < 2; i++)
                if (!fork()) {
                    char *half = malloc(size / 2);
                    memset(half, 1, size / 2);
                    write(ready[1], "x", 1);
                    for (;;) pause();
                }
            close(ready[1]);
            for (int i = 0; i < 2; i++) { char byte; if (read(ready[0], &byte, 1) != 1) _exit(8); }
        }
        _exit(0);
    }
"""
WAYS = {
    "malloc": "m",
    "shared mapping": "s",
    "file in /tmp": "t",
    "file in /work": "w",
    "file in /dev/shm": "d",
    "two children": "c",
}


# ---- time


@pytest.mark.parametrize("way", ["one", "threads", "waited", "not waited", "ignored", "daemons"])
def test_the_cpu_limit_holds_for_the_whole_tree(stage: Stage, way: str, sampled: bool) -> None:
    limits = replace(LIMITS, cpu_s=0.2, wall_s=5.0)
    outcome = stage.c(SPIN, way, limits=limits)
    assert (outcome.exit_code, outcome.signal) == (None, 9)
    if sampled and way == "ignored":  # what such a child used is lost with it
        assert outcome.limit in {Limit.CPU, Limit.WALL}
        return
    assert outcome.limit is Limit.CPU
    assert 0.2 <= outcome.cpu_s < (1.0 if sampled else 0.4)


def test_a_program_below_its_cpu_limit_is_left_alone(stage: Stage, sampled: bool) -> None:
    spin = "#include <time.h>\nint main(void) { while (clock() < CLOCKS_PER_SEC / 5) ; }"
    outcome = stage.c(spin, limits=replace(LIMITS, cpu_s=2.0 if sampled else 0.4))
    assert (outcome.exit_code, outcome.limit) == (0, None)


@pytest.mark.parametrize(
    "command", ["sleep 1000", "kill -STOP $$", "sleep 1000 & wait", "exec cat /dev/zero >/dev/null"]
)
def test_the_wall_limit_ends_what_uses_little_time(stage: Stage, command: str) -> None:
    outcome = stage.sh(command, limits=replace(LIMITS, cpu_s=1000.0, wall_s=0.3))
    assert (outcome.limit, outcome.exit_code, outcome.signal) == (Limit.WALL, None, 9)
    assert 0.3 <= outcome.wall_s < 5.0


def test_time_spent_waiting_is_not_cpu_time(stage: Stage, sampled: bool) -> None:
    wait_s, cpu_s = (2.0, 1.5) if sampled else (0.4, 0.3)
    outcome = stage.sh(f"sleep {wait_s}", limits=replace(LIMITS, cpu_s=cpu_s))
    assert (outcome.exit_code, outcome.limit) == (0, None)
    assert outcome.wall_s >= wait_s


# ---- memory


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_memory_beyond_the_limit_is_named_whatever_its_form(stage: Stage, way: str) -> None:
    # The kernel may end one child only, for whom the others then wait.
    limits = replace(
        LIMITS,
        wall_s=2.0 * SLOWNESS,
        memory_bytes=32 * MEBIBYTE,
        file_bytes=1024 * MEBIBYTE,
    )
    outcome = stage.c(HOARD, way, "48", limits=limits)
    assert outcome.limit is Limit.MEMORY


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_memory_within_the_limit_is_granted_whatever_its_form(
    stage: Stage, way: str, sampled: bool
) -> None:
    limits = replace(LIMITS, memory_bytes=32 * MEBIBYTE, file_bytes=1024 * MEBIBYTE)
    outcome = stage.c(HOARD, way, "20" if sampled else "28", limits=limits)
    assert (outcome.exit_code, outcome.signal, outcome.limit) == (0, None, None)


def test_memory_is_granted_in_full_again_to_every_run(stage: Stage) -> None:
    limits = replace(LIMITS, memory_bytes=32 * MEBIBYTE)
    fitting = stage.prepare(HOARD, "t", "28", limits=limits)
    beyond = stage.prepare(HOARD, "m", "40", limits=limits)
    outcomes = stage.box.run([fitting, beyond] * 5)
    assert [outcome.limit for outcome in outcomes] == [None, Limit.MEMORY] * 5


def test_addresses_without_memory_cost_nothing(stage: Stage) -> None:
    reserve = """
        #include <sys/mman.h>
        int main(void) {
            char *p = mmap(0, 8L << 30, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            p[1L << 30] = 1;
        }
    """
    outcome = stage.c(reserve, limits=replace(LIMITS, memory_bytes=16 * MEBIBYTE))
    assert (outcome.exit_code, outcome.limit) == (0, None)


def test_a_limit_too_small_for_any_program_is_a_memory_fault(stage: Stage) -> None:
    outcome = stage.c("int main(void) { }", limits=replace(LIMITS, memory_bytes=16 * 1024))
    assert outcome.limit is Limit.MEMORY
    assert stage.is_usable()


# ---- output and files


def test_a_flood_ends_at_the_output_limit_and_its_head_is_kept(stage: Stage) -> None:
    limits = replace(LIMITS, output_bytes=100_000)
    outcome = stage.sh("exec yes", limits=limits)
    assert (outcome.limit, outcome.exit_code) == (Limit.OUTPUT, None)
    assert outcome.stdout == b"y\n" * 50_000
    assert outcome.stdout_bytes > 100_000


@pytest.mark.parametrize(
    ("written", "limit"), [(99_999, None), (100_000, None), (100_001, Limit.OUTPUT)]
)
def test_output_of_exactly_the_limit_is_fine(
    stage: Stage, written: int, limit: Limit | None
) -> None:
    outcome = stage.sh(f"head -c {written} /dev/zero", limits=replace(LIMITS, output_bytes=100_000))
    assert outcome.limit is limit
    assert outcome.stdout_bytes == written
    assert len(outcome.stdout) == min(written, 100_000)


def test_output_of_children_counts(stage: Stage) -> None:
    limits = replace(LIMITS, output_bytes=100_000)
    outcome = stage.sh("(yes & yes & yes & wait)", limits=limits)
    assert outcome.limit is Limit.OUTPUT


def test_no_output_at_all_may_be_allowed(stage: Stage) -> None:
    limits = replace(LIMITS, output_bytes=0, stderr_bytes=0)
    assert stage.sh("true", limits=limits).limit is None
    outcome = stage.sh("echo x", limits=limits)
    assert (outcome.limit, outcome.stdout, outcome.stdout_bytes) == (Limit.OUTPUT, b"", 2)


def test_a_flood_on_stderr_is_cut_and_is_no_fault(stage: Stage) -> None:
    limits = replace(LIMITS, stderr_bytes=1000, output_bytes=1000)
    outcome = stage.sh("head -c 1000000 /dev/zero >&2; echo done", limits=limits)
    assert (outcome.exit_code, outcome.limit, outcome.stdout) == (0, None, b"done\n")
    assert outcome.stderr == bytes(1000)
    assert outcome.stderr_bytes == 1_000_000


def test_a_file_beyond_the_limit_is_named(stage: Stage) -> None:
    limits = replace(LIMITS, file_bytes=MEBIBYTE)
    outcome = stage.c(HOARD, "t", "2", limits=limits)
    assert (outcome.limit, outcome.signal) == (Limit.FILE_SIZE, 25)
    assert stage.c(HOARD, "t", "1", limits=limits).exit_code == 0


# ---- processes, descriptors, stack

COUNT_CHILDREN = """
    #include <errno.h>
    #include <stdio.h>
    #include <unistd.h>
    int main(void) {
        int count = 0, child;
        while ((child = fork()) > 0) count++;
        if (!child) { pause(); }
        printf("%d %d", count, errno == EAGAIN);
        fflush(stdout);
        _exit(0);
    }
"""


@pytest.mark.parametrize("processes", [1, 2, 16])
def test_no_more_processes_than_the_limit_can_be_started(stage: Stage, processes: int) -> None:
    outcome = stage.c(COUNT_CHILDREN, limits=replace(LIMITS, processes=processes))
    assert outcome.stdout == f"{processes - 1} 1".encode()
    assert (outcome.exit_code, outcome.limit) == (0, None)
    assert outcome.processes <= processes


def test_threads_count_as_processes(stage: Stage) -> None:
    outcome = stage.c(
        """
        #include <pthread.h>
        #include <stdio.h>
        #include <unistd.h>
        static void *wait_for_ever(void *nothing) { for (;;) pause(); }
        int main(void) {
            int count = 0;
            pthread_t thread;
            while (!pthread_create(&thread, 0, wait_for_ever, 0)) count++;
            printf("%d", count);
            fflush(stdout);
            _exit(0);
        }
        """,
        limits=replace(LIMITS, processes=10),
    )
    assert outcome.stdout == b"9"


def test_a_fork_bomb_ends_and_leaves_room_for_the_next_run(stage: Stage, sampled: bool) -> None:
    bomb = "#include <unistd.h>\nint main(void) { for (;;) fork(); }"
    outcome = stage.c(bomb, limits=LIMITS)
    # Failed forks are counted by cgroups alone.
    assert outcome.limit in ({Limit.PROCESSES, Limit.CPU} if sampled else {Limit.PROCESSES})
    next_one = stage.c(COUNT_CHILDREN, limits=replace(LIMITS, processes=16))
    assert next_one.stdout == b"15 1"


def test_no_more_files_can_be_open_than_the_limit(stage: Stage) -> None:
    outcome = stage.c(
        """
        #include <fcntl.h>
        #include <stdio.h>
        int main(void) {
            int count = 0;
            while (open("/dev/null", O_RDONLY) >= 0) count++;
            printf("%d", count);
        }
        """,
        limits=replace(LIMITS, open_files=20),
    )
    assert outcome.stdout == b"17"  # beside stdin, stdout and stderr


RECURSE = """
    static int down(volatile char *above, int depth) {
        volatile char frame[1024];
        frame[0] = *above;
        return depth ? down(frame, depth - 1) + frame[0] : 0;
    }
    int main(void) { volatile char zero = 0; return down(&zero, 64 * 1024); } /* 64 MiB and more */
"""


def test_the_stack_may_grow_to_the_memory_limit(stage: Stage) -> None:
    outcome = stage.c(RECURSE, limits=replace(LIMITS, memory_bytes=128 * MEBIBYTE))
    assert (outcome.exit_code, outcome.signal, outcome.limit) == (0, None, None)


def test_a_stack_beyond_its_own_limit_is_a_crash(stage: Stage) -> None:
    outcome = stage.c(RECURSE, limits=replace(LIMITS, stack_bytes=8 * MEBIBYTE))
    assert (outcome.exit_code, outcome.signal, outcome.limit) == (None, 11, None)


# ---- accounting


def test_cpu_time_is_what_the_program_used(stage: Stage, sampled: bool) -> None:
    spin = """
        #include <time.h>
        int main(void) {
            struct timespec now;
            do clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
            while (now.tv_sec + now.tv_nsec / 1e9 < 0.3);
        }
    """
    outcome = stage.c(spin)
    assert outcome.cpu_s == pytest.approx(0.3, abs=0.2 if sampled else 0.03)
    assert outcome.user_s + outcome.system_s == pytest.approx(outcome.cpu_s)
    assert outcome.wall_s >= 0.29


def test_cpu_time_of_children_is_counted_waited_for_or_not(stage: Stage, sampled: bool) -> None:
    burn = """
        #include <signal.h>
        #include <sys/wait.h>
        #include <time.h>
        #include <unistd.h>
        int main(int count, char **words) {
            int done[2];
            char byte;
            pipe(done);
            if (*words[1] == 'i') signal(SIGCHLD, SIG_IGN);
            for (int i = 0; i < 3; i++) if (!fork()) {
                struct timespec now;
                do clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
                while (now.tv_nsec < 100000000);
                write(done[1], "x", 1);
                if (*words[1] == 'h') for (;;) pause();
                _exit(0);
            }
            for (int i = 0; i < 3; i++) read(done[0], &byte, 1);
            if (*words[1] == 'w') while (wait(0) > 0) ;
        }
    """
    off_s = 0.035 + 0.01 * SLOWNESS  # what forks cost themselves
    if sampled:  # gVisor charges whoever is ready to run, on a busy host more than once
        off_s = 0.25
    for way in ("waited", "ignored", "held", "left"):
        assert stage.c(burn, way).cpu_s == pytest.approx(0.3, abs=off_s), way


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_memory_is_what_the_tree_touched(stage: Stage, way: str, sampled: bool) -> None:
    outcome = stage.c(HOARD, way, "50", limits=replace(LIMITS, file_bytes=1024 * MEBIBYTE))
    assert outcome.exit_code == 0
    off_bytes = outcome.memory_bytes - 50 * MEBIBYTE
    assert abs(off_bytes) <= (16 if sampled else 3) * MEBIBYTE


def test_files_that_are_only_read_are_not_memory(stage: Stage, sampled: bool) -> None:
    outcome = stage.sh("cat /usr/lib/*/lib*.so* >/dev/null; true")
    assert outcome.memory_bytes < (16 if sampled else 8) * MEBIBYTE


def test_each_run_is_accounted_alone(stage: Stage, sampled: bool) -> None:
    large = stage.prepare(HOARD, "m", "64", limits=LIMITS)
    small = stage.prepare(HOARD, "m", "1", limits=LIMITS)
    first, second = stage.box.run([large, small])
    assert first.memory_bytes > 60 * MEBIBYTE
    assert second.memory_bytes < (16 if sampled else 4) * MEBIBYTE
    assert second.cpu_s < first.cpu_s


def test_processes_are_counted(stage: Stage) -> None:
    # Where the kernel keeps no peak it is sampled, among others whenever there is output.
    outcome = stage.sh("sleep 0.2 & sleep 0.2 & sleep 0.1; echo x; wait")
    assert 3 <= outcome.processes <= 4
