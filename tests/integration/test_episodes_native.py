"""Both settings with boxes over HTTP: scripted policies, a real service, real native boxes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

sys.path.append(str(Path(__file__).resolve().parents[1] / "unit" / "trainer"))
from fake_openai import FakeOpenAI, running_openai

from cupel import AsyncClient, Problem, embedded_service
from cupel.cli import build_app
from cupel.errors import NotFound
from cupel.schema import Language, Limits, RewardSpec, Testcase
from cupel_sandbox.native import NativeHost
from cupel_trainer.episodes.budget import Budget
from cupel_trainer.episodes.environment import Environment
from cupel_trainer.episodes.episode import Answer, End, Episode, Masked, Observation
from cupel_trainer.evaluate.record_file import read_header, read_lines
from cupel_trainer.evaluate.records import JudgedSample, Sample, SamplesHeader, Setting

HIDDEN = ("71993 28007", "100000", "88111 -88111", "hidden-sum")
"""What only hidden tests hold: inputs, an output, a part of their names."""
SUM = Problem(
    title="Sum",
    statement="Print the sum of two numbers.",
    limits=Limits(cpu_s=2),
    tests=(
        Testcase(name="sample", input="1 2\n", output="3\n", public=True),
        Testcase(name="hidden-sum-1", input="71993 28007\n", output="100000\n"),
        Testcase(name="hidden-sum-2", input="88111 -88111\n", output="0\n"),
    ),
)
RIGHT = "a, b = map(int, input().split())\nprint(a + b)\n"
WRONG = "a, b = map(int, input().split())\nprint(a - b)\n"
SUBMIT = "```submit\nmain.py\n```"

Turn = Observation | Answer | Masked


def run(code: str) -> str:
    return f"I try it.\n```run\n{code}\n```"


def shell(command: str) -> str:
    return f"```shell\n{command}\n```"


def file(content: str) -> str:
    return f"```file main.py\n{content}```"


@pytest.fixture(scope="module")
def service(native_host: NativeHost) -> Iterator[str]:
    with embedded_service() as url:
        yield url


def play(
    url: str, setting: Setting, said: list[str], problem: Problem | str = SUM, **budget: object
) -> tuple[Episode, list[Turn]]:
    """Plays the turns until the episode is over; what came of each."""
    episode = Episode(
        "Solve it.",
        setting,
        Budget.model_validate(budget),
        problem=problem,
        language=Language.PYTHON,
    )

    async def all_turns() -> list[Turn]:
        came: list[Turn] = []
        async with (
            AsyncClient(url, "") as client,
            Environment(client, reward=RewardSpec()) as environment,
        ):
            for text in said:
                came.append(await environment.play(episode, text))
                if not isinstance(came[-1], Observation):
                    break
        return came

    came = asyncio.run(all_turns())
    shown = "\n".join(each.content for each in episode.messages if each.role == "user")
    assert not [text for text in HIDDEN if text in shown]
    return episode, came


def text_of(turn: Turn) -> str:
    assert isinstance(turn, Observation)
    return turn.text


@pytest.mark.parametrize("stateful", [False, True])
def test_tools_run_code_over_http(service: str, stateful: bool) -> None:
    answer = f"```python\n{RIGHT}```"
    turns = [run("x = 40 + 2\nprint(x)"), run("print(x)"), run("raise SystemExit(3)"), answer]
    _, came = play(service, Setting.TOOLS, turns, stateful=stateful)
    assert text_of(came[0]) == "exit code 0\noutput :\n42\n\nturns left 15 , calls left 7"
    if stateful:
        assert text_of(came[1]).startswith("exit code 0\noutput :\n42\n")
    else:
        assert "NameError" in text_of(came[1])
    assert came[3] == Answer(answer, None, End.ANSWER)


def test_a_tool_s_budgets_hold(service: str) -> None:
    endless = run("while True: pass")
    _, came = play(service, Setting.TOOLS, [endless], call_s=0.5)
    assert "limit" in text_of(came[0]) or "timed out" in text_of(came[0])
    _, came = play(service, Setting.TOOLS, [endless] * 4, call_s=0.5, wall_s=0.9)
    assert came[-1] == Answer("", None, End.TIME)
    _, came = play(service, Setting.TOOLS, [run("print('a' * 10**6)")], output_characters=300)
    assert len(text_of(came[0])) < 400
    _, came = play(service, Setting.TOOLS, [run("print(1)")] * 3, calls=1, turns=3)
    assert "no calls left" in text_of(came[1])
    assert came[2] == Answer("", None, End.TURNS)
    hog = run("x = 'a' * (1 << 30)\nprint(len(x))")
    _, came = play(service, Setting.TOOLS, [hog], memory_bytes=64 << 20)
    assert "exit code 0" not in text_of(came[0])


def test_an_agent_looks_edits_submits_and_learns(service: str) -> None:
    turns = [
        shell("ls examples && cat examples/1.in"),
        file(WRONG),
        shell("python3 main.py < examples/1.in; echo done >&2; exit 3"),
        SUBMIT,
        file(RIGHT),
        SUBMIT,
    ]
    _, came = play(service, Setting.AGENTIC, turns)
    assert "1.in\n1.out\n1 2" in text_of(came[0])
    assert text_of(came[1]).startswith(f"{len(WRONG)} bytes written to main.py")
    assert text_of(came[2]).startswith("exit code 3\noutput :\n-1\nerrors :\ndone\n")
    said = text_of(came[3])
    assert said.startswith("verdict WA\nhidden tests passed 0 of 2\npublic test sample : WA")
    assert "expected :\n3\nactual :\n-1\n" in said
    assert said.endswith("submissions left 2")
    last = came[5]
    assert isinstance(last, Answer)
    assert (last.completion, last.end) == (f"```python\n{RIGHT}```", End.ANSWER)
    assert last.submission is not None
    assert last.submission.rewards == {"reward": 1.0}


def test_a_program_cannot_say_what_hidden_tests_hold(service: str) -> None:
    """Not even one that prints its inputs, to both streams, and fails on each."""
    teller = "import sys\nt = sys.stdin.read()\nprint(t)\nsys.stderr.write(t)\nsys.exit(1)\n"
    _, came = play(service, Setting.AGENTIC, [file(teller), SUBMIT, shell("ls -R / 2>&1")])
    assert "public test sample : RTE" in text_of(came[1])
    assert "actual :\n1 2" in text_of(came[1])


def test_an_agent_s_budgets_hold(service: str) -> None:
    _, came = play(service, Setting.AGENTIC, [shell("sleep 30"), shell("echo x")], call_s=0.5)
    assert text_of(came[0]).startswith("timed out\n")
    assert text_of(came[1]).startswith("exit code 0\n")
    _, came = play(service, Setting.AGENTIC, [shell("sleep 30")] * 4, call_s=0.5, wall_s=0.9)
    assert came[-1] == Answer("", None, End.TIME)
    _, came = play(service, Setting.AGENTIC, [shell("yes | head -c 9999999")])
    assert len(text_of(came[0])) < 5000
    _, came = play(service, Setting.AGENTIC, [file(WRONG), SUBMIT, SUBMIT], submissions=2)
    assert isinstance(came[2], Answer)
    assert came[2].end is End.ANSWER
    _, came = play(service, Setting.AGENTIC, ["what now?"] * 2, turns=2)
    assert "no action" in text_of(came[0])
    assert came[1] == Answer("", None, End.TURNS)


@pytest.mark.parametrize(
    "turn",
    [
        "```submit\nabsent.py\n```",
        "```submit\n../../etc/passwd\n```",
        "```file ../outside\nx\n```",
        "```file /etc/passwd\nx\n```",
        "```file .\nx\n```",
        "```shell\nprintf '\\000'; echo \ud800 \x00\n```",
    ],
)
def test_what_there_is_not_is_the_policy_s_to_put_right(service: str, turn: str) -> None:
    _, came = play(service, Setting.AGENTIC, [turn, file(RIGHT), SUBMIT])
    assert isinstance(came[0], Observation)
    assert isinstance(came[-1], Answer)
    assert came[-1].submission is not None
    assert came[-1].submission.feedback.verdict == "AC"


@pytest.mark.parametrize(
    "attack",
    [
        "kill -9 -1",
        "python3 -c 'while 1: x = bytearray(10**9); x[::4096] = x[::4096]'",
        ":(){ :|:& };:",
        "rm -rf /work/* /work; ls /proc/*/fd",
    ],
)
def test_no_policy_can_have_its_episode_masked(service: str, attack: str) -> None:
    turns = [file(WRONG), SUBMIT, shell(attack), shell("true"), file(RIGHT), SUBMIT]
    _, came = play(service, Setting.AGENTIC, turns, call_s=2)
    assert not [each for each in came if isinstance(each, Masked)]
    assert isinstance(came[-1], Answer)
    assert came[-1].submission is not None
    if came[-1].end is End.SESSION:
        assert came[-1].submission.source == WRONG
    else:
        assert came[-1].submission.source == RIGHT


def test_a_problem_that_there_is_not_stops_everything(service: str) -> None:
    with pytest.raises(NotFound):
        play(service, Setting.AGENTIC, [shell("true")], problem="absent")


def test_a_service_that_stops_masks_the_episode(native_host: NativeHost) -> None:
    async def begin_and_go_on(before: bool, environment: Environment) -> Turn:
        return await environment.play(episode, file(WRONG) if before else SUBMIT)

    episode = Episode("Solve it.", Setting.AGENTIC, Budget(), problem=SUM)
    with asyncio.Runner() as runner:
        with embedded_service() as url:
            client = AsyncClient(url, "", patience_s=0.5)
            environment = Environment(client)
            began = runner.run(begin_and_go_on(True, environment))
            assert isinstance(began, Observation)
        ended = runner.run(begin_and_go_on(False, environment))
        runner.run(client.aclose())
    assert isinstance(ended, Masked)


def sampled(*words: object) -> Result:
    arguments = [str(word) for word in words]
    return CliRunner().invoke(build_app(arguments), arguments)


def tools_policy(messages: list[dict[str, str]], seed: int) -> str:
    if len(messages) == 1:
        return run("print(sum(map(int, '1 2'.split())))")
    assert messages[-1]["content"].startswith("exit code 0\noutput :\n3\n")
    return f"It is right.\n```python\n{RIGHT}```"


def agentic_policy(messages: list[dict[str, str]], seed: int) -> str:
    turns = [file(WRONG), SUBMIT, file(RIGHT), shell("python3 main.py < examples/1.in"), SUBMIT]
    return turns[len(messages) // 2]


@pytest.mark.parametrize(
    ("setting", "policy", "turns"), [("tools", tools_policy, 2), ("agentic", agentic_policy, 5)]
)
def test_samples_of_episodes_are_drawn_and_judged(
    service: str,
    tmp_path: Path,
    setting: str,
    policy: Callable[[list[dict[str, str]], int], str],
    turns: int,
) -> None:
    problems, out = tmp_path / "problems.jsonl", tmp_path / "samples.jsonl"
    rows = [{"id": f"sum{number}", "problem": SUM.model_dump(mode="json")} for number in range(2)]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fake: FakeOpenAI
    with running_openai() as fake:
        fake.script = policy
        options = ["--engine", "openai", "--base-url", fake.url, "--service", service]
        words = ["sample", "scripted", "--problems", problems, "--out", out, "-n", 2, *options]
        words += ["--setting", setting, "--budget", "turns=6"]
        result = sampled(*words)
        assert result.exit_code == 0, result.output
        asked = [each for _, _, body in fake.received for each in body["messages"]]
        assert sampled(*words).exit_code == 0  # nothing is missing: nothing is asked
        again = len(fake.received)
        assert sampled(*words[:-1], "turns=7").exit_code == 2  # another budget: another run
    assert again == 4 * turns
    shown = "\n".join(each["content"] for each in asked if each["role"] == "user")
    assert "Example input:\n\n```\n1 2\n```" in shown
    assert not [text for text in HIDDEN if text in shown]
    header = read_header(out, SamplesHeader)
    assert header.setting == setting
    assert header.sampling.budget == Budget(turns=6)
    samples = [line.record for line in read_lines(out, Sample)]
    assert {(each.turns, each.finish_reason) for each in samples} == {(turns, "answer")}
    assert {each.completion_tokens for each in samples} == {4 * turns}
    verdicts = tmp_path / "verdicts.jsonl"
    judged = sampled("evaluate", out, "--out", verdicts, "--url", service)
    assert judged.exit_code == 0, judged.output
    assert {line.record.verdict.value for line in read_lines(verdicts, JudgedSample)} == {"AC"}

    async def left() -> list[str]:
        async with AsyncClient(service, "") as client:
            return [each.id for each in await client.problems.list()]

    assert asyncio.run(left()) == []  # what was registered for the run is gone


def counting_policy(messages: list[dict[str, str]], seed: int) -> str:
    """Runs one to three programs that print seeds; answers by the last of them."""
    time.sleep(0.02)
    if len(messages) < 3 + 2 * (len(messages[1]["content"]) % 3 if len(messages) > 1 else 0):
        return run(f"print({seed})")
    return "answer " + messages[-1]["content"].split()[5]


@pytest.mark.slow
def test_a_killed_run_of_episodes_ends_as_one_that_was_not(service: str, tmp_path: Path) -> None:
    problems = tmp_path / "problems.jsonl"
    rows = [{"id": f"sum{number}", "statement": "Add."} for number in range(3)]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def lines(path: Path) -> list[str]:
        return sorted(path.read_text().splitlines()[1:]) if path.exists() else []

    with running_openai() as fake:
        fake.script = counting_policy
        options = ["--engine", "openai", "--base-url", fake.url, "--service", service]
        options += ["--problems", str(problems), "-n", "12", "--setting", "tools"]
        options += ["--episodes", "8"]
        whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
        assert sampled("sample", "scripted", "--out", whole, *options).exit_code == 0
        command = [sys.executable, "-m", "cupel.cli", "sample", "scripted", "--out", str(killed)]
        process = subprocess.Popen(
            [*command, *options],
            env={**os.environ},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None and len(lines(killed)) < 6:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert 6 <= len(lines(killed)) < 36
        assert sampled("sample", "scripted", "--out", killed, *options).exit_code == 0
    assert lines(killed) == lines(whole)
    assert len({json.loads(line)["turns"] for line in lines(whole)}) > 1
