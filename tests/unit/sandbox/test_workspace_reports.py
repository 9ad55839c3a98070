"""What a workspace does with an agent that lies: it ends the session, and never more than that."""

from __future__ import annotations

import queue
import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cupel_sandbox.agent_protocol import Action, CommandExit, Report
from cupel_sandbox.box import Run
from cupel_sandbox.errors import BoxLost, BoxRefused, WorkspaceEnded
from cupel_sandbox.interactive import PIECE_BYTES, Feed, InteractiveRun
from cupel_sandbox.protocol import HEADER, Reply, Request
from cupel_sandbox.workspace import Command, Workspace, WorkspaceLimits
from workspace_stage import until


def frame(kind: int, number: int, payload: bytes = b"") -> bytes:
    return struct.pack("<IBI", 5 + len(payload), kind, number) + payload


EXIT = struct.pack("<BIQQ", 0, 0, 0, 0)
Answer = Callable[[int, int, bytes], bytes]
"""What an agent says to a request: its type, its number, its payload."""


class LyingBox:
    """A box whose agent answers as a test says, and whose runner is as any runner."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._replies: queue.Queue[tuple[int, int, bytes]] = queue.Queue()
        self._input = bytearray()
        self.resets = 0

    def put(self, path: str, content: bytes, *, executable: bool = False) -> None:
        assert (path, executable) == ("agent", True)

    def interact(self, run: Run) -> InteractiveRun:
        return InteractiveRun(self, 1)

    def reset(self) -> None:
        self.resets += 1

    def kill(self) -> None:
        raise AssertionError("it answers: there is no need")

    def send_input(self, sent: bytes) -> None:
        size, kind, number = HEADER.unpack_from(sent)
        payload = sent[HEADER.size :]
        assert (size, number) == (len(sent) - 4, 1)
        if kind == Request.CANCEL or (kind == Request.INPUT and not payload):
            self._replies.put((Reply.CANCELLED, 1, b""))
            return
        assert kind == Request.INPUT
        self._replies.put((Reply.TAKEN, 1, struct.pack("<I", len(payload))))
        self._input += payload
        while len(self._input) >= HEADER.size:
            size, action, command = HEADER.unpack_from(self._input)
            if len(self._input) < size + 4:
                return
            words = bytes(self._input[HEADER.size : size + 4])
            del self._input[: size + 4]
            said = self._answer(action, command, words)
            if said:
                self._replies.put((Reply.OUTPUT, 1, said))

    def receive_frame(self, timeout_s: float) -> tuple[int, int, bytes]:
        try:
            return self._replies.get(timeout=timeout_s)
        except queue.Empty:
            raise TimeoutError from None

    def broken(self, reason: str) -> BoxLost:
        return BoxLost(reason)


def says(reply: Callable[[int], bytes], action: Action = Action.EXEC) -> Answer:
    """An agent that says this when it is asked that, and nothing else."""
    return lambda kind, number, _: reply(number) if kind == action else b""


def ends(box: LyingBox) -> CommandExit:
    """How a command ends whose agent lies; the session must be over by then."""
    over: queue.Queue[CommandExit] = queue.Queue()
    workspace = Workspace(box, WorkspaceLimits(), answer_s=5.0)
    workspace.start(Command(("x",)), lambda stream, data: None, over.put)
    ended = over.get(timeout=20.0)
    with pytest.raises(WorkspaceEnded):
        workspace.alive()
    assert workspace.close() is None
    assert box.resets == 1
    return ended


@pytest.mark.parametrize(
    "reply",
    [
        lambda n: b"no frame at all",
        lambda n: frame(Report.OUTPUT, n + 1, b"\0x"),
        lambda n: frame(Report.EXIT, n + 1, EXIT),
        lambda n: frame(Report.TAKEN, n, struct.pack("<I", 1)),
        lambda n: frame(Report.TAKEN, n, b""),
        lambda n: frame(Report.OUTPUT, n, b"\7x"),
        lambda n: frame(Report.COUNTED, n + 7, struct.pack("<I", 1)),
        lambda n: frame(Reply.OUTCOME, n, bytes(86)),
        lambda n: struct.pack("<IBI", 2**31, Report.OUTPUT, n),
    ],
    ids=range(9),
)
def test_a_lie_ends_the_session(reply: Callable[[int], bytes]) -> None:
    assert ends(LyingBox(says(reply))) == CommandExit(None, None, 0.0, 0.0)


@settings(max_examples=30)
@given(st.binary(min_size=9, max_size=60))
def test_any_bytes_end_the_session_or_are_waited_out(noise: bytes) -> None:
    workspace = Workspace(LyingBox(says(lambda n: noise, Action.COUNT)), WorkspaceLimits(), 0.05)
    with pytest.raises(WorkspaceEnded):
        workspace.alive()
    workspace.close()


def test_a_second_end_of_a_command_is_a_lie() -> None:
    over: queue.Queue[CommandExit] = queue.Queue()
    box = LyingBox(says(lambda n: 2 * frame(Report.EXIT, n, EXIT)))
    workspace = Workspace(box, WorkspaceLimits())
    workspace.start(Command(("x",)), lambda stream, data: None, over.put)
    assert over.get(timeout=20.0).exit_code == 0
    until(lambda: workspace.ended is not None)
    assert "no sense" in str(workspace.ended)
    workspace.close()
    assert over.empty()


def test_more_content_than_was_asked_for_is_a_lie() -> None:
    def reply(number: int) -> bytes:
        return 3 * frame(Report.OUTPUT, number, b"\0" + bytes(100))

    workspace = Workspace(LyingBox(says(reply, Action.READ_FILE)), WorkspaceLimits())
    with pytest.raises(WorkspaceEnded, match="more than was asked for"):
        workspace.read("x", 250)
    workspace.close()


def test_a_list_that_is_none_is_a_lie() -> None:
    def reply(number: int) -> bytes:
        return frame(Report.OUTPUT, number, b"\0nonsense") + frame(Report.EXIT, number, EXIT)

    workspace = Workspace(LyingBox(says(reply, Action.LIST)), WorkspaceLimits())
    with pytest.raises(WorkspaceEnded, match="no sense"):
        workspace.list(".")
    workspace.close()


def test_complaints_are_kept_short() -> None:
    def reply(number: int) -> bytes:
        flood = frame(Report.OUTPUT, number, b"\1" + b"x" * 60_000)
        return 20 * flood + frame(Report.EXIT, number, struct.pack("<BIQQ", 0, 1, 0, 0))

    workspace = Workspace(LyingBox(says(reply, Action.READ_FILE)), WorkspaceLimits())
    with pytest.raises(BoxRefused) as refused:
        workspace.read("x", 250)
    assert len(str(refused.value)) <= 4096
    workspace.close()


@pytest.mark.parametrize("method", ["alive", "read", "kill"])
def test_silence_ends_the_session(method: str) -> None:
    over: queue.Queue[CommandExit] = queue.Queue()
    workspace = Workspace(LyingBox(lambda *_: b""), WorkspaceLimits(), answer_s=0.05)
    number = workspace.start(Command(("x",)), lambda stream, data: None, over.put)
    if method == "kill":
        workspace.kill(number)
    else:
        with pytest.raises(WorkspaceEnded, match="does not answer"):
            workspace.alive() if method == "alive" else workspace.read("x", 0)
    assert over.get(timeout=20.0).exit_code is None
    workspace.close()


# ---- input on its way


@given(
    st.lists(st.binary(max_size=3).map(lambda word: word * 50_000), max_size=5),
    st.lists(st.integers(1, 200_000), max_size=50),
)
def test_no_more_is_sent_ahead_than_there_is_room_for(
    contents: list[bytes], steps: list[int]
) -> None:
    sent: list[bytes] = []
    feed = Feed(sent.append, ahead_bytes=4 * PIECE_BYTES, pending_bytes_max=10**9)
    for content in contents:
        feed.put(content)
    feed.end()
    feed.end()
    taken = 0
    for step in [*steps, *[PIECE_BYTES] * 40]:
        ahead = sum(map(len, sent)) - taken
        assert ahead <= 4 * PIECE_BYTES
        assert not feed.taken(ahead + 1)
        step = min(step, ahead)
        assert feed.taken(step)
        taken += step
    assert b"".join(sent) == b"".join(contents)
    assert [piece for piece in sent if not piece] == [b""] == sent[-1:]


def test_what_waits_is_bounded_and_an_ended_input_takes_nothing() -> None:
    feed = Feed(lambda piece: None, ahead_bytes=PIECE_BYTES, pending_bytes_max=2 * PIECE_BYTES)
    feed.put(bytes(PIECE_BYTES))
    feed.put(bytes(2 * PIECE_BYTES))
    with pytest.raises(BoxRefused, match="does not read"):
        feed.put(b"x")
    feed.end()
    with pytest.raises(BoxRefused, match="ended"):
        feed.put(b"")
