"""What is kept of a command's output, and what a public test does to a problem's identity."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from cupel.schema import Problem, Testcase
from cupel_sandbox.workspace import Stream
from cupel_service.sessions.capture import Capture, cut_middle
from cupel_service.suite import digest


@given(st.lists(st.binary(max_size=40), max_size=20), st.integers(0, 64))
def test_what_is_kept_is_a_head_and_a_tail_of_what_was_printed(
    pieces: list[bytes], kept_bytes: int
) -> None:
    pieces = [bytes(65 + byte % 26 for byte in piece) for piece in pieces]

    async def capture() -> Capture:
        captured = Capture(kept_bytes)
        for piece in pieces:
            captured.append(Stream.STDERR, piece)
        return captured

    captured = asyncio.run(capture())
    whole = b"".join(pieces)
    assert captured.written_bytes(Stream.STDERR) == len(whole)
    assert captured.text(Stream.STDOUT) == ""
    text = captured.text(Stream.STDERR)
    if len(whole) <= kept_bytes:
        assert text == whole.decode()
        return
    head, _, tail = text.partition(f"\n[... {len(whole) - kept_bytes} bytes cut out ...]\n")
    assert (len(head), len(tail)) == ((kept_bytes + 1) // 2, kept_bytes // 2)
    assert whole.startswith(head.encode())
    assert whole.endswith(tail.encode())
    assert text == cut_middle(whole, b"", len(whole), kept_bytes)


@given(st.text(max_size=50), st.integers(1, 5))
def test_events_are_the_text_however_its_bytes_come(text: str, size: int) -> None:
    raw = text.encode()

    async def listen() -> str:
        captured = Capture(1000)
        for begin in range(0, len(raw), size):
            captured.append(Stream.STDOUT, raw[begin : begin + size])
        captured.close()
        first = [event async for event in captured.events()]
        assert [event async for event in captured.events()] == first
        return "".join(event.text for event in first)

    assert asyncio.run(listen()) == text


def test_a_problem_without_public_tests_keeps_the_digest_it_always_had() -> None:
    test = Testcase(name="a", input="1\n", output="2\n")
    before = "d39b54c70f1f701ec855925a0cfd90bfc912c314fabd3c5425f7b50555c623ab"
    assert digest(Problem(tests=(test,))) == before
    shown = test.model_copy(update={"public": True})
    assert digest(Problem(tests=(shown,))) != before
