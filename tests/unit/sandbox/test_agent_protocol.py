"""The frames of a session's agent, as documented in runner/agent.c; hostile ones end in Forged."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupel_sandbox.agent_protocol import (
    FRAME_BYTES_MAX,
    Action,
    CommandExit,
    Forged,
    Report,
    ReportReader,
    Stream,
    decode_entries,
    decode_exit,
    decode_number,
    decode_output,
    encode_action,
    encode_exec,
)

U32 = st.integers(0, 2**32 - 1)
FRAMES = st.tuples(st.sampled_from(Report), U32, st.binary(max_size=300))


def frame(kind: int, number: int, payload: bytes) -> bytes:
    return struct.pack("<IBI", 5 + len(payload), kind, number) + payload


def fields(payload: bytes) -> list[tuple[int, bytes]]:
    found = []
    while payload:
        tag, size = struct.unpack_from("<BI", payload)
        found.append((tag, payload[5 : 5 + size]))
        payload = payload[5 + size :]
    return found


def cut(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(place % (len(stream) + 1) for place in cuts), len(stream)]
    return [stream[a:b] for a, b in pairwise(places)]


@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(0, 10_000), max_size=8))
def test_frames_are_read_however_they_are_cut(
    frames: list[tuple[Report, int, bytes]], cuts: list[int]
) -> None:
    reader = ReportReader()
    stream = b"".join(frame(*each) for each in frames)
    read = [each for piece in cut(stream, cuts) for each in reader.feed(piece)]
    assert read == frames


@given(st.binary(max_size=400), st.lists(st.integers(0, 10_000), max_size=4))
def test_any_bytes_are_frames_or_forged(stream: bytes, cuts: list[int]) -> None:
    reader = ReportReader()
    try:
        for piece in cut(stream, cuts):
            for kind, number, payload in reader.feed(piece):
                assert kind in Report
                assert 0 <= number < 2**32
                assert len(payload) <= len(stream)
    except Forged:
        pass


@pytest.mark.parametrize("size", [0, 4, FRAME_BYTES_MAX, 2**31, 2**32 - 1])
def test_an_impossible_size_is_forged_before_it_has_come(size: int) -> None:
    with pytest.raises(Forged, match="bytes"):
        list(ReportReader().feed(struct.pack("<IBI", size, Report.OUTPUT, 1)))


@given(st.integers(0, 255).filter(lambda kind: kind not in set(Report)))
def test_an_unknown_type_is_forged(kind: int) -> None:
    with pytest.raises(Forged, match="type"):
        list(ReportReader().feed(frame(kind, 1, b"")))


@given(st.binary(max_size=40))
def test_payloads_are_read_or_forged(payload: bytes) -> None:
    for decode in (decode_exit, decode_number, decode_output, decode_entries):
        try:
            decode(payload)
        except Forged:
            continue


def test_an_exit_is_read_as_it_is_laid_out() -> None:
    ended = decode_exit(struct.pack("<BIQQ", 0, 3, 1_500_000_000, 2_000_000_000))
    assert ended == CommandExit(3, None, 1.5, 2.0)
    assert decode_exit(struct.pack("<BIQQ", 1, 9, 0, 0)) == CommandExit(None, 9, 0.0, 0.0)
    for forged in [(2, 0, 0, 0), (0, 256, 0, 0)]:
        with pytest.raises(Forged):
            decode_exit(struct.pack("<BIQQ", *forged))


def test_output_names_its_stream() -> None:
    assert decode_output(b"\0a\0b") == (Stream.STDOUT, b"a\0b")
    assert decode_output(b"\1\xff") == (Stream.STDERR, b"\xff")
    for forged in (b"", b"\0", b"\2x"):
        with pytest.raises(Forged):
            decode_output(forged)


def entry(name: bytes, kind: int = 8, mode: int = 0o644) -> bytes:
    return struct.pack("<BHQQH", kind, mode, 7, 1_500_000_000, len(name)) + name


def test_a_list_is_sorted_and_typed() -> None:
    entries = decode_entries(entry(b"b", mode=0o755) + entry(b"\xff", kind=1) + entry(b"a", kind=4))
    assert [(each.name, each.kind, each.executable) for each in entries] == [
        ("a", "directory", False),
        ("b", "file", True),
        ("\udcff", "other", False),
    ]
    assert [each.size_bytes for each in entries] == [0, 7, 0]
    assert entries[0].modified_s == 1.5


@pytest.mark.parametrize("name", [b"", b"a/b", b"a\0", b"x" * 256])
def test_a_name_that_is_none_is_forged(name: bytes) -> None:
    with pytest.raises(Forged):
        decode_entries(entry(name))
    with pytest.raises(Forged):
        decode_entries(entry(b"fine") + entry(b"cut off")[:-1])


def test_an_exec_names_words_variables_folder_and_input() -> None:
    sent = encode_exec(7, ("/bin/a", "ü"), {"X": "1=2"}, "/work/b", open_stdin=True)
    assert struct.unpack_from("<IBI", sent) == (len(sent) - 4, Action.EXEC, 7)
    assert fields(sent[9:]) == [
        (10, b"/bin/a"),
        (10, "ü".encode()),
        (11, b"X=1=2"),
        (1, b"/work/b"),
        (25, struct.pack("<Q", 1)),
    ]


def test_an_action_names_path_size_and_mode() -> None:
    sent = encode_action(Action.WRITE_FILE, 9, "a/\udcff", 5, executable=True)
    assert struct.unpack_from("<IBI", sent) == (len(sent) - 4, Action.WRITE_FILE, 9)
    assert fields(sent[9:]) == [
        (1, b"a/\xff"),
        (4, struct.pack("<Q", 5)),
        (3, struct.pack("<Q", 1)),
    ]
