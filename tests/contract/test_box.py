"""What every box promises of a run: how it ends, what goes in, what comes out, in which order."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Protocol

import pytest

from box_stage import LIMITS, QUICK, Stage
from cupel_sandbox.box import MEBIBYTE, Box, Limit, Outcome, Run
from cupel_sandbox.errors import BoxLost, BoxRefused


class LosableBox(Box, Protocol):
    def kill(self) -> None: ...


ENDLESS = Run(
    ("/bin/sleep", "1000"), limits=replace(LIMITS, cpu_s=1000.0, wall_s=1000.0), environment={}
)

SHOW = """
    #include <stdio.h>
    #include <unistd.h>
    extern char **environ;
    int main(int count, char **words) {
        char folder[4096];
        printf("%s%c", getcwd(folder, sizeof folder), 0);
        for (int i = 1; i < count; i++) printf("argument %s%c", words[i], 0);
        for (char **each = environ; *each; each++) printf("variable %s%c", *each, 0);
    }
"""


def echo(text: str) -> Run:
    return Run(("/bin/echo", "-n", text), limits=LIMITS)


def cat(stdin: bytes | str) -> Run:
    return Run(("/bin/cat",), stdin=stdin, limits=LIMITS)


# ---- how a run ends


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_an_exit_code_is_reported(stage: Stage, code: int) -> None:
    outcome = stage.sh(f"exit {code}")
    assert (outcome.exit_code, outcome.signal, outcome.limit) == (code, None, None)


@pytest.mark.parametrize("signal", [6, 8, 9, 11, 15])
def test_a_signal_is_reported(stage: Stage, signal: int) -> None:
    outcome = stage.sh(f"kill -{signal} $$")
    assert (outcome.exit_code, outcome.signal, outcome.limit) == (None, signal, None)


def test_a_real_crash_is_a_signal(stage: Stage) -> None:
    outcome = stage.c("int main(int n, char **w) { *(volatile int *)(n * 16L) = 1; }")
    assert (outcome.exit_code, outcome.signal, outcome.limit) == (None, 11, None)


def test_a_program_that_the_kernel_refuses_is_refused_and_the_box_lives(stage: Stage) -> None:
    for argv in [("/sub/missing",), ("/sub",), ("/etc/passwd",), ("relative",)]:
        with pytest.raises(BoxRefused):
            stage.only(Run(argv, limits=LIMITS))
        assert stage.is_usable()


def test_a_file_that_is_no_program_is_refused(stage: Stage) -> None:
    stage.box.put("text", b"not a program\n", executable=True)
    with pytest.raises(BoxRefused):
        stage.only(Run(("/sub/text",), limits=LIMITS))
    stage.box.put("plain", stage.compiler.c(SHOW))  # a program, but not executable
    with pytest.raises(BoxRefused):
        stage.only(Run(("/sub/plain",), limits=LIMITS))
    assert stage.is_usable()


def test_more_words_than_a_box_takes_are_refused(stage: Stage) -> None:
    with pytest.raises(BoxRefused):
        stage.only(Run(("/bin/echo", *(["x"] * 5000)), limits=LIMITS))
    with pytest.raises(BoxRefused):
        stage.only(Run(("/bin/echo", "x" * 1_000_000), limits=LIMITS))
    with pytest.raises(BoxRefused):
        stage.only(Run(("/bin/echo", "a\0b"), limits=LIMITS))
    assert stage.is_usable()


# ---- what goes in and comes out


@pytest.mark.parametrize(
    "stdin",
    [b"", b"\0", b"\xff\xfe\0\n\xc3(", bytes(range(256)) * 20480],
    ids=["empty", "one byte", "invalid UTF-8", "5 MB"],
)
def test_stdin_and_stdout_are_bytes(stage: Stage, stdin: bytes) -> None:
    outcome = stage.only(cat(stdin))
    assert outcome.stdout == stdin
    assert outcome.stdout_bytes == len(stdin)
    assert (outcome.exit_code, outcome.stderr, outcome.stderr_bytes) == (0, b"", 0)


def test_stderr_is_bytes_and_apart_from_stdout(stage: Stage) -> None:
    outcome = stage.sh("printf 'a\\000\\377' >&2; printf b; exit 3")
    assert (outcome.stdout, outcome.stderr) == (b"b", b"a\0\xff")
    assert (outcome.stdout_bytes, outcome.stderr_bytes) == (1, 3)
    assert outcome.exit_code == 3


@pytest.mark.parametrize("content", [b"", b"\0\xff" * 700_000])
def test_stdin_may_be_a_file_that_was_put(stage: Stage, content: bytes) -> None:
    stage.box.put("inputs/one", content)
    first, second = stage.box.run([cat("inputs/one"), cat("inputs/one")])
    assert first.stdout == second.stdout == content


def test_stdin_from_a_file_that_is_not_there_is_refused(stage: Stage) -> None:
    for path in ["missing", "../etc/passwd", "/etc/passwd"]:
        with pytest.raises(BoxRefused):
            stage.only(cat(path))
    assert stage.is_usable()


def test_input_that_nobody_reads_is_no_fault(stage: Stage) -> None:
    run = Run(("/bin/true",), stdin=b"x" * (5 * MEBIBYTE), limits=LIMITS)
    outcome = stage.only(run)
    assert (outcome.exit_code, outcome.limit) == (0, None)


def test_argv_and_environment_are_exactly_what_was_given(stage: Stage) -> None:
    run = replace(
        stage.prepare(SHOW, "", "a b", "ü\n", "--x=1"),
        environment={"A": "1", "EMPTY": "", "Ü": "="},
    )
    words = stage.only(run).stdout.decode().split("\0")[:-1]
    assert words == [
        "/work",
        *("argument ", "argument a b", "argument ü\n", "argument --x=1"),
        *("variable A=1", "variable EMPTY=", "variable Ü=="),
    ]


def test_nothing_is_inherited_and_the_working_directory_is_work(stage: Stage) -> None:
    assert stage.c(SHOW).stdout == b"/work\0"


def test_the_standard_streams_can_be_opened_by_name(stage: Stage) -> None:
    for stdin in (b"", b"given\n"):
        run = Run(
            ("/bin/sh", "-c", "read l </dev/stdin; echo $l >/dev/stdout; echo $l >/dev/stderr"),
            stdin=stdin,
            limits=LIMITS,
        )
        outcome = stage.only(run)
        assert (outcome.stdout, outcome.stderr) == ((stdin or b"\n"), (stdin or b"\n"))


# ---- many runs


def test_fifty_runs_sent_ahead_come_back_in_order(stage: Stage) -> None:
    outcomes = list(stage.box.run(echo(str(number)) for number in range(50)))
    assert [outcome.stdout for outcome in outcomes] == [b"%d" % n for n in range(50)]


def test_no_runs_give_no_outcomes(stage: Stage) -> None:
    assert list(stage.box.run([])) == []
    assert stage.is_usable()


def test_a_run_is_sent_while_the_one_before_is_going(stage: Stage) -> None:
    taken: list[int] = []

    def runs() -> Generator[Run, None, None]:
        for number in range(3):
            taken.append(number)
            yield echo(str(number))

    outcomes = stage.box.run(runs())
    next(outcomes)
    assert len(taken) >= 2
    assert [outcome.stdout for outcome in outcomes] == [b"1", b"2"]


def test_large_inputs_and_outputs_pass_each_other(stage: Stage) -> None:
    content = bytes(range(256)) * (8 * MEBIBYTE // 256)
    for outcome in stage.box.run([cat(content)] * 4):
        assert outcome.stdout == content


def closed(outcomes: object) -> contextlib.AbstractContextManager[object]:
    assert isinstance(outcomes, Generator)
    return contextlib.closing(outcomes)


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_closing_early_drops_what_is_running_and_queued(stage: Stage, taken: int) -> None:
    runs = [*(echo(str(number)) for number in range(taken)), ENDLESS, ENDLESS, ENDLESS]
    outcomes = stage.box.run(runs)
    with closed(outcomes):
        for number in range(taken):
            assert next(outcomes).stdout == b"%d" % number
        if not taken:
            outcomes = stage.box.run([])  # a generator that never began has nothing to drop
    # Were the endless run not dropped, this test would run into its time limit.
    assert stage.is_usable()


def test_a_refused_run_drops_those_behind_it(stage: Stage) -> None:
    outcomes = stage.box.run([echo("0"), Run(("/sub/missing",), limits=LIMITS), ENDLESS])
    assert next(outcomes).stdout == b"0"
    with pytest.raises(BoxRefused):
        next(outcomes)
    assert stage.is_usable()


CRASHES = {
    "exit": "int main(void) { return 1; }",
    "crash": "int main(void) { __builtin_trap(); }",
    "spin": "int main(void) { for (;;) ; }",
    "flood": "int main(void) { for (;;) write(1, (char[65536]){0}, 65536); }",
    "hungry": "#include <string.h>\n#include <stdlib.h>\n"
    "int main(void) { for (;;) memset(malloc(1 << 20), 1, 1 << 20); }",
    "fork bomb": "int main(void) { for (;;) fork(); }",
    "large file": 'int main(void) { int f = creat("/work/f", 0600);'
    " for (;;) write(f, (char[65536]){0}, 65536); }",
    "stopped": "#include <signal.h>\nint main(void) { raise(SIGSTOP); }",
}


@pytest.mark.parametrize("source", CRASHES.values(), ids=CRASHES.keys())
def test_a_box_is_as_new_after_every_kind_of_death(stage: Stage, source: str) -> None:
    limits = replace(
        QUICK,
        wall_s=1.5,
        memory_bytes=32 * MEBIBYTE,
        file_bytes=MEBIBYTE,
        output_bytes=MEBIBYTE,
        processes=8,
    )
    deaths = stage.box.run([stage.prepare(source, limits=limits)] * 2)
    assert all(death.exit_code != 0 or death.limit for death in deaths)
    assert stage.is_usable()
    found = stage.sh("find /work /tmp /dev/shm")
    assert found.stdout.split() == [b"/work", b"/tmp", b"/dev/shm"]


# ---- the life of a box


@pytest.mark.timeout(20)
def test_a_box_killed_in_mid_run_is_lost(box: LosableBox) -> None:
    outcomes = box.run([echo("0"), ENDLESS])
    assert next(outcomes).stdout == b"0"
    killer = threading.Thread(target=box.kill)
    killer.start()
    with pytest.raises(BoxLost):
        next(outcomes)
    killer.join()
    for use in (lambda: list(box.run([echo("1")])), lambda: box.put("a", b""), box.reset):
        with pytest.raises(BoxLost):
            use()


def test_closing_is_idempotent_and_ends_the_box(open_box: Callable[[], Box]) -> None:
    box = open_box()
    box.close()
    box.close()
    with pytest.raises(BoxLost):
        box.put("a", b"")


def test_closing_a_lost_box_never_raises(open_box: Callable[[], LosableBox]) -> None:
    box = open_box()
    box.kill()
    box.close()
    box.close()


def test_two_boxes_do_not_see_each_other(open_box: Callable[[], Box]) -> None:
    """One holds a file and a process while the other looks for both."""
    first, second = open_box(), open_box()
    first.put("secret", b"1")
    limits = replace(LIMITS, wall_s=1000.0)
    command = "touch /tmp/here /dev/shm/here; echo started; exec sleep 1000"
    held = first.run([echo("0"), Run(("/bin/sh", "-c", command), limits=limits)])
    next(held)
    look = "find /sub /tmp /dev/shm /work; set -- /proc/[0-9]*; echo $#"
    (seen,) = second.run([Run(("/bin/sh", "-c", look), limits=LIMITS)])
    assert b"secret" not in seen.stdout
    assert b"here" not in seen.stdout
    assert int(seen.stdout.split()[-1]) <= 3  # the shell, and in a container the runner
    with closed(held):
        pass


def test_runs_in_two_boxes_go_on_at_one_time(open_box: Callable[[], Box]) -> None:
    boxes = [open_box(), open_box()]
    outcomes: dict[int, list[Outcome]] = {}

    def use(number: int) -> None:
        outcomes[number] = list(boxes[number].run([echo(str(number))] * 20))

    threads = [threading.Thread(target=use, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in (0, 1):
        assert [outcome.stdout for outcome in outcomes[number]] == [b"%d" % number] * 20


def test_a_memory_baseline_is_added_to_the_limit_and_taken_off_the_peak(stage: Stage) -> None:
    touch = stage.prepare(
        """
        #include <stdlib.h>
        #include <string.h>
        int main(void) { char *p = malloc(40 << 20); memset(p, 1, 40 << 20); return p[7] - 1; }
        """,
        limits=replace(LIMITS, memory_bytes=32 * MEBIBYTE),
    )
    without, with_baseline, beyond = stage.box.run(
        [
            touch,
            replace(touch, memory_baseline_bytes=16 * MEBIBYTE),
            replace(touch, memory_baseline_bytes=100 * MEBIBYTE),
        ]
    )
    assert without.limit is Limit.MEMORY
    assert (with_baseline.exit_code, with_baseline.limit) == (0, None)
    assert abs(with_baseline.memory_bytes - 24 * MEBIBYTE) <= 3 * MEBIBYTE
    assert (beyond.exit_code, beyond.memory_bytes) == (0, 0)
