from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from fake_boxes_client import HIDDEN, FakeClient
from hypothesis import given, settings
from hypothesis import strategies as st

from cupel.errors import (
    CupelError,
    InvalidRequest,
    NotFound,
    Overloaded,
    ServiceFault,
    ServiceUnavailable,
    SessionEnded,
    Unauthorized,
)
from cupel.schema import Language, RewardSpec
from cupel.session_schema import SessionState
from cupel_trainer.episodes.budget import Budget
from cupel_trainer.episodes.environment import Environment
from cupel_trainer.episodes.episode import Answer, End, Episode, Masked, Observation
from cupel_trainer.episodes.observations import WORDS
from cupel_trainer.evaluate.records import Setting

Result = Observation | Answer | Masked

RUN = "```run\nprint(6 * 7)\n```"
WRONG = "```file main.py\n# WA\n```"
RIGHT = "```file main.py\n# AC\n```"
SUBMIT = "```submit\nmain.py\n```"


def play(episode: Episode, client: FakeClient, turns: Sequence[str], **options: bool) -> Result:
    """Plays until the turns are over or the episode is."""

    async def all_turns() -> Result:
        environment = Environment(client, reward=RewardSpec())
        for turn in turns:
            result = await environment.play(episode, turn, tokens=10, **options)
            if not isinstance(result, Observation):
                break
        return result

    return asyncio.run(all_turns())


def tools(**budget: object) -> Episode:
    return Episode("Solve it.", Setting.TOOLS, Budget.model_validate(budget))


def agentic(**budget: object) -> Episode:
    return Episode("Solve it.", Setting.AGENTIC, Budget.model_validate(budget), problem="p")


def last(episode: Episode) -> str:
    return episode.messages[-1].content


def test_reasoning_is_one_turn() -> None:
    episode = Episode("Solve it.", Setting.REASONING, Budget())
    assert play(episode, FakeClient(), ["my answer"]) == Answer("my answer", None, End.ANSWER)
    cut = Episode("Solve it.", Setting.REASONING, Budget())
    assert play(cut, FakeClient(), ["my ans"], cut=True) == Answer("my ans", None, End.LENGTH)


def test_tools_run_code_and_then_answer() -> None:
    episode, client = tools(turns=4, calls=2), FakeClient()
    answer = play(episode, client, [RUN, "```python\nprint(42)\n```"])
    assert answer == Answer("```python\nprint(42)\n```", None, End.ANSWER)
    assert [each.role for each in episode.messages] == ["user", "assistant", "user", "assistant"]
    assert episode.messages[2].content == (
        "exit code 0\noutput :\n42\n\nturns left 3 , calls left 1"
    )
    (executed,) = client.executed
    assert executed[0] == "print(6 * 7)\n"
    assert not client.sessions


def test_a_failed_program_is_an_observation() -> None:
    episode = tools()
    play(episode, FakeClient(), ["```run\n1 / 0\n```"])
    assert last(episode).startswith("exit code 1\nerrors :\ndivision by zero\n")


def test_variables_are_kept_where_the_budget_says_so() -> None:
    client = FakeClient()
    episode = tools(stateful=True)
    play(episode, client, ["```run\nx = 5\n```", "```run\nprint(x)\n```"])
    assert "output :\n5" in last(episode)
    (session,) = client.sessions
    assert session.problem is None
    assert session.reward is None


def test_calls_are_bounded() -> None:
    episode, client = tools(calls=1, turns=9), FakeClient()
    play(episode, client, [RUN, RUN])
    assert "no calls left : write your answer" in last(episode)
    assert len(client.executed) == 1


def test_turns_are_bounded_and_without_an_answer_there_is_none() -> None:
    client = FakeClient()
    assert play(tools(turns=2), client, [RUN] * 3) == Answer("", None, End.TURNS)
    assert len(client.executed) == 1  # nothing could follow from what the last turn runs
    assert play(agentic(turns=2), client, ["hello"] * 3) == Answer("", None, End.TURNS)


def test_tokens_are_bounded() -> None:
    assert play(tools(tokens=15), FakeClient(), [RUN] * 3) == Answer("", None, End.TOKENS)


def test_the_time_of_programs_is_bounded() -> None:
    client = FakeClient()
    client.wall_s = 2.0
    assert play(tools(wall_s=3), client, [RUN] * 3) == Answer("", None, End.TIME)
    assert len(client.executed) == 2


def test_output_is_bounded() -> None:
    episode = tools(output_characters=100)
    play(episode, FakeClient(), ["```run\nprint('a' * 5000 + 'z')\n```"])
    assert len(last(episode)) < 200
    assert "characters cut" in last(episode)
    assert "z" in last(episode)


def test_an_agent_writes_looks_and_submits() -> None:
    episode, client = agentic(), FakeClient()
    turns = [WRONG, "```shell\ncat main.py\n```", SUBMIT, RIGHT, SUBMIT]
    answer = play(episode, client, turns)
    assert isinstance(answer, Answer)
    assert answer.end is End.ANSWER
    assert answer.completion == "```python\n# AC\n```"
    assert answer.submission is not None
    assert answer.submission.rewards == {"reward": 1.0}
    said = [each.content for each in episode.messages if each.role == "user"]
    assert said[1].startswith("5 bytes written to main.py\n")
    assert said[2].startswith("exit code 0\noutput :\n# WA\n")
    assert said[3] == (
        "verdict WA\nhidden tests passed 3 of 9\npublic test sample : WA , 0.0 s\n"
        "input :\n1\nexpected :\n2\nactual :\n3\n\nturns left 13 , submissions left 2"
    )
    (session,) = client.sessions
    assert session.problem == "p"
    assert session.reward == RewardSpec()
    assert session.state is SessionState.ENDED  # closed with the episode


def test_the_last_submission_is_the_answer() -> None:
    spent = play(agentic(submissions=2), FakeClient(), [WRONG, SUBMIT, SUBMIT, RIGHT, SUBMIT])
    assert isinstance(spent, Answer)
    assert (spent.completion, spent.end) == ("```python\n# WA\n```", End.ANSWER)
    timed = play(agentic(turns=3), FakeClient(), [WRONG, SUBMIT, RIGHT])
    assert isinstance(timed, Answer)
    assert (timed.completion, timed.end) == ("```python\n# WA\n```", End.TURNS)
    at_last = play(agentic(turns=2), FakeClient(), [RIGHT, SUBMIT])
    assert isinstance(at_last, Answer)
    assert at_last.end is End.ANSWER


def test_a_judging_error_costs_no_submission() -> None:
    episode = agentic(submissions=1)
    result = play(episode, FakeClient(), ["```file main.py\n# JE\n```", SUBMIT])
    assert isinstance(result, Observation)
    assert "the judge failed , this did not count" in last(episode)
    assert "submissions left 1" in last(episode)


def test_what_there_is_not_is_refused_and_costs_a_turn() -> None:
    episode = agentic(turns=9)
    play(episode, FakeClient(), [SUBMIT])
    assert last(episode).startswith("refused : there is no file main.py\n")
    assert "turns left 8 , submissions left 3" in last(episode)


def test_a_policy_that_ends_its_session_has_what_it_submitted() -> None:
    client = FakeClient()
    episode = agentic()
    play(episode, client, [WRONG, SUBMIT])
    environment = Environment(client)
    client.fail = None

    async def kill_it() -> Result:
        await environment.play(episode, RIGHT)
        client.fail = SessionEnded("the memory limit", by_host=False)
        return await environment.play(episode, "```shell\nhog\n```")

    answer = asyncio.run(kill_it())
    assert isinstance(answer, Answer)
    assert (answer.completion, answer.end) == ("```python\n# WA\n```", End.SESSION)


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (SessionEnded("restarted", by_host=True), False),
        (ServiceFault("disk full"), False),
        (ServiceUnavailable("away"), True),
        (Overloaded("full"), True),
    ],
)
def test_our_own_fault_masks_an_episode(error: CupelError, away: bool) -> None:
    for begun in (False, True):
        client, episode = FakeClient(), agentic()

        async def play_on(
            client: FakeClient = client, episode: Episode = episode, begun: bool = begun
        ) -> Result:
            environment = Environment(client)
            if begun:
                await environment.play(episode, WRONG)
                await environment.play(episode, SUBMIT)
            client.fail = error
            return await environment.play(episode, RIGHT)

        assert asyncio.run(play_on()) == Masked(str(error), away)


def test_a_session_that_is_gone_masks_an_episode() -> None:
    client, episode = FakeClient(), agentic()

    async def lose_it() -> Result:
        environment = Environment(client)
        await environment.play(episode, WRONG)
        client.fail = NotFound("no session")
        return await environment.play(episode, SUBMIT)

    assert isinstance(asyncio.run(lose_it()), Masked)


@pytest.mark.parametrize(
    "error", [NotFound("no problem p"), InvalidRequest("bad"), Unauthorized("no key")]
)
def test_a_wrong_configuration_is_raised(error: CupelError) -> None:
    client = FakeClient()
    client.fail = error
    with pytest.raises(type(error)):
        play(agentic(), client, [WRONG])


TURNS = st.sampled_from(
    [RUN, WRONG, RIGHT, SUBMIT, "hello", "```shell\ncat main.py\n```", "```submit\nno.py\n```"]
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(TURNS, max_size=12),
    st.sampled_from([Setting.TOOLS, Setting.AGENTIC]),
    st.integers(1, 6),
    st.integers(1, 3),
)
def test_no_episode_is_longer_than_its_budget_or_shows_hidden_tests(
    turns: list[str], setting: Setting, most: int, submissions: int
) -> None:
    budget = Budget(turns=most, submissions=submissions)
    episode = Episode("Solve it.", setting, budget, problem="p", language=Language.PYTHON)
    client = FakeClient()
    if turns:
        result = play(episode, client, turns)
        assert episode.turns <= most
        assert episode.submissions <= submissions
        assert isinstance(result, Observation) == (episode.result is None)
    for number, each in enumerate(episode.messages):
        assert each.role == ("assistant" if number % 2 else "user")
        assert HIDDEN not in each.content


def test_observations_are_made_of_few_words() -> None:
    episode, client = agentic(), FakeClient()
    play(episode, client, ["hello", WRONG, SUBMIT, SUBMIT, "```submit\nno.py\n```"])
    known = set(WORDS) | {"main.py", "WA", "sample", "there", "file", "no.py"}
    for each in episode.messages[2::2]:
        unknown = [
            word for word in each.content.split() if word not in known and not word[0].isdigit()
        ]
        assert not unknown
