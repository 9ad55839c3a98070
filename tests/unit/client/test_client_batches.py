from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator

import pytest
from fake_cupel import CutAfter, EndAfter, FakeCupel, Refuse, judgement_of
from hypothesis import given
from hypothesis import strategies as st

import cupel
from cupel import Client, Problem, RewardSpec, Submission, Testcase, _batches
from cupel._batches import Lines, batches_of


def submissions(count: int) -> list[Submission]:
    return [
        Submission(id=f"s{n}", problem="sum", language="c", source=f"right {n}")
        for n in range(count)
    ]


def ids_sent(fake: FakeCupel) -> list[list[str]]:
    return [call.ids for call in fake.received]


def test_judge_many_yields_each_submission_once_with_its_position(client: Client) -> None:
    judged = list(client.judge_many(submissions(50), batch_size=7, concurrency=3))
    assert sorted(each.position for each in judged) == list(range(50))
    assert all(each.judgement.id == f"s{each.position}" for each in judged)


def test_judge_all_keeps_the_order_of_the_submissions(client: Client) -> None:
    judgements = client.judge_all(submissions(50), batch_size=7, concurrency=3)
    assert [each.id for each in judgements] == [f"s{n}" for n in range(50)]


def test_batches_are_neither_single_nor_giant(fake: FakeCupel, client: Client) -> None:
    client.judge_all(submissions(10), batch_size=4, concurrency=1)
    assert [len(ids) for ids in ids_sent(fake)] == [4, 4, 2]


def test_a_batch_is_bounded_in_bytes() -> None:
    large = "x" * (_batches.BATCH_BYTES // 3)
    problem = Problem(tests=(Testcase(name="a", input=large, output=""),))
    inline = [Submission(problem=problem, completion="x") for _ in range(5)]
    assert [batch.pending for batch in batches_of(inline, 64)] == [2, 2, 1]


def test_no_more_requests_run_at_one_time_than_allowed(fake: FakeCupel, client: Client) -> None:
    fake.release = threading.Event()
    judged = client.judge_many(submissions(30), batch_size=3, concurrency=2)
    next(judged)
    fake.release.set()
    assert len(list(judged)) == 29
    assert fake.most_running <= 2


def test_submissions_are_taken_only_as_they_are_needed(fake: FakeCupel, client: Client) -> None:
    taken: list[int] = []

    def endless() -> Iterator[Submission]:
        n = 0
        while True:
            taken.append(n)
            yield Submission(problem="sum", language="c", source="right")
            n += 1

    judged = client.judge_many(endless(), batch_size=4, concurrency=2)
    for _ in range(10):
        next(judged)
    judged.close()
    assert len(taken) < 60


def test_stopping_early_cancels_what_is_under_way(fake: FakeCupel, client: Client) -> None:
    fake.release = threading.Event()  # the service would not go on by itself
    judged = client.judge_many(submissions(8), batch_size=4)
    next(judged)
    judged.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "cupel-client"]
    fake.release.set()


def test_after_a_break_the_same_request_is_sent_again_and_nothing_is_yielded_twice(
    fake: FakeCupel, client: Client
) -> None:
    fake.faults.extend([CutAfter(2, torn=b'{"id": "s'), CutAfter(1), CutAfter(4), CutAfter(0)])
    judged = list(client.judge_many(submissions(5)))
    # The fake answers from the last to the first.
    assert [each.judgement.id for each in judged] == ["s4", "s3", "s2", "s1", "s0"]
    first, *repeated = [(call.body, call.headers["idempotency-key"]) for call in fake.received]
    assert repeated == [first] * 4


def test_each_batch_has_a_key_of_its_own(fake: FakeCupel, client: Client) -> None:
    client.judge_all(submissions(10), batch_size=4)
    client.judge_all(submissions(1))
    assert len({call.headers["idempotency-key"] for call in fake.received}) == 4


def test_a_judgement_that_was_not_asked_for_is_no_answer() -> None:
    (batch,) = batches_of(submissions(1), 64)
    line = judgement_of(submissions(2)[1]).model_dump_json().encode()
    with pytest.raises(cupel.UnexpectedAnswer, match="'s1', which was not asked for"):
        batch.take(line)


def test_an_answer_that_ends_early_in_good_order_is_completed(
    fake: FakeCupel, client: Client
) -> None:
    fake.faults.extend([EndAfter(2), Refuse(503, "stopping"), Refuse(429, "full", retry_after="0")])
    assert len(client.judge_all(submissions(3))) == 3
    assert ids_sent(fake) == [["s0", "s1", "s2"]] * 4


def test_a_service_without_progress_is_given_up(fake: FakeCupel) -> None:
    fake.faults.extend([CutAfter(0)] * 3)
    with (
        # The pauses are 10 ms each: there is patience for two of them.
        Client(fake.url, patience_s=0.02, retry_pause_s=0) as client,
        pytest.raises(cupel.ConnectionLost),
    ):
        client.judge_all(submissions(3))
    assert len(fake.received) == 3


def test_progress_renews_the_retries(fake: FakeCupel) -> None:
    fake.faults.extend([CutAfter(n) for n in range(1, 10)])
    with Client(fake.url, patience_s=0.01, retry_pause_s=0) as client:
        assert len(client.judge_all(submissions(10))) == 10


def test_a_refused_batch_is_raised_to_the_caller(fake: FakeCupel, client: Client) -> None:
    fake.faults.append(Refuse(404, "no problem 'sum'"))
    with pytest.raises(cupel.NotFound, match="no problem 'sum'"):
        client.judge_all(submissions(3))


def test_two_submissions_with_one_id_are_refused(client: Client) -> None:
    with pytest.raises(cupel.InvalidRequest, match="two submissions have the id 's0'"):
        client.judge_all([*submissions(2), *submissions(1)])


def test_nothing_to_judge_makes_no_request(fake: FakeCupel, client: Client) -> None:
    assert client.judge_all([]) == []
    assert client.rewards([], []).rewards == ()
    assert not fake.received


def test_an_error_of_the_callers_own_iterator_passes_through(client: Client) -> None:
    def broken() -> Iterator[Submission]:
        yield from submissions(1)
        raise LookupError("the data set ended")

    with pytest.raises(LookupError, match="the data set ended"):
        client.judge_all(broken())


def test_the_synchronous_client_works_inside_an_event_loop(client: Client) -> None:
    async def notebook_cell() -> list[cupel.Judgement]:
        return client.judge_all(submissions(3))

    assert len(asyncio.run(notebook_cell())) == 3


def test_a_progress_bar_is_shown_only_if_asked(
    client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    client.judge_all(submissions(3))
    assert capsys.readouterr() == ("", "")
    client.judge_all(submissions(3), progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "3/3" in shown.err


def test_rewards_keep_their_order_across_batches(fake: FakeCupel, client: Client) -> None:
    completions = [str(n) for n in range(20)] + ["je"]
    extra = {"low": RewardSpec(coverage=1)}
    answer = client.rewards("sum", completions, extra_rewards=extra, batch_size=4, concurrency=3)
    assert answer.rewards == (*map(float, range(20)), None)
    assert answer.extra_rewards == {"low": answer.rewards}
    assert [each.message for each in answer.judgements][:2] == ["judged 0\u2028", "judged 1\u2028"]
    sizes = sorted(len(json.loads(call.body)["problems"]) for call in fake.received)
    assert sizes == [1, 4, 4, 4, 4, 4]
    assert fake.most_running <= 3


def test_urgent_is_sent_only_where_it_says_something(fake: FakeCupel, client: Client) -> None:
    for urgent in (True, False):
        client.judge(problem="sum", completion="right", urgent=urgent)
        client.judge_all(submissions(1), urgent=urgent)
        client.rewards("sum", ["1"], urgent=urgent)
    sent = [json.loads(call.body).get("urgent") for call in fake.received]
    assert sent == [True] * 3 + [None] * 3


def test_rewards_of_no_completions_still_name_the_extra_rewards(client: Client) -> None:
    assert client.rewards([], [], extra_rewards={"low": RewardSpec()}).extra_rewards == {"low": ()}


def test_rewards_refuse_lists_of_two_lengths(client: Client) -> None:
    with pytest.raises(cupel.InvalidRequest, match="2 problems but 1 completions"):
        client.rewards(["a", "b"], ["x"])
    with pytest.raises(cupel.InvalidRequest, match="language"):
        client.rewards("a", ["x"], language="cobol")
    with pytest.raises(cupel.InvalidRequest, match="batch_size"):
        client.rewards("a", ["x"], batch_size=0)


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\n"), min_size=1)


@given(st.lists(TEXT), st.data())
def test_lines_are_cut_at_line_feeds_only_however_they_arrive(
    texts: list[str], data: st.DataObject
) -> None:
    wanted = [text.encode() for text in texts if text.encode().strip()]
    stream = b"".join(text.encode() + b"\n" for text in texts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    lines, got = Lines(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += lines.feed(stream[start:end])
    assert got == wanted
