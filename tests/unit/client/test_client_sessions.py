"""What the SDK sends for sessions, and how it reads a streamed command over several connections."""

from __future__ import annotations

import pytest

import cupel
from cupel._session_requests import CommandLines, SessionCalls, execute_call, open_call
from cupel.session_schema import CommandEnd, CommandResult, OutputEvent

calls = SessionCalls("0123-4567")


def lines(*documents: OutputEvent | CommandEnd) -> bytes:
    return b"".join(document.model_dump_json().encode() + b"\n" for document in documents)


ONE = OutputEvent(stream="stdout", text="one\u2028\n")
TWO = OutputEvent(stream="stderr", text="two")
RESULT = CommandResult(exit_code=3, stdout="one")
END = CommandEnd(result=RESULT)


def test_each_event_is_read_once_however_often_the_stream_begins_again() -> None:
    reader = CommandLines()
    whole = lines(ONE, TWO, END)
    assert reader.feed(whole[:5]) == []
    assert reader.feed(whole[5 : len(lines(ONE)) + 3]) == [ONE]
    reader.reconnected()
    assert reader.feed(lines(ONE, TWO)) == [TWO]
    assert reader.progress == 2
    reader.reconnected()
    assert reader.feed(whole) == [RESULT]


def test_a_stream_that_ends_without_a_result_says_why() -> None:
    end = CommandEnd(error="the session is over: full", status=410, by_host=True)
    with pytest.raises(cupel.SessionEnded, match="full") as ended:
        CommandLines().feed(lines(end))
    assert ended.value.by_host
    with pytest.raises(cupel.Refused, match="no room"):
        CommandLines().feed(lines(CommandEnd(error="no room", status=500)))
    with pytest.raises(cupel.UnexpectedAnswer):
        CommandLines().feed(b"<html>\n")


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("main.py", "main.py"),
        ("/work/a/b", "a/b"),
        ("./a//b/", "a/b"),
        ("a b/ü?#%.txt", "a%20b/%C3%BC%3F%23%25.txt"),
    ],
)
def test_paths_are_sent_as_parts_of_the_address(path: str, sent: str) -> None:
    assert calls.read(path).path == f"/v1/sessions/0123-4567/files/{sent}"


@pytest.mark.parametrize("path", ["", ".", "..", "a/../b", "/etc/passwd", "/work", "/work//etc"])
def test_paths_that_lead_elsewhere_are_not_sent(path: str) -> None:
    with pytest.raises(cupel.InvalidRequest):
        calls.read(path)


def test_every_call_that_must_not_happen_twice_has_a_key_of_its_own() -> None:
    made = [
        calls.run("ls", 1.0, "", 10, None, "."),
        calls.start("ls", "", 10, None, "."),
        calls.python("1", 1.0, 10),
        calls.snapshot(),
        calls.restore("s"),
        calls.submit("main.py", None),
        open_call(None, None, None, None, None, None, None),
        execute_call("1", "python", "", None, (), None),
    ]
    keys = [call.key for call in made]
    assert None not in keys
    assert len(set(keys)) == len(keys)


def test_what_the_schema_refuses_is_not_sent() -> None:
    with pytest.raises(cupel.InvalidRequest, match="not a valid command"):
        calls.run("", 1.0, "", 10, None, ".")
    with pytest.raises(cupel.InvalidRequest, match="needs a `problem`"):
        open_call(None, None, cupel.RewardSpec(), None, None, None, None)
    with pytest.raises(cupel.InvalidRequest, match="not open"):
        cupel.Client("http://127.0.0.1:1").session().run("ls")
