from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_causal_lm import make_checkpoint

from cupel_trainer.episodes.message import assistant, user
from cupel_trainer.errors import EngineError
from cupel_trainer.evaluate.engine import CONTEXT, Completion, Request
from cupel_trainer.evaluate.engine_hf import HfEngine
from cupel_trainer.evaluate.records import Sampling

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

PROMPTS = ("Add two numbers.", "Solve the following programming problem: sort what is given.")


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp(request.param), kind=request.param)


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Iterator[HfEngine]:
    loaded = HfEngine(str(checkpoint), dtype="float32", device="cpu", batch_size=4)
    yield loaded
    loaded.close()


def draw(
    engine: HfEngine, requests: list[Request], sampling: Sampling | None = None
) -> list[Completion]:
    drawn = engine.draw(requests, sampling or Sampling(max_tokens=12))
    return [completion for batch in drawn for completion in batch]


def test_a_completion_depends_on_its_seed_and_not_on_its_batch(engine: HfEngine) -> None:
    requests = [Request.of_prompt(PROMPTS[number % 2], 1000 + number) for number in range(8)]
    together = draw(engine, requests)
    alone = [draw(engine, [request])[0].text for request in requests]
    assert [completion.index for completion in together] == list(range(8))
    assert [completion.text for completion in together] == alone
    assert len(set(alone)) > 4
    again = draw(engine, [Request.of_prompt(PROMPTS[0], 1000), Request.of_prompt(PROMPTS[0], 1001)])
    assert again[0].text == alone[0]
    assert again[1].text != alone[1]  # another prompt


def test_draws_follow_the_model_s_distribution(engine: HfEngine, checkpoint: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    text = f"<|user|>{PROMPTS[0]}<|end|>"
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        expected = torch.softmax(model(ids).logits[0, -1].double() / 0.5, -1)
    number = 2000
    requests = [Request.of_prompt(PROMPTS[0], seed) for seed in range(number)]
    big = HfEngine(str(checkpoint), dtype="float32", device="cpu", batch_size=500)
    drawn = draw(big, requests, Sampling(temperature=0.5, max_tokens=1))
    counts = Counter(completion.text for completion in drawn)
    likely: Counter[str] = Counter()  # some tokens, such as single bytes, have one text
    for token, probability in enumerate(expected.tolist()):
        likely[tokenizer.decode([token], skip_special_tokens=True)] += probability
    for text, probability in likely.most_common(4):
        deviation = (number * probability * (1 - probability)) ** 0.5
        assert abs(counts[text] - number * probability) < 5 * deviation


def test_top_p_leaves_out_the_tail(engine: HfEngine) -> None:
    requests = [Request.of_prompt(PROMPTS[0], seed) for seed in range(40)]
    anything = draw(engine, requests, Sampling(temperature=2.0, max_tokens=1))
    likely = draw(engine, requests, Sampling(temperature=2.0, top_p=0.1, max_tokens=1))
    assert len({each.text for each in likely}) < len({each.text for each in anything})


def test_temperature_zero_takes_the_likeliest(engine: HfEngine, checkpoint: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    text = f"<|user|>{PROMPTS[1]}<|end|>"
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        for _ in range(6):
            ids = torch.cat([ids, model(ids).logits[:, -1].argmax(-1, keepdim=True)], -1)
    expected = tokenizer.decode(ids[0, -6:], skip_special_tokens=True)
    for completion in draw(
        engine,
        [
            Request.of_prompt(PROMPTS[1], 1),
            Request.of_prompt(PROMPTS[0], 2),
            Request.of_prompt(PROMPTS[1], 3),
        ],
        Sampling(temperature=0, max_tokens=6),
    )[::2]:
        assert completion.text == expected


def test_how_a_completion_ended_is_told(engine: HfEngine) -> None:
    drawn = draw(
        engine,
        [Request.of_prompt(PROMPTS[0], seed) for seed in range(60)],
        Sampling(temperature=3.0, max_tokens=20),
    )
    reasons = Counter(completion.finish_reason for completion in drawn)
    assert set(reasons) == {"stop", "length"}
    for completion in drawn:
        assert "<|end|>" not in completion.text
        if completion.finish_reason == "length":
            assert completion.completion_tokens == 20
        assert completion.prompt_tokens == drawn[0].prompt_tokens > 0


def test_the_checkpoint_s_own_taste_is_left_out(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "plain")
    plain = HfEngine(str(folder), dtype="float32", device="cpu")
    requests = [Request.of_prompt(PROMPTS[0], seed) for seed in range(4)]
    expected = [completion.text for completion in draw(plain, requests)]
    (folder / "generation_config.json").write_text(
        '{"do_sample": true, "top_k": 1, "repetition_penalty": 5.0, "eos_token_id": [0]}'
    )
    tasteful = HfEngine(str(folder), dtype="float32", device="cpu")
    assert [completion.text for completion in draw(tasteful, requests)] == expected


def test_plain_text_goes_without_the_chat_template(checkpoint: Path) -> None:
    chat, plain = (
        HfEngine(str(checkpoint), dtype="float32", device="cpu", chat=chat)
        for chat in (True, False)
    )
    (one,) = draw(chat, [Request.of_prompt(PROMPTS[0], 5)])
    (other,) = draw(plain, [Request.of_prompt(PROMPTS[0], 5)])
    assert one.prompt_tokens == other.prompt_tokens + 2
    assert one.text != other.text


def test_half_precision_is_loaded_as_asked(checkpoint: Path) -> None:
    half = HfEngine(str(checkpoint), dtype="bfloat16", device="cpu")
    (completion,) = draw(half, [Request.of_prompt(PROMPTS[0], 5)])
    assert completion.completion_tokens > 0


def test_a_prompt_that_is_too_long_is_said_before_anything_is_drawn(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, context_tokens=64)
    short = HfEngine(str(folder), device="cpu", batch_size=1)
    drawn = short.draw([Request.of_prompt("a", 1), Request.of_prompt("b" * 100, 2)], Sampling())
    with pytest.raises(EngineError, match=r"has 102 tokens, and .* takes 64"):
        next(drawn)
    (cut,) = draw(short, [Request.of_prompt("a" * 50, 1)], Sampling(temperature=0, max_tokens=500))
    assert cut.prompt_tokens + cut.completion_tokens <= 64


def test_a_prompt_without_a_token_is_said(checkpoint: Path) -> None:
    plain = HfEngine(str(checkpoint), device="cpu", chat=False)
    with pytest.raises(EngineError, match="has no token for ''"):
        draw(plain, [Request.of_prompt("", 1)])


def test_what_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot be loaded"):
        HfEngine(str(tmp_path))
    folder = make_checkpoint(tmp_path / "torn")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(EngineError, match="torn cannot be loaded"):
        HfEngine(str(folder), device="cpu")


def test_a_checkpoint_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = make_checkpoint(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(EngineError, match=f"lacks 1 tensors, such as {name}"):
        HfEngine(str(folder), device="cpu")


def test_a_conversation_goes_on_by_the_chat_template(checkpoint: Path, engine: HfEngine) -> None:
    conversation = (user(PROMPTS[0]), assistant("print(1)"), user("exit code 0"))
    (turn,) = draw(engine, [Request(conversation, 5)], Sampling(temperature=0, max_tokens=8))
    as_one = "<|end|><|user|>".join(each.content for each in conversation)
    (same,) = draw(engine, [Request.of_prompt(as_one, 5)], Sampling(temperature=0, max_tokens=8))
    assert (turn.text, turn.prompt_tokens) == (same.text, same.prompt_tokens)
    plain = HfEngine(str(checkpoint), dtype="float32", device="cpu", chat=False)
    (turn,) = draw(plain, [Request(conversation, 5)])
    (same,) = draw(plain, [Request.of_prompt(f"{PROMPTS[0]}print(1)<|end|>\nexit code 0\n", 5)])
    assert (turn.text, turn.prompt_tokens) == (same.text, same.prompt_tokens)


def test_a_conversation_that_outgrew_the_model_has_no_further_turn(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, context_tokens=64)
    short = HfEngine(str(folder), device="cpu", batch_size=4)
    grown = (user("a"), assistant("b" * 100), user("c"))
    drawn = draw(short, [Request(grown, 1), Request.of_prompt("a", 2), Request(grown, 3)])
    by_index = {each.index: each for each in drawn}
    assert [by_index[index].finish_reason == CONTEXT for index in range(3)] == [True, False, True]
    assert by_index[1].completion_tokens > 0
    (alone,) = draw(short, [Request(grown, 1)])
    assert (alone.text, alone.finish_reason) == ("", CONTEXT)


def test_turns_are_drawn_as_they_are_wanted(engine: HfEngine) -> None:
    wanted = [Request.of_prompt(PROMPTS[number % 2], number) for number in range(5)]
    expected = [each.text for each in draw(engine, wanted)]
    drawn = list(engine.draw(iter([None, *wanted[:2], None, *wanted[2:]]), Sampling(max_tokens=12)))
    assert [len(some) for some in drawn] == [0, 2, 3]
    assert [each.index for some in drawn for each in some] == list(range(5))
    assert [each.text for some in drawn for each in some] == expected
