"""The frames as their layout is documented, against structs built by hand."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupel_sandbox.box import Limit, Run, RunLimits
from cupel_sandbox.protocol import (
    HEADER,
    Request,
    decode_outcome,
    encode_frame,
    encode_get,
    encode_put,
    encode_run,
)

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
WORDS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=20)


def fields(payload: bytes) -> list[tuple[int, bytes]]:
    """Reads tag u8, size u32, value, again and again."""
    found = []
    while payload:
        tag, size = struct.unpack_from("<BI", payload)
        assert len(payload) >= 5 + size
        found.append((tag, payload[5 : 5 + size]))
        payload = payload[5 + size :]
    return found


@given(st.sampled_from(Request), U32, st.binary(max_size=5000))
def test_a_frame_is_its_size_type_number_and_payload(
    kind: Request, number: int, payload: bytes
) -> None:
    frame = encode_frame(kind, number, payload)
    assert HEADER.size == 9
    size, read_kind, read_number = struct.unpack_from("<IBI", frame)
    assert (size, read_kind, read_number) == (len(frame) - 4, kind, number)
    assert frame[9:] == payload


@given(WORDS, st.binary(max_size=5000), st.booleans())
def test_put_names_the_path_the_content_and_the_mode(
    path: str, content: bytes, executable: bool
) -> None:
    assert fields(encode_put(path, content, executable)) == [
        (1, path.encode()),
        (2, content),
        (3, struct.pack("<Q", executable)),
    ]


@given(WORDS, U64)
def test_get_names_the_path_and_the_largest_size(path: str, max_bytes: int) -> None:
    assert fields(encode_get(path, max_bytes)) == [
        (1, path.encode()),
        (4, struct.pack("<Q", max_bytes)),
    ]


def test_a_run_names_every_limit_in_its_unit() -> None:
    run = Run(
        argv=("/bin/a", "b"),
        stdin=b"in",
        environment={"X": "1=2"},
        limits=RunLimits(
            cpu_s=1.5,
            wall_s=0.000000001,
            memory_bytes=3,
            processes=4,
            output_bytes=5,
            stderr_bytes=6,
            file_bytes=7,
            open_files=8,
            stack_bytes=9,
        ),
        memory_baseline_bytes=10,
        writable_submission=True,
    )
    numbers = [1_500_000_000, 1, 3, 4, 5, 6, 7, 8, 9, 10, 1]
    assert fields(encode_run(run)) == [
        (10, b"/bin/a"),
        (10, b"b"),
        (11, b"X=1=2"),
        (12, b"in"),
        *((14 + index, struct.pack("<Q", number)) for index, number in enumerate(numbers)),
    ]


def test_stdin_by_path_is_another_field() -> None:
    read = dict(fields(encode_run(Run(("/a",), stdin="inputs/1"))))
    assert read[13] == b"inputs/1"
    assert 12 not in read


def test_without_a_stack_limit_the_stack_may_use_all_memory() -> None:
    read = dict(fields(encode_run(Run(("/a",), limits=RunLimits(memory_bytes=12345)))))
    assert struct.unpack("<Q", read[22]) == (12345,)


@given(st.lists(WORDS, max_size=5), st.dictionaries(WORDS, WORDS, max_size=5))
def test_words_and_variables_keep_their_order(argv: list[str], environment: dict[str, str]) -> None:
    read = fields(encode_run(Run(tuple(argv), environment=environment)))
    assert [value for tag, value in read if tag == 10] == [word.encode() for word in argv]
    assert [value for tag, value in read if tag == 11] == [
        f"{name}={value}".encode() for name, value in environment.items()
    ]


def outcome_frame(**changes: Any) -> bytes:  # Any: bytes and integers by name
    values: dict[str, Any] = {
        "signalled": 0,
        "limit": 0,
        "code": 3,
        "cpu_ns": 1_500_000_000,
        "user_ns": 1_000_000_000,
        "system_ns": 500_000_000,
        "wall_ns": 2_000_000_000,
        "memory_bytes": 1 << 40,
        "processes": 7,
        "stdout_bytes": 100,
        "stderr_bytes": 200,
        "stdout": b"out\0",
        "stderr": b"\xff",
    } | changes
    kept = [values.pop("stdout"), values.pop("stderr")]
    head = struct.pack("<BBI10Q", *values.values(), len(kept[0]), len(kept[1]))
    return bytes(head + kept[0] + kept[1])


def test_an_outcome_is_read_as_it_is_laid_out() -> None:
    outcome = decode_outcome(outcome_frame())
    assert (outcome.exit_code, outcome.signal, outcome.limit) == (3, None, None)
    assert (outcome.cpu_s, outcome.user_s, outcome.system_s, outcome.wall_s) == (1.5, 1, 0.5, 2)
    assert (outcome.memory_bytes, outcome.processes) == (1 << 40, 7)
    assert (outcome.stdout, outcome.stderr) == (b"out\0", b"\xff")
    assert (outcome.stdout_bytes, outcome.stderr_bytes) == (100, 200)


@pytest.mark.parametrize("limit", Limit)
def test_a_signal_and_a_limit_are_named(limit: Limit) -> None:
    outcome = decode_outcome(outcome_frame(signalled=1, limit=limit.value, code=9))
    assert (outcome.exit_code, outcome.signal, outcome.limit) == (None, 9, limit)


@given(st.binary(max_size=3000), st.binary(max_size=3000))
def test_stdout_and_stderr_are_kept_apart(stdout: bytes, stderr: bytes) -> None:
    outcome = decode_outcome(outcome_frame(stdout=stdout, stderr=stderr))
    assert (outcome.stdout, outcome.stderr) == (stdout, stderr)
