"""What every box promises of a program that is fed and listened to while it runs."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from box_stage import LIMITS, Stage
from cupel_sandbox.box import MEBIBYTE, Limit, Run
from cupel_sandbox.errors import BoxLost, BoxRefused
from cupel_sandbox.interactive import InteractiveRun
from cupel_sandbox.runner_box import RunnerBox

PATIENCE_S = 60.0
ROOMY = replace(LIMITS, output_bytes=2**62)


@pytest.fixture
def runner_box(stage: Stage) -> RunnerBox:
    assert isinstance(stage.box, RunnerBox)
    return stage.box


def everything(run: InteractiveRun) -> bytes:
    output = bytearray()
    while piece := run.receive(PATIENCE_S):
        output += piece
    return bytes(output)


def line_of(run: InteractiveRun) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n"):
        piece = run.receive(PATIENCE_S)
        assert piece, line
        line += piece
    return bytes(line)


def test_question_and_answer_alternate(runner_box: RunnerBox, stage: Stage) -> None:
    run = runner_box.interact(
        stage.prepare_python(
            """
            import sys
            for line in sys.stdin:
                print(int(line) * 2, flush=True)
            sys.exit(7)
            """
        )
    )
    for number in range(5):
        run.send(b"%d\n" % number)
        assert line_of(run) == b"%d\n" % (2 * number)
    run.end_input()
    assert everything(run) == b""
    assert run.outcome is not None
    assert (run.outcome.exit_code, run.outcome.limit) == (7, None)
    assert (run.outcome.stdout, run.outcome.stdout_bytes) == (b"", 10)
    assert stage.is_usable()


@pytest.mark.parametrize("size", [0, 1, 5 * MEBIBYTE + 3])
def test_bytes_go_through_both_ways_at_once(runner_box: RunnerBox, stage: Stage, size: int) -> None:
    """More than every buffer on the way holds, sent before anything is received."""
    content = bytes(range(251)) * (size // 251 + 1)
    content = content[:size]
    run = runner_box.interact(Run(("/bin/cat",), limits=ROOMY))
    run.send(content)
    run.end_input()
    assert everything(run) == content
    assert run.outcome is not None
    assert run.outcome.exit_code == 0
    assert run.outcome.stdout_bytes == size
    assert stage.is_usable()


def test_a_program_that_does_not_read_can_be_cancelled(runner_box: RunnerBox, stage: Stage) -> None:
    run = runner_box.interact(Run(("/bin/sleep", "1000"), limits=replace(ROOMY, wall_s=1000.0)))
    run.send(bytes(20 * MEBIBYTE))
    with pytest.raises(TimeoutError):
        run.receive(0.2)
    with pytest.raises(BoxRefused, match="does not read"):
        run.send(bytes(60 * MEBIBYTE))
    run.cancel()
    assert run.finish() is None
    assert stage.is_usable()


def test_a_program_whose_output_nobody_takes_still_has_limits(
    runner_box: RunnerBox, stage: Stage
) -> None:
    """Our side does not read until it must be over: the runner may not wait for us."""
    waiting = threading.Event()
    program = "while True: print('x' * 1000)"
    run = runner_box.interact(stage.prepare_python(program, limits=replace(ROOMY, wall_s=0.5)))
    waiting.wait(2.0)
    outcome = run.finish()
    assert outcome is not None
    assert outcome.limit == Limit.WALL
    assert outcome.stdout_bytes < 100 * MEBIBYTE
    assert stage.is_usable()


def test_input_that_nobody_will_read_is_no_fault(runner_box: RunnerBox, stage: Stage) -> None:
    for line in ["exec <&-; sleep 0.3", "exit 0"]:
        run = runner_box.interact(Run(("/bin/sh", "-c", line), limits=ROOMY))
        run.send(bytes(5 * MEBIBYTE))
        run.end_input()
        outcome = run.finish()
        assert outcome is not None
        assert outcome.exit_code == 0
        assert stage.is_usable()


def test_limits_hold(runner_box: RunnerBox, stage: Stage) -> None:
    cases = [
        ("while True: pass", replace(ROOMY, cpu_s=0.3), Limit.CPU),
        ("import time; time.sleep(100)", replace(ROOMY, wall_s=0.3), Limit.WALL),
        ("while True: print('x' * 1000)", replace(ROOMY, output_bytes=1000), Limit.OUTPUT),
        ("b = bytearray(1 << 30)", replace(ROOMY, memory_bytes=64 * MEBIBYTE), Limit.MEMORY),
    ]
    for program, limits, limit in cases:
        outcome = runner_box.interact(stage.prepare_python(program, limits=limits)).finish()
        assert outcome is not None
        if limit == Limit.MEMORY and outcome.exit_code == 1:
            assert b"MemoryError" in outcome.stderr  # where the stack's limit bounds mappings
            continue
        assert outcome.limit == limit, (program, outcome)
        assert stage.is_usable()


def test_standard_error_is_kept_apart(runner_box: RunnerBox) -> None:
    run = runner_box.interact(Run(("/bin/sh", "-c", "echo no >&2; echo yes"), limits=ROOMY))
    assert everything(run) == b"yes\n"
    assert run.outcome is not None
    assert run.outcome.stderr == b"no\n"


def test_a_program_that_does_not_exist_is_refused(runner_box: RunnerBox, stage: Stage) -> None:
    run = runner_box.interact(Run(("/sub/missing",), limits=ROOMY))
    with pytest.raises(BoxRefused):
        run.receive(PATIENCE_S)
    assert stage.is_usable()


def test_a_lost_box_is_seen_by_both_directions(runner_box: RunnerBox) -> None:
    run = runner_box.interact(Run(("/bin/cat",), limits=ROOMY))
    run.send(b"x\n")
    assert line_of(run) == b"x\n"
    runner_box.kill()
    with pytest.raises(BoxLost):
        everything(run)
    with pytest.raises(BoxLost):
        run.send(b"x")
