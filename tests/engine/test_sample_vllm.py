"""`cupel sample --engine vllm` with a real vLLM, where one is installed."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed here: make test-vllm", allow_module_level=True)

sys.path.append(str(Path(__file__).resolve().parents[1] / "unit" / "trainer"))
from tiny_causal_lm import make_checkpoint, write_problems
from typer.testing import CliRunner

from cupel_trainer.episodes.message import assistant, user
from cupel_trainer.errors import EngineError
from cupel_trainer.evaluate.engine import CONTEXT, Completion, Request
from cupel_trainer.evaluate.engine_hf import HfEngine
from cupel_trainer.evaluate.engine_vllm import IN_FLIGHT, VllmEngine
from cupel_trainer.evaluate.record_file import read_lines
from cupel_trainer.evaluate.records import Sample, Sampling
from cupel_trainer.evaluate.sample_command import sample

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("default"),  # vLLM's own, in this process
]

CPU = {
    "enforce_eager": True,
    "kv_cache_memory_bytes": 256 * 2**20,
    "max_model_len": 512,
    # In chunks, vLLM rewinds the generators of seeded requests, which those of a CPU do not allow.
    "enable_chunked_prefill": False,
}
PROMPTS = ("Add two numbers.", "Solve the following programming problem: sort what is given.")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("tiny"), context_tokens=512)


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Iterator[VllmEngine]:
    loaded = VllmEngine(str(checkpoint), dtype="float32", options=CPU)
    yield loaded
    loaded.close()


def draw(
    engine: VllmEngine | HfEngine, requests: list[Request], sampling: Sampling
) -> list[Completion]:
    drawn = [each for batch in engine.draw(requests, sampling) for each in batch]
    return sorted(drawn, key=lambda each: each.index)


def test_it_writes_what_transformers_writes(engine: VllmEngine, checkpoint: Path) -> None:
    greedy = Sampling(temperature=0, max_tokens=10)
    requests = [Request.of_prompt(prompt, 1) for prompt in PROMPTS]
    reference = HfEngine(str(checkpoint), dtype="float32", device="cpu")
    assert draw(engine, requests, greedy) == draw(reference, requests, greedy)


def test_a_completion_depends_on_its_seed(engine: VllmEngine) -> None:
    sampling = Sampling(max_tokens=12)
    requests = [Request.of_prompt(PROMPTS[number % 2], 1000 + number) for number in range(8)]
    together = [each.text for each in draw(engine, requests, sampling)]
    alone = [draw(engine, [request], sampling)[0].text for request in requests]
    assert together == alone
    assert len(set(alone)) > 4


def test_more_requests_than_it_holds_at_one_time_are_all_answered(engine: VllmEngine) -> None:
    requests = [Request.of_prompt(PROMPTS[0], seed) for seed in range(IN_FLIGHT + 5)]
    drawn = draw(engine, requests, Sampling(max_tokens=1))
    assert [each.index for each in drawn] == list(range(IN_FLIGHT + 5))


def test_stopping_early_leaves_nothing_under_way(engine: VllmEngine) -> None:
    drawn = engine.draw(
        [Request.of_prompt(PROMPTS[0], seed) for seed in range(50)], Sampling(max_tokens=9)
    )
    next(iter(drawn))
    drawn.close()  # type: ignore[attr-defined]  # it is a generator
    assert len(draw(engine, [Request.of_prompt(PROMPTS[1], 1)], Sampling(max_tokens=2))) == 1


def test_a_prompt_that_is_too_long_is_said(engine: VllmEngine) -> None:
    with pytest.raises(EngineError, match="and .* takes 512"):
        draw(engine, [Request.of_prompt("b" * 600, 2)], Sampling())


def test_a_cut_file_is_gone_on_with(checkpoint: Path, tmp_path: Path) -> None:
    import typer

    app = typer.Typer()
    app.command()(sample)
    out = tmp_path / "samples.jsonl"
    words = [str(checkpoint), "--problems", str(write_problems(tmp_path / "set.jsonl", 2))]
    words += ["--out", str(out), "-n", "20", "--engine", "vllm", "--dtype", "float32"]
    words += ["--max-tokens", "8", *(f"--vllm={name}={value}" for name, value in OPTIONS)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    content = out.read_bytes()
    whole = read(out)
    assert len(whole) == 40
    out.write_bytes(content[: len(content) // 2])
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert read(out) == whole


OPTIONS = [(name, str(value).lower()) for name, value in CPU.items()]


def read(out: Path) -> list[Sample]:
    found = [line.record for line in read_lines(out, Sample)]
    return sorted(found, key=lambda each: (each.problem, each.sample))


def test_turns_of_conversations_are_drawn_as_they_are_wanted(
    engine: VllmEngine, checkpoint: Path
) -> None:
    conversation = (user(PROMPTS[0]), assistant("print(1)"), user("exit code 0"))
    grown = (user("a"), assistant("b" * 600), user("c"))
    wanted = iter([None, Request(conversation, 5), None, Request(grown, 6), None, None])
    drawn = list(engine.draw(wanted, Sampling(temperature=0, max_tokens=8)))
    assert drawn[0] == []  # nothing to do yet
    turns = {each.index: each for some in drawn for each in some}
    assert (turns[1].text, turns[1].finish_reason) == ("", CONTEXT)
    other = HfEngine(str(checkpoint), dtype="float32", device="cpu")
    (expected,) = draw(other, [Request(conversation, 5)], Sampling(temperature=0, max_tokens=8))
    assert (turns[0].text, turns[0].prompt_tokens) == (expected.text, expected.prompt_tokens)
