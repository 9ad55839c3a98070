from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from fake_openai import FakeOpenAI, running_openai

from cupel_trainer.episodes.message import assistant, user
from cupel_trainer.errors import EngineError
from cupel_trainer.evaluate.engine import CONTEXT, Completion, Request
from cupel_trainer.evaluate.engine_openai import TRIES, Endpoint, OpenAIEngine
from cupel_trainer.evaluate.records import Sampling

KEY = "sk-secret"
REQUESTS = [Request.of_prompt(f"prompt {nth}", nth) for nth in range(6)]
SAMPLING = Sampling(temperature=0.25, top_p=0.5, max_tokens=99)


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    with running_openai() as running:
        yield running


def draw(
    fake: FakeOpenAI,
    number: int = 1,
    *,
    chat: bool = True,
    concurrency: int = 4,
    timeout_s: float = 20.0,
) -> list[Completion]:
    endpoint = Endpoint(
        fake.url,
        "the-model",
        api_key=KEY,
        chat=chat,
        concurrency=concurrency,
        timeout_s=timeout_s,
        first_pause_s=0.001,
    )
    engine = OpenAIEngine(endpoint)
    try:
        requests = [Request.of_prompt(f"prompt {nth}", nth) for nth in range(number)]
        drawn = [each for batch in engine.draw(requests, SAMPLING) for each in batch]
    finally:
        engine.close()
    return sorted(drawn, key=lambda each: each.index)


def test_chat_completions_are_asked_for_and_read(fake: FakeOpenAI) -> None:
    assert draw(fake, 2) == [
        Completion(0, "prompt 0 from 0", 3, 4, "stop"),
        Completion(1, "prompt 1 from 1", 3, 4, "stop"),
    ]
    path, headers, body = fake.received[0]
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == f"Bearer {KEY}"
    assert body == {
        "model": "the-model",
        "messages": [{"role": "user", "content": f"prompt {body['seed']}"}],
        "temperature": 0.25,
        "top_p": 0.5,
        "max_tokens": 99,
        "seed": body["seed"],
    }


def test_plain_completions_are_asked_for_and_read(fake: FakeOpenAI) -> None:
    (completion,) = draw(fake, chat=False)
    assert completion.text == "prompt 0 from 0"
    path, _, body = fake.received[0]
    assert path == "/v1/completions"
    assert body["prompt"] == "prompt 0"


@pytest.mark.parametrize("fault", [429, 500, 502, 503, 408, "cut"])
def test_what_is_turned_down_for_now_is_asked_again(fake: FakeOpenAI, fault: int | str) -> None:
    fake.faults.extend([fault] * (TRIES - 1))
    assert [each.text for each in draw(fake)] == ["prompt 0 from 0"]
    assert len(fake.received) == TRIES
    assert len({str(body) for _, _, body in fake.received}) == 1


def test_an_endpoint_that_hangs_is_asked_again(fake: FakeOpenAI) -> None:
    fake.faults.append("hang")
    assert [each.text for each in draw(fake, timeout_s=1.0)] == ["prompt 0 from 0"]


def test_it_waits_as_long_as_it_is_asked_to(fake: FakeOpenAI) -> None:
    import time

    fake.faults.append(429)
    fake.retry_after = "1"
    began = time.monotonic()
    draw(fake)
    assert time.monotonic() - began >= 1


def test_an_endpoint_that_never_answers_ends_the_run(fake: FakeOpenAI) -> None:
    fake.faults.extend([503] * TRIES)
    with pytest.raises(EngineError, match=rf"in {TRIES} tries, at last: HTTP 503 .*not now"):
        draw(fake)


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_a_refusal_is_final_and_shows_no_key(fake: FakeOpenAI, status: int) -> None:
    fake.faults.append(status)
    with pytest.raises(EngineError, match=rf"refuses: HTTP {status} .*not now") as caught:
        draw(fake)
    assert KEY not in str(caught.value)
    assert len(fake.received) == 1


@pytest.mark.parametrize(
    "answer", [b"<html>", b"{}", b"[]", b'{"choices": []}', b'{"choices": [{"message": 1}]}']
)
def test_an_answer_that_is_none_is_shown(fake: FakeOpenAI, answer: bytes) -> None:
    fake.faults.append(answer)
    with pytest.raises(EngineError, match="answers, but with no completion"):
        draw(fake)


@pytest.mark.parametrize(
    ("content", "text"),
    [(b"null", ""), (b'"\\ud83d half"', "? half"), ('"ä\u2028"'.encode(), "ä\u2028")],
)
def test_any_text_can_be_kept(fake: FakeOpenAI, content: bytes, text: str) -> None:
    fake.faults.append(b'{"choices": [{"message": {"content": %s}}], "usage": null}' % content)
    assert draw(fake) == [Completion(0, text, 0, 0, "")]


def test_no_more_requests_than_allowed_are_under_way(fake: FakeOpenAI) -> None:
    fake.gather = threading.Barrier(3)  # answers none before three have come
    assert len(draw(fake, 9, concurrency=3)) == 9
    assert fake.most_running == 3


def test_completions_before_a_failure_are_given(fake: FakeOpenAI) -> None:
    fake.faults.extend([None, None, 401])
    engine = OpenAIEngine(Endpoint(fake.url, "m", concurrency=1))
    kept: list[Completion] = []
    with pytest.raises(EngineError, match="401"):
        kept.extend(each for batch in engine.draw(REQUESTS, SAMPLING) for each in batch)
    engine.close()
    assert [each.index for each in kept] == [0, 1]
    assert len(fake.received) == 3


def test_stopping_early_leaves_nothing_under_way(fake: FakeOpenAI) -> None:
    engine = OpenAIEngine(Endpoint(fake.url, "m", concurrency=2))
    drawn = engine.draw(REQUESTS, SAMPLING)
    next(iter(drawn))
    drawn.close()  # type: ignore[attr-defined]  # it is a generator
    engine.close()


@pytest.mark.parametrize(
    ("url", "key"),
    [("localhost:8000/v1", ""), ("http://x/v1", "a\nb"), ("http://x/v1", "schlüssel")],
)
def test_a_url_or_key_that_makes_no_sense_is_refused(url: str, key: str) -> None:
    with pytest.raises(EngineError) as caught:
        OpenAIEngine(Endpoint(url, "m", api_key=key))
    assert not key or key not in str(caught.value)


def test_nobody_there_is_said(fake: FakeOpenAI) -> None:
    engine = OpenAIEngine(Endpoint("http://127.0.0.1:1/v1", "m", first_pause_s=0.001))
    with pytest.raises(EngineError, match="at last: ConnectError"):
        list(engine.draw([Request.of_prompt("a", 1)], SAMPLING))
    engine.close()


def test_the_key_is_in_no_representation() -> None:
    assert KEY not in repr(Endpoint("http://x/v1", "m", api_key=KEY))


TOO_LONG = (
    b'{"error": {"message": "This model\'s maximum context length is 512 tokens. However, you '
    b'requested 600 tokens.", "code": 400}}'
)
GROWN = (user("ask"), assistant("turn"), user("told"))


def test_a_conversation_is_sent_as_messages_or_as_one_text(fake: FakeOpenAI) -> None:
    for chat in (True, False):
        engine = OpenAIEngine(Endpoint(fake.url, "m", chat=chat))
        list(engine.draw([Request(GROWN, 7)], SAMPLING))
        engine.close()
    (_, _, as_messages), (_, _, as_text) = fake.received
    assert as_messages["messages"] == [
        {"role": "user", "content": "ask"},
        {"role": "assistant", "content": "turn"},
        {"role": "user", "content": "told"},
    ]
    assert as_text["prompt"] == "askturn\ntold\n"


def test_a_conversation_that_outgrew_the_model_has_no_further_turn(fake: FakeOpenAI) -> None:
    engine = OpenAIEngine(Endpoint(fake.url, "m"))
    fake.faults.append((400, TOO_LONG))
    ((grown,),) = engine.draw([Request(GROWN, 7)], SAMPLING)
    assert (grown.text, grown.finish_reason) == ("", CONTEXT)
    fake.faults.append((400, TOO_LONG))
    with pytest.raises(EngineError, match="maximum context length"):  # a prompt: for good
        list(engine.draw([Request.of_prompt("ask", 7)], SAMPLING))
    engine.close()


def test_turns_are_drawn_as_they_are_wanted(fake: FakeOpenAI) -> None:
    engine = OpenAIEngine(Endpoint(fake.url, "m"))
    fake.script = lambda messages, seed: messages[-1]["content"]
    drawn = list(engine.draw(iter([None, *REQUESTS[:2], None, *REQUESTS[2:]]), SAMPLING))
    engine.close()
    assert drawn[0] == []  # nothing to do yet
    texts = {each.index: each.text for some in drawn for each in some}
    assert texts == {nth: f"prompt {nth}" for nth in range(6)}
