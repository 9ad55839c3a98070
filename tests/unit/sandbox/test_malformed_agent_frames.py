"""No frame, however malformed, makes an agent read out of bounds, hang, or talk nonsense."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cupel_sandbox.agent_protocol import (
    Action,
    Forged,
    Report,
    ReportReader,
    decode_exit,
    decode_number,
    decode_output,
    encode_action,
    encode_exec,
)
from cupel_sandbox.box import MEBIBYTE, Outcome, Run, RunLimits
from cupel_sandbox.build import build_runner, runner_sources
from cupel_sandbox.native import NativeHost
from cupel_sandbox.protocol import HEADER
from cupel_sandbox.runner_box import RunnerBox

LAST = 0xFFFF_FFFE
LIMITS = RunLimits(
    cpu_s=10.0, wall_s=60.0, memory_bytes=512 * MEBIBYTE, output_bytes=2**40, processes=64
)


def field(tag: int, value: bytes, size: int | None = None) -> bytes:
    return struct.pack("<BI", tag, len(value) if size is None else size) + value


def framed(kind: int, number: int, payload: bytes) -> bytes:
    return HEADER.pack(len(payload) + 5, kind, number) + payload


NUMBERS = st.integers(0, 4)
FIELDS = st.builds(
    field,
    st.sampled_from([1, 3, 4, 10, 11, 25]) | st.integers(0, 255),
    st.sampled_from([b"", b".", b"a/b", b"..", b"/etc", b"true", b"\0" * 8, b"\xff" * 8])
    | st.binary(max_size=20),
    st.none() | st.none() | st.integers(0, 2**32 - 1),
)
FRAMES = st.one_of(
    st.builds(
        framed,
        st.sampled_from([*Action, 0, 5, 7, 40, 255]),
        NUMBERS,
        st.lists(FIELDS, max_size=5).map(b"".join) | st.binary(max_size=40),
    ),
    st.builds(framed, st.just(Action.INPUT), NUMBERS, st.binary(max_size=300)),
    st.builds(
        encode_exec, NUMBERS, st.just(("cat",)), st.just({}), st.just("/work"), st.booleans()
    ),
    st.builds(
        encode_action,
        st.sampled_from(
            [Action.READ_FILE, Action.WRITE_FILE, Action.LIST, Action.SAVE, Action.LOAD]
        ),
        NUMBERS,
        st.sampled_from(["a", ".", "a/b", ".."]),
        st.integers(0, 300) | st.integers(0, 2**64 - 1),
    ),
)


@pytest.fixture(scope="module")
def checked_agent(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The runner's binary with sanitizers, to be used as the agent."""
    output = tmp_path_factory.mktemp("agent") / "agent"
    flags = ["-std=c17", "-D_GNU_SOURCE", "-g", "-O1", "-fsanitize=address,undefined"]
    command = ["gcc", *flags, "-fno-sanitize-recover=all", "-static-libasan", "-static-libubsan"]
    sources = sorted(map(str, runner_sources().glob("*.c")))
    done = subprocess.run(
        [*command, "-o", str(output), *sources], capture_output=True, text=True, check=False
    )
    if "cannot find" in done.stderr:
        pytest.skip("the compiler has no sanitizers (apt install libasan8 libubsan1)")
    assert done.returncode == 0, done.stderr
    return Path(output).read_bytes()


@pytest.fixture(scope="module")
def agent_box(native_host: NativeHost, checked_agent: bytes) -> Iterator[RunnerBox]:
    box = native_host.open_box()
    box.put("agent", checked_agent, executable=True)
    yield box
    box.close()


def answers(box: RunnerBox, stream: bytes) -> tuple[list[tuple[Report, int, bytes]], Outcome]:
    """What the agent says until LAST, a count, is answered or it has ended; and how it ended."""
    options = {"ASAN_OPTIONS": "detect_leaks=0"}  # it would need ptrace
    run = box.interact(Run(("/sub/agent", "agent"), limits=LIMITS, environment=options))
    reader, said = ReportReader(), list[tuple[Report, int, bytes]]()
    run.send(stream + framed(Action.COUNT, LAST, b""))
    while piece := run.receive(60.0):
        said += reader.feed(piece)
        if any(number == LAST for _, number, _ in said):
            run.end_input()
    assert run.outcome is not None
    return said, run.outcome


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(FRAMES, max_size=8))
def test_an_agent_answers_or_dies_but_never_hangs(
    agent_box: RunnerBox, frames: list[bytes]
) -> None:
    said, outcome = answers(agent_box, b"".join(frames))
    assert b"Sanitizer" not in outcome.stderr, outcome.stderr
    assert b"runtime error" not in outcome.stderr, outcome.stderr
    assert outcome.exit_code in {0, 70}
    assert outcome.exit_code == 70 or LAST in [number for _, number, _ in said]
    decoders = {
        Report.OUTPUT: decode_output,
        Report.EXIT: decode_exit,
        Report.TAKEN: decode_number,
        Report.COUNTED: decode_number,
    }
    for kind, _, payload in said:
        try:
            decoders[kind](payload)
        except Forged as forged:
            pytest.fail(f"{kind}: {forged}")


@pytest.mark.parametrize("size", [0, 4, 2**31, 2**32 - 1])
def test_a_frame_of_an_impossible_size_ends_the_agent(agent_box: RunnerBox, size: int) -> None:
    said, outcome = answers(agent_box, struct.pack("<IBI", size, Action.COUNT, 1))
    assert said == []
    assert outcome.exit_code == 70
    assert b"a frame of" in outcome.stderr


def test_an_agent_is_no_tool_for_a_host(tmp_path: Path) -> None:
    """It would empty that host's /work."""
    if Path("/sub/agent").exists():
        pytest.skip("this host has a /sub/agent")
    done = subprocess.run(
        [str(build_runner()), "agent"], input=b"", capture_output=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 70
    assert b"in a box only" in done.stderr
