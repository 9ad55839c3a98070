"""No frame, however malformed, makes the runner read out of bounds, hang, or answer nonsense."""

from __future__ import annotations

import itertools
import select
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cupel_sandbox.box import Run, RunLimits
from cupel_sandbox.build import build_runner, runner_sources
from cupel_sandbox.cgroup import CgroupTree, open_cgroups
from cupel_sandbox.errors import CannotStart
from cupel_sandbox.protocol import (
    HEADER,
    Reply,
    Request,
    encode_frame,
    encode_get,
    encode_put,
    encode_run,
)

TRUE = Run(("/bin/true",), limits=RunLimits(cpu_s=0.1, wall_s=0.2))
LAST = 0xFFFF_FFFE  # the number of a request that is in order


def field(tag: int, value: bytes, size: int | None = None) -> bytes:
    return struct.pack("<BI", tag, len(value) if size is None else size) + value


def number(tag: int, value: int) -> bytes:
    return field(tag, struct.pack("<Q", value))


FIELDS = st.builds(
    field,
    st.integers(0, 30) | st.integers(0, 255),
    st.binary(max_size=30) | st.binary(min_size=8, max_size=8),
    st.none() | st.none() | st.integers(0, 2**32 - 1),
)
NUMBERS = st.builds(
    number,
    st.integers(16, 23),  # all but times: a run must end soon
    st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**31, 2**32, 2**63 - 1, 2**63]),
)
PAYLOADS = st.one_of(
    st.binary(max_size=60),
    st.lists(FIELDS, max_size=8).map(b"".join),
    # A run that would be fine but for some of its numbers: the last of each counts.
    st.lists(NUMBERS, max_size=3).map(lambda changes: encode_run(TRUE) + b"".join(changes)),
    st.just(encode_put("a/b", b"1", executable=True)),
    st.just(encode_get("a/b", 2**64 - 1)),
)
FRAMES = st.builds(
    lambda kind, number, payload: HEADER.pack(len(payload) + 5, kind, number) + payload,
    st.sampled_from([*Request, *Request, 0, 6, 255]),
    st.integers(1, 5) | st.integers(0, LAST - 1),
    PAYLOADS,
)
STREAMS = st.lists(FRAMES, max_size=6).map(b"".join)
fuzzed = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


# ---- decoding alone, with sanitizers


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runner's own reading and decoding of frames, compiled with sanitizers."""
    output = tmp_path_factory.mktemp("decoder") / "decoder"
    sources = [runner_sources() / name for name in ("protocol.c", "request.c")]
    flags = ["-std=c17", "-D_GNU_SOURCE", "-g", "-fsanitize=address,undefined"]
    command = ["gcc", *flags, "-fno-sanitize-recover=all", f"-I{runner_sources()}"]
    driver = Path(__file__).with_name("decode_frames.c")
    done = subprocess.run(
        [*command, "-o", output, driver, *sources], capture_output=True, text=True, check=False
    )
    if "cannot find" in done.stderr:
        pytest.skip("the compiler has no sanitizers (apt install libasan8 libubsan1)")
    assert done.returncode == 0, done.stderr
    return output


def decode(decoder: Path, stream: bytes) -> tuple[int, bytes, bytes]:
    done = subprocess.run([decoder], input=stream, capture_output=True, check=False, timeout=30)
    return done.returncode, done.stdout, done.stderr


@fuzzed
@given(st.lists(FRAMES, max_size=6))
def test_decoding_stays_inside_the_frame(decoder: Path, frames: list[bytes]) -> None:
    assert decode(decoder, b"".join(frames)) == (0, b"%d" % len(frames), b"")


@fuzzed
@given(STREAMS, st.binary(max_size=60))
def test_what_is_no_frame_at_all_is_waited_out_or_ends_the_box(
    decoder: Path, stream: bytes, rest: bytes
) -> None:
    code, _, errors = decode(decoder, stream + rest)
    assert code in {0, 70}
    assert errors == b""


# ---- a real box


@dataclass(frozen=True)
class RawBoxes:
    """Starts runners without the client that speaks to them correctly."""

    tree: CgroupTree
    numbers: Iterator[int]

    @contextmanager
    def started(self) -> Iterator[subprocess.Popen[bytes]]:
        """A runner with its pipes; killed at the end."""
        number = next(self.numbers)
        options = ["scratch-bytes=67108864", *self.tree.make_box(number)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            [str(build_runner()), "box", *options], stdin=pipe, stdout=pipe, stderr=pipe, env={}
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()
            self.tree.remove_box(number)


@pytest.fixture(scope="module")
def raw_boxes() -> Iterator[RawBoxes]:
    try:
        tree = open_cgroups()
    except CannotStart as cannot:
        pytest.skip(str(cannot))
    boxes = RawBoxes(tree, itertools.count())
    with boxes.started() as process:
        process.communicate(b"", timeout=30)
    if process.returncode:
        tree.close()
        pytest.skip("this host gives no native boxes; the contract suite says why")
    yield boxes
    tree.close()


def answers(process: subprocess.Popen[bytes], stream: bytes) -> list[tuple[int, int]]:
    """Types and numbers of what comes back, until LAST is answered or the box has died."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(stream)
    process.stdin.flush()
    kinds: list[tuple[int, int]] = []
    buffer = b""
    deadline = time.monotonic() + 30
    while not kinds or kinds[-1][1] != LAST:
        ready, _, _ = select.select([process.stdout], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"the box hangs after {kinds}"
        got = process.stdout.read1(1 << 20)  # type: ignore[attr-defined]  # it is buffered
        if not got:
            break
        buffer += got
        while len(buffer) >= HEADER.size:
            size, kind, number = HEADER.unpack_from(buffer)
            if len(buffer) < 4 + size:
                break
            kinds.append((kind, number))
            buffer = buffer[4 + size :]
    return kinds


@fuzzed
@given(STREAMS)
def test_a_box_answers_or_dies_but_never_hangs(raw_boxes: RawBoxes, stream: bytes) -> None:
    last = encode_frame(Request.PUT, LAST, encode_put("last", b"1", executable=False))
    with raw_boxes.started() as process:
        kinds = answers(process, stream + last)
        assert kinds[0] == (Reply.HELLO, 0)
        assert {kind for kind, _ in kinds} <= set(Reply)
        if kinds[-1] != (Reply.DONE, LAST):
            _, errors = process.communicate(timeout=30)
            assert (process.returncode, bool(errors)) == (70, True), kinds  # not without a word


def test_a_malformed_request_is_refused_and_the_next_one_served(raw_boxes: RawBoxes) -> None:
    bad = [
        field(10, b"cut off", size=1000),
        field(200, b"unknown"),
        b"\1",
        field(14, b"short"),
        field(10, b"a\0b"),
        field(10, b"word") * 600,
        b"",
        encode_run(TRUE) + number(17, 0),
    ]
    requests = [encode_frame(Request.RUN, 1, payload) for payload in bad]
    good = encode_frame(Request.RUN, LAST, encode_run(TRUE))
    with raw_boxes.started() as process:
        kinds = [kind for kind, _ in answers(process, b"".join(requests) + good)]
    assert kinds == [Reply.HELLO, *[Reply.REFUSED] * len(bad), Reply.OUTCOME]


@pytest.mark.parametrize("size", [0, 4, 2**31, 2**32 - 1])
def test_a_frame_of_an_impossible_size_ends_the_box(raw_boxes: RawBoxes, size: int) -> None:
    with raw_boxes.started() as process:
        assert answers(process, struct.pack("<IBI", size, 3, 1)) == [(Reply.HELLO, 0)]
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 70
    assert b"a frame of" in errors


def test_the_end_of_its_input_ends_a_box_in_mid_frame(raw_boxes: RawBoxes) -> None:
    with raw_boxes.started() as process:
        process.communicate(encode_frame(Request.PUT, 1, bytes(1000))[:500], timeout=30)
    assert process.returncode == 0
