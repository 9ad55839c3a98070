"""Nothing that a program starts survives its run, and no process of its own reaches any other."""

from __future__ import annotations

import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from box_stage import LIMITS, QUICK, Stage
from cupel_sandbox.box import SUBMISSION, Limit, Run
from cupel_sandbox.pool import Host

HEADERS = """
    #include <fcntl.h>
    #include <linux/sched.h>
    #include <pthread.h>
    #include <sched.h>
    #include <signal.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/ptrace.h>
    #include <sys/resource.h>
    #include <sys/syscall.h>
    #include <sys/wait.h>
    #include <unistd.h>
    static void ignore_all(void) { for (int i = 1; i < 65; i++) signal(i, SIG_IGN); }
    static void *forever(void *nothing) { for (;;) pause(); }
"""

SURVIVORS = {
    "child": "if (!fork()) forever(0);",
    "daemon": 'if (!fork()) { setsid(); if (!fork()) { ignore_all(); chdir("/");'
    " close(0); close(1); close(2); forever(0); } _exit(0); } wait(0);",
    "child that holds stdout": "if (!fork()) { setsid(); forever(0); }",
    "stopped child": "if (!fork()) { setsid(); raise(SIGSTOP); forever(0); } usleep(20000);",
    "spinning child": "if (!fork()) { setsid(); ignore_all(); for (;;) ; }",
    "vfork'ed child": 'if (!vfork()) { execl("/bin/sleep", "sleep", "1000", (void *)0); }',
    "sibling": "if (!syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0)) { ignore_all();"
    " forever(0); }",
    "silent sibling": "if (!syscall(SYS_clone, CLONE_PARENT, 0, 0, 0, 0)) { forever(0); }",
    "child without a signal": "if (!syscall(SYS_clone, 0, 0, 0, 0, 0)) { forever(0); }",
    "thread": "pthread_t t; pthread_create(&t, 0, forever, 0);",
    "threads after their leader": "pthread_t t; if (!fork()) { pthread_create(&t, 0, forever, 0);"
    " pthread_exit(0); }",
    "traced child": "if (!fork()) { ptrace(PTRACE_TRACEME, 0, 0, 0); raise(SIGSTOP); forever(0); }"
    " usleep(20000);",
    "zombies": "for (int i = 0; i < 20; i++) if (!fork()) _exit(0); usleep(20000);",
    "chain of forks": "for (;;) { if (fork()) _exit(0); setsid();"
    " if (getpid() > 400) forever(0); }",
    "program of another name": 'if (!fork()) { setsid(); execl("/bin/sleep", "[kthreadd]",'
    ' "1000", (void *)0); }',
}

LOOK = """
    import os
    pids = {int(pid) for pid in os.listdir("/proc") if pid.isdigit()}
    print(*(pids - {1, os.getpid()}))
"""


@pytest.mark.parametrize("code", SURVIVORS.values(), ids=SURVIVORS.keys())
def test_no_process_survives_its_run(stage: Stage, code: str) -> None:
    outcome = stage.c(f"{HEADERS} int main(void) {{ {code} _exit(7); }}", limits=QUICK)
    # A chain of forks ends with its first link; all others go on to the end.
    assert outcome.exit_code in {7, 0}
    assert stage.prints(LOOK) == ""


def test_programs_that_fork_while_they_are_killed_are_killed(stage: Stage) -> None:
    code = f"{HEADERS} int main(void) {{ ignore_all(); for (;;) if (fork() > 0) _exit(0); }}"
    bomb = f"{HEADERS} int main(void) {{ ignore_all(); for (;;) fork(); }}"
    for source in (code, bomb):
        for outcome in stage.box.run([stage.prepare(source, limits=QUICK)] * 2):
            assert outcome.limit in {Limit.CPU, Limit.PROCESSES} or outcome.exit_code == 0
        assert stage.prints(LOOK) == ""


def test_exhausted_process_numbers_do_not_stop_the_next_run(stage: Stage) -> None:
    hold = f"{HEADERS} int main(void) {{ while (fork() >= 0) ; for (;;) pause(); }}"
    stage.c(hold, limits=replace(QUICK, wall_s=0.5, processes=64))
    assert stage.is_usable()


@pytest.mark.parametrize("target", ["1", "-1", "0"])
@pytest.mark.parametrize("signal", ["KILL", "TERM", "STOP", "CHLD", "PIPE", "SEGV"])
def test_signals_reach_nobody_but_the_program(stage: Stage, target: str, signal: str) -> None:
    outcome = stage.sh(f"kill -{signal} {target}; exit 0", limits=replace(QUICK, wall_s=0.5))
    assert outcome.limit in {None, Limit.WALL}  # kill 0 may stop the program itself
    assert stage.is_usable()


def test_another_program_cannot_be_looked_into(stage: Stage) -> None:
    outcome = stage.python(
        """
        import os
        pid = os.fork()
        if not pid:
            os.execv("/bin/sleep", ["sleep", "5"])
        for name in ("mem", "environ", "fd/0", "fd/1", "maps", "root/etc/passwd", "cwd", "exe",
                     "cmdline"):
            path = "/proc/1/" + name
            try:
                file = os.open(path, os.O_RDONLY)
                if os.read(file, 100).rstrip(b"\\0") not in (b"", b"/.cupel/runner\\0container"):
                    print("read", path)
            except OSError:
                pass
            try:
                os.close(os.open(path, os.O_WRONLY))
                print("opened to write", path)
            except OSError:
                pass
        """
    )
    assert (outcome.exit_code, outcome.stdout) == (0, b"")


CHANGE_THE_RUNNER = f"""{HEADERS}
    /* While the runner kills, does it ever count as one of our own? */
    int main(void) {{
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(0, &one);
        struct sched_param none = {{0}};
        for (int i = 0; i < 6; i++)
            if (!fork())
                for (;;) {{
                    sched_setaffinity(1, sizeof one, &one);
                    sched_setscheduler(1, SCHED_IDLE, &none);
                    setpriority(PRIO_PROCESS, 1, 19);
                }}
        usleep(30000);
        _exit(0);
    }}
"""


def test_no_race_with_the_kill_changes_the_runner_and_so_later_runs(stage: Stage) -> None:
    """One that takes on the program's user to kill it is, for that moment, the program's own."""
    look = Run(
        (
            stage.python_executable,
            *("-I", "-S", "-c"),
            "import os; print(len(os.sched_getaffinity(0)), os.sched_getscheduler(0),"
            " os.getpriority(os.PRIO_PROCESS, 0))",
        ),
        limits=LIMITS,
    )
    before = stage.only(look).stdout
    list(stage.box.run([stage.prepare(CHANGE_THE_RUNNER)] * 10))
    assert stage.only(look).stdout == before


def test_limits_cannot_be_raised(stage: Stage) -> None:
    outcome = stage.python(
        """
        import resource
        for name in ("CPU", "FSIZE", "NOFILE", "STACK", "CORE", "MEMLOCK", "SIGPENDING", "MSGQUEUE",
                     "RTPRIO"):
            limit = getattr(resource, "RLIMIT_" + name, None)
            if limit is None:
                continue
            soft, hard = resource.getrlimit(limit)
            assert soft == hard != resource.RLIM_INFINITY, name
            for wanted in ((hard + 1, hard + 1), (resource.RLIM_INFINITY,) * 2):
                try:
                    resource.setrlimit(limit, wanted)
                    print("raised", name)
                except (ValueError, OSError):
                    pass
        """
    )
    assert (outcome.exit_code, outcome.stdout) == (0, b""), outcome.stderr


def test_programs_are_first_to_go_when_memory_is_short(stage: Stage) -> None:
    assert stage.sh("cat /proc/self/oom_score_adj").stdout == b"1000\n"


def test_the_runner_survives_programs_that_die_of_memory(stage: Stage) -> None:
    hungry = f"""{HEADERS}
        int main(void) {{
            for (int i = 0; i < 4; i++) fork();
            for (;;) memset(malloc(1 << 20), 1, 1 << 20);
        }}
    """
    limits = replace(LIMITS, wall_s=2.0, memory_bytes=64 * 1024 * 1024)
    for outcome in stage.box.run([stage.prepare(hungry, limits=limits)] * 5):
        assert outcome.limit is Limit.MEMORY
    assert stage.is_usable()


def test_a_higher_priority_cannot_be_had(stage: Stage) -> None:
    outcome = stage.python(
        """
        import os
        for attempt in (lambda: os.nice(-1),
                        lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
                        lambda: os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))):
            try:
                attempt()
                print("granted")
            except OSError:
                pass
        """
    )
    assert (outcome.exit_code, outcome.stdout) == (0, b"")


def test_a_timer_set_by_one_run_does_not_fire_in_the_next(stage: Stage) -> None:
    alarm = f"""{HEADERS}
        #include <sys/time.h>
        int main(void) {{
            struct itimerval soon = {{ {{0, 10000}}, {{0, 10000}} }};
            alarm(1);
            setitimer(ITIMER_REAL, &soon, 0);
            execl("/bin/true", "true", (void *)0);
        }}
    """
    stage.c(alarm)
    outcome = stage.sh("sleep 0.1")
    assert (outcome.exit_code, outcome.signal) == (0, None)


def test_signals_ignored_by_one_run_are_not_in_the_next(stage: Stage) -> None:
    stage.c(
        f"{HEADERS} int main(void) {{ ignore_all(); sigset_t all; sigfillset(&all);"
        " sigprocmask(SIG_SETMASK, &all, 0); }"
    )
    status = stage.sh("grep -E '^Sig(Ign|Blk|Pnd)' /proc/self/status").stdout.split()
    assert set(status[1::2]) == {b"0" * 16}


def test_a_program_that_dies_while_its_file_is_replaced_leaves_the_box_usable(
    stage: Stage,
) -> None:
    stage.box.put("program", b"#!/bin/sh\nexec sleep 0.01\n", executable=True)
    list(stage.box.run([Run((f"{SUBMISSION}/program",), limits=LIMITS)] * 3))
    stage.box.put("program", b"#!/bin/sh\nexit 5\n", executable=True)
    assert stage.only(Run((f"{SUBMISSION}/program",), limits=LIMITS)).exit_code == 5


def has_resource_capability() -> bool:
    """Whether this process could keep a program from lowering its out-of-memory score again."""
    status = Path("/proc/self/status").read_text()
    return bool(int(re.findall(r"CapEff:\s*(\w+)", status)[0], 16) >> 24 & 1)


@pytest.mark.skipif(not has_resource_capability(), reason="needs CAP_SYS_RESOURCE on this host")
def test_a_program_cannot_leave_the_first_place_of_the_out_of_memory_killer(stage: Stage) -> None:
    outcome = stage.sh("echo 0 >/proc/self/oom_score_adj; cat /proc/self/oom_score_adj")
    assert outcome.stdout == b"1000\n"


def test_signals_that_the_service_ignores_are_not_ignored_in_a_run(host: Host) -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        box = host.open_box()
    finally:
        signal.signal(signal.SIGUSR1, before)
    command = ("/bin/sh", "-c", "while read -r a b; do case $a in SigIgn:) echo $b; esac; done")
    (outcome,) = box.run([Run((*command[:2], f"{command[2]} </proc/self/status"), limits=LIMITS)])
    box.close()
    assert outcome.stdout == b"0" * 16 + b"\n"
