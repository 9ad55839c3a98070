"""A server is swapped over HTTP, while it serves."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import broken_streams
import httpx
import pytest
import typer
from asking import NEW_TOKENS, PROMPT, TOLERANCE, Answer, distance
from serving import started_server
from stage import ALPHAS, Trial, need_vllm
from typer.testing import CliRunner

from cupel_trainer.engine import ServerEngine
from cupel_trainer.engine.swap import UNFINISHED_VERSION
from cupel_trainer.engine.swap_command import swap_server

need_vllm()

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("default"),  # vLLM's own, in this process
]

app = typer.Typer()
app.command()(swap_server)


@pytest.fixture(scope="module")
def server(tied_trial: Trial, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("server") / "log"
    with started_server(tied_trial.ends.low, log) as url:
        yield url


def ask_server(url: str) -> Answer:
    """As `asking.ask`, over HTTP."""
    base = {
        "model": "tiny",
        "prompt": PROMPT,
        "temperature": 0,
        "ignore_eos": True,
        "return_tokens_as_token_ids": True,
    }
    scored, greedy = (
        httpx.post(f"{url}/v1/completions", json=base | more, timeout=300)
        .raise_for_status()
        .json()["choices"][0]
        for more in (
            {"max_tokens": 1, "prompt_logprobs": 0},
            {"max_tokens": NEW_TOKENS, "logprobs": 0},
        )
    )
    places = zip(PROMPT[1:], scored["prompt_logprobs"][1:], strict=True)
    return Answer(
        [found[str(token)]["logprob"] for token, found in places],
        greedy["logprobs"]["token_logprobs"],
        [int(token.removeprefix("token_id:")) for token in greedy["logprobs"]["tokens"]],
    )


def swap_by_command(trial: Trial, url: str, alpha: float) -> str:
    ends = [str(trial.ends.low), str(trial.ends.high)]
    result = CliRunner().invoke(app, [*ends, "--url", url, f"--alpha={alpha:g}"])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command_brings_a_server_to_any_alpha(server: str, tied_trial: Trial) -> None:
    for alpha in (*ALPHAS, 0.0):
        said = swap_by_command(tied_trial, server, alpha)
        assert distance(ask_server(server), tied_trial.fresh[alpha]) < TOLERANCE
        version = tied_trial.lerp().digest(alpha)
        assert re.search(rf"alpha {alpha:g}: 26 tensors, 0.3 MB in \d+\.\d+ s\n", said)
        assert f"weight version {version} (before: " in said
        assert httpx.get(f"{server}/weight_info").json() == {"weight_version": version}


def test_every_answer_comes_from_one_checkpoint_while_weights_are_swapped(
    server: str, tied_trial: Trial
) -> None:
    answers: list[Answer] = []
    faults: list[Exception] = []
    enough = threading.Event()

    def keep_asking() -> None:
        body = {"model": "tiny", "prompt": PROMPT, "temperature": 0, "ignore_eos": True}
        more = {"max_tokens": NEW_TOKENS, "logprobs": 0, "return_tokens_as_token_ids": True}
        while not enough.is_set():
            try:
                response = httpx.post(f"{server}/v1/completions", json=body | more, timeout=300)
                logprobs = response.raise_for_status().json()["choices"][0]["logprobs"]
            except httpx.HTTPError as error:
                faults.append(error)
                return
            tokens = [int(token.removeprefix("token_id:")) for token in logprobs["tokens"]]
            answers.append(Answer([], logprobs["token_logprobs"], tokens))

    swap_by_command(tied_trial, server, 0.0)
    askers = [threading.Thread(target=keep_asking) for _ in range(3)]
    for asker in askers:
        asker.start()
    for alpha in (*ALPHAS, *ALPHAS):
        swap_by_command(tied_trial, server, alpha)
    enough.set()
    for asker in askers:
        asker.join()
    wanted = [Answer([], each.continuation, each.tokens) for each in tied_trial.fresh.values()]
    assert not faults
    assert len(answers) >= len(ALPHAS)
    for answer in answers:
        assert min(distance(answer, one) for one in wanted) < TOLERANCE


def test_a_swap_that_was_killed_leaves_a_server_that_waits_for_the_next(
    server: str, tied_trial: Trial
) -> None:
    ends = [str(tied_trial.ends.low), str(tied_trial.ends.high)]
    with subprocess.Popen(
        [sys.executable, broken_streams.__file__, *ends, server], stdout=subprocess.PIPE, text=True
    ) as swapping:
        assert swapping.stdout is not None
        assert any("in the middle" in line for line in swapping.stdout)
        swapping.kill()
    with ServerEngine(server) as engine:
        assert engine.weight_version() == UNFINISHED_VERSION
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 1}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server}/v1/completions", json=body, timeout=2)
    swap_by_command(tied_trial, server, 0.3)
    assert distance(ask_server(server), tied_trial.fresh[0.3]) < TOLERANCE


def test_a_refused_swap_is_reported_and_the_server_goes_on(
    server: str, tied_trial: Trial, tmp_path: Path
) -> None:
    from tiny_models import Kind, make_ends

    swap_by_command(tied_trial, server, 1.0)
    other = make_ends(tmp_path, Kind("qwen3", tied=True))
    command = [str(other.low), str(other.high), "--url", server, "--alpha=0.5"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert "the engine serves another model" in result.output
    assert "q_norm.weight is not in the engine's model" in result.output
    assert distance(ask_server(server), tied_trial.fresh[1.0]) < TOLERANCE


def test_a_server_with_mixed_weights_that_is_made_to_go_on_stops(
    tied_trial: Trial, tmp_path: Path
) -> None:
    ends = [str(tied_trial.ends.low), str(tied_trial.ends.high)]
    with started_server(tied_trial.ends.low, tmp_path / "log") as url:
        with subprocess.Popen(
            [sys.executable, broken_streams.__file__, *ends, url], stdout=subprocess.PIPE, text=True
        ) as swapping:
            assert swapping.stdout is not None
            assert any("in the middle" in line for line in swapping.stdout)
            swapping.kill()
        httpx.post(f"{url}/resume").raise_for_status()
        body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 1}
        with suppress(httpx.TransportError):  # or it closes the connection as it stops
            assert httpx.post(f"{url}/v1/completions", json=body, timeout=300).is_error
        assert "swap again, or restart the engine" in (tmp_path / "log").read_text()
