from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cupel_trainer.episodes.message import Messages, assistant, user
from cupel_trainer.episodes.tokens import TokenTrack, TurnTemplate
from cupel_trainer.errors import PromptError

pytest.importorskip("transformers")

END, START = "<|im_end|>", "<|im_start|>"
QWEN = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FORGETFUL = (  # as Qwen3's: only the last turn keeps its thoughts
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if loop.last and m['role'] == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


# Any: transformers has no types that mypy --strict can use.
def make_tokenizer(template: str | None) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    words.train_from_iterator(
        ["exit code 0 output : turns left 3 , calls left 2 print"] * 3,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=[END, START],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token=END)
    if template is not None:
        tokenizer.chat_template = template
    return tokenizer


CHATTING = make_tokenizer(QWEN)
PLAIN = make_tokenizer(None)

said = st.text(alphabet="ab `\n:é漢0", max_size=12)


def sampled(tokenizer: Any, text: str, *, ended: bool) -> list[int]:
    """Tokens as a model may sample them: not those that encoding the text would give."""
    ids: list[int] = []
    for character in text:
        ids += tokenizer(character)["input_ids"]
    return ids + ([tokenizer.eos_token_id] if ended else [])


def track_of(
    tokenizer: Any, prompt: str, exchanges: list[tuple[str, str]], *, ended: bool
) -> TokenTrack:
    track = TokenTrack(TurnTemplate(tokenizer), (user(prompt),))
    for turn, told in exchanges:
        track.add_turn(sampled(tokenizer, turn, ended=ended))
        track.add_observation(told)
    return track


@settings(max_examples=60, deadline=None)
@given(said, st.lists(st.tuples(said, said), max_size=3), st.booleans())
def test_a_track_reads_as_the_rendered_conversation(
    prompt: str, exchanges: list[tuple[str, str]], ended: bool
) -> None:
    track = track_of(CHATTING, prompt, exchanges, ended=ended)
    messages: Messages = (user(prompt),)
    for turn, told in exchanges:
        messages = (*messages, assistant(turn), user(told))
    rendered = CHATTING.apply_chat_template(
        [{"role": each.role, "content": each.content} for each in messages],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert CHATTING.decode(track.context_ids, clean_up_tokenization_spaces=False) == rendered


@settings(max_examples=60, deadline=None)
@given(said, st.lists(st.tuples(said, said), max_size=3), st.booleans())
def test_sampled_tokens_stay_as_they_were_sampled(
    prompt: str, exchanges: list[tuple[str, str]], ended: bool
) -> None:
    track = track_of(CHATTING, prompt, exchanges, ended=ended)
    own = [id_ for id_, mine in zip(track.completion_ids, track.env_mask, strict=True) if mine]
    assert own == [id_ for turn, _ in exchanges for id_ in sampled(CHATTING, turn, ended=ended)]


def test_without_a_chat_template_turns_are_put_behind_each_other() -> None:
    track = track_of(PLAIN, "ask", [("turn", "told"), ("again", "more")], ended=True)
    text = PLAIN.decode(track.context_ids, clean_up_tokenization_spaces=False)
    assert text == f"askturn{END}\ntold\nagain{END}\nmore\n"
    open_ended = track_of(PLAIN, "ask", [("turn", "told")], ended=False)
    assert PLAIN.decode(open_ended.context_ids).count(END) == 1


def test_logprobs_are_kept_beside_the_tokens() -> None:
    track = TokenTrack(TurnTemplate(CHATTING), (user("ask"),))
    track.add_turn([5, 6], [-0.5, -0.25])
    track.add_observation("told")
    track.add_turn([7], [-1.0])
    assert track.logprobs is not None
    assert len(track.logprobs) == len(track.env_mask) == len(track.completion_ids)
    assert [value for value in track.logprobs if value] == [-0.5, -0.25, -1.0]
    assert track.env_mask[:2] == (1, 1)
    assert track.env_mask[-1] == 1
    assert set(track.env_mask[2:-1]) == {0}
    with pytest.raises(ValueError, match="1 log-probabilities for 2 tokens"):
        track.add_turn([1, 2], [0.0])
    track.add_turn([1])
    assert track.logprobs is None


def test_a_template_that_rewrites_earlier_turns_is_refused() -> None:
    with pytest.raises(PromptError, match="a template for training"):
        TurnTemplate(make_tokenizer(FORGETFUL))
    plain = TurnTemplate(make_tokenizer(FORGETFUL), chat=False)
    assert plain.prompt_ids((user("ask"),))
