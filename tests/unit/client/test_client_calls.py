from __future__ import annotations

import asyncio
import json
import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from fake_cupel import CutAfter, FakeCupel, Refuse

import cupel
from cupel import AsyncClient, Client, Problem, RewardSpec, Testcase
from cupel._requests import parse_retry_after

PROBLEM = Problem(title="Sum", tests=(Testcase(name="a", input="1 2\n", output="3\n"),))


def sync_calls(client: Client) -> list[object]:
    client.problems.add("sum", PROBLEM)
    client.problems.add("other", PROBLEM)
    client.problems.delete("other")
    return [
        client.judge(id="s1", problem="sum", language="c", source="right"),
        client.judge_all([cupel.Submission(id="s2", problem=PROBLEM, completion="wrong")]),
        client.rewards(["sum", PROBLEM], ["1", "0"], RewardSpec(coverage=1), language="cpp"),
        client.problems.get("sum"),
        client.problems.list(),
        client.ready(),
    ]


async def async_calls(url: str) -> list[object]:
    async with AsyncClient(url, api_key="secret") as client:
        await client.problems.add("sum", PROBLEM)
        await client.problems.add("other", PROBLEM)
        await client.problems.delete("other")
        return [
            await client.judge(id="s1", problem="sum", language="c", source="right"),
            await client.judge_all(
                [cupel.Submission(id="s2", problem=PROBLEM, completion="wrong")]
            ),
            await client.rewards(
                ["sum", PROBLEM], ["1", "0"], RewardSpec(coverage=1), language="cpp"
            ),
            await client.problems.get("sum"),
            await client.problems.list(),
            await client.ready(),
        ]


def test_both_clients_send_the_same_bytes_and_read_the_same_answers(fake: FakeCupel) -> None:
    with Client(fake.url, api_key="secret") as client:
        sync_answers = sync_calls(client)
    sync_received = list(fake.received)
    fake.received.clear()
    assert asyncio.run(async_calls(fake.url)) == sync_answers
    keys = [call.headers.pop("idempotency-key", None) for call in sync_received + fake.received]
    assert fake.received == sync_received
    assert len(sync_received) == 9
    judging = [call.path in ("/v1/judgements", "/v1/rewards") for call in sync_received] * 2
    assert [key is not None for key in keys] == judging
    assert len(set(keys) - {None}) == 6
    assert all(call.headers["authorization"] == "Bearer secret" for call in sync_received)


def test_judge_returns_the_verdict_of_a_failing_program(client: Client) -> None:
    judgement = client.judge(problem="sum", language="python", source="print(4)")
    assert judgement.verdict is cupel.Verdict.WA
    assert judgement.failure_class is cupel.FailureClass.CORRECTNESS


FAULTS = [
    CutAfter(0),
    Refuse(429, "full"),
    Refuse(502, text="<html>Bad gateway</html>"),
    Refuse(503, "stopping"),
]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_retry_sends_the_same_bytes_under_the_same_key(
    fake: FakeCupel, client: Client, fault: CutAfter | Refuse
) -> None:
    fake.faults.extend([fault, fault])
    judgement = client.judge(problem="sum", language="c", source="right")
    assert [call.ids for call in fake.received] == [[judgement.id]] * 3
    assert fake.received[0] == fake.received[1] == fake.received[2]
    fake.received.clear()
    fake.faults.extend([fault, fault])
    assert client.rewards("sum", ["1"]).rewards == (1.0,)
    assert fake.received[0] == fake.received[1] == fake.received[2]


def test_each_submission_gets_an_id_of_its_own(fake: FakeCupel, client: Client) -> None:
    first = client.judge(problem="sum", language="c", source="right")
    second = client.judge(problem="sum", language="c", source="right")
    assert first.id != second.id


def test_a_full_queue_is_waited_for_as_long_as_the_timeout(fake: FakeCupel) -> None:
    fake.faults.append(Refuse(429, "the queue is full", retry_after="3600"))
    with Client(fake.url, timeout_s=60) as client, pytest.raises(cupel.Overloaded) as raised:
        client.judge(problem="sum", language="c", source="right")
    assert raised.value.retry_after_s == 3600
    assert len(fake.received) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, cupel.InvalidRequest),
        (401, cupel.Unauthorized),
        (403, cupel.Unauthorized),
        (404, cupel.NotFound),
        (409, cupel.InvalidRequest),
        (413, cupel.RequestTooLarge),
        (422, cupel.InvalidRequest),
        (500, cupel.ServiceFault),
        (507, cupel.ServiceFault),
    ],
)
def test_each_status_has_its_error_with_the_details(
    fake: FakeCupel, client: Client, status: int, kind: type[cupel.Refused]
) -> None:
    fake.faults.append(Refuse(status, "what is wrong", errors=("here", "and there")))
    with pytest.raises(kind) as raised:
        client.problems.list()
    assert raised.value.status == status
    assert raised.value.errors == ("here", "and there")
    assert "what is wrong" in str(raised.value)
    assert "and there" in str(raised.value)
    assert len(fake.received) == 1


def test_a_missing_key_says_how_to_give_one(fake: FakeCupel, client: Client) -> None:
    fake.faults.append(Refuse(401, "an API key is needed"))
    with pytest.raises(cupel.Unauthorized, match="CUPEL_API_KEY"):
        client.problems.list()


def test_an_error_page_of_a_proxy_is_shown_in_short(fake: FakeCupel, client: Client) -> None:
    fake.faults.append(Refuse(504, text="<html>Bad\n gateway</html>" + "x" * 1000))
    with pytest.raises(cupel.ServiceFault, match="504 Gateway Timeout <html>Bad gateway") as error:
        client.problems.list()
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("fault", [Refuse(302), Refuse(200, text="<html>a wiki</html>")])
def test_something_else_at_the_url_is_not_taken_for_a_service(
    fake: FakeCupel, client: Client, fault: Refuse
) -> None:
    fake.faults.append(fault)
    with pytest.raises(cupel.UnexpectedAnswer):
        client.problems.list()


def test_no_service_says_how_to_start_one() -> None:
    with socket.socket() as taken:  # bound, not listening: nobody else can answer there
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with (
            Client(url, patience_s=0.01, retry_pause_s=0) as client,
            pytest.raises(cupel.ServiceUnavailable, match="cupel serve"),
        ):
            client.info()


def test_silence_is_a_timeout_and_is_not_retried() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with Client(url, timeout_s=0.05) as client, pytest.raises(cupel.Timeout, match="timeout_s"):
            client.info()
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_url_and_key_come_from_the_environment(
    fake: FakeCupel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUPEL_URL", fake.url + "/")
    monkeypatch.setenv("CUPEL_API_KEY", "from-environment")
    with Client() as client:
        client.problems.list()
    assert fake.received[0].path == "/v1/problems"
    assert fake.received[0].headers["authorization"] == "Bearer from-environment"


def test_proxies_are_not_used_for_a_service_on_this_machine(
    fake: FakeCupel, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with Client(fake.url) as direct:
        assert direct.problems.list() == ()


@pytest.mark.parametrize(
    "arguments",
    [
        {"url": "localhost:8400"},
        {"url": "http://h", "timeout_s": 0},
        {"url": "http://h", "timeout_s": float("nan")},
        {"url": "http://h", "patience_s": -1},
        {"url": "http://h", "patience_s": float("nan")},
        {"url": "http://h", "api_key": "two\nlines"},
    ],
)
def test_a_client_refuses_settings_that_make_no_sense(arguments: dict[str, object]) -> None:
    with pytest.raises(cupel.InvalidRequest):
        Client(**arguments)  # type: ignore[arg-type]  # wrong values on purpose


def test_an_invalid_submission_names_the_field(client: Client, fake: FakeCupel) -> None:
    with pytest.raises(cupel.InvalidRequest, match="coverage: .*greater than or equal to 1"):
        client.judge(problem="sum", language="c", source="x", coverage=0)
    with pytest.raises(cupel.InvalidRequest, match="needs `language`"):
        client.judge(problem="sum", source="x")
    with pytest.raises(cupel.InvalidRequest, match="not both"):
        client.judge(cupel.Submission(problem="sum", completion="x"), stop="never")
    with pytest.raises(cupel.InvalidRequest, match="not a problem's id"):
        client.problems.get("../secret")
    assert not fake.received


def test_ready_tells_what_the_service_waits_for(fake: FakeCupel, client: Client) -> None:
    fake.status = "starting"
    assert client.ready() == cupel.Health(status="starting", reason="making boxes")
    with pytest.raises(cupel.Timeout, match="starting making boxes"):
        client.wait_until_ready(timeout_s=0)
    fake.status = "ok"
    client.wait_until_ready(timeout_s=0)


def test_requests_leave_out_what_is_absent(fake: FakeCupel, client: Client) -> None:
    client.judge(id="x", problem="sum", language="c", source="right")
    (submission,) = json.loads(fake.received[0].body)["submissions"]
    assert None not in submission.values()
    assert {"id", "problem", "language", "source"} <= set(submission)


def test_retry_after_is_read_as_seconds_or_as_a_date() -> None:
    assert parse_retry_after("1.5") == 1.5
    assert parse_retry_after("-3") == 0.0
    assert parse_retry_after("Mon, 01 Jan 2001 00:00:00 GMT") == 0.0
    soon = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    seconds = parse_retry_after(soon)
    assert seconds is not None
    assert 3500 < seconds <= 3600
    assert [parse_retry_after(text) for text in (None, "soon", "nan", "inf")] == [None] * 4
