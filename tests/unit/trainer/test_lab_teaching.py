"""The lab's tokenizer and lessons: nothing is lost, and forms are those of real episodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupel_trainer.episodes.actions import Final, RunCode, Shell, Submit, WriteFile, parse_action
from cupel_trainer.episodes.tokens import TurnTemplate
from cupel_trainer.evaluate.records import Setting
from cupel_trainer.lab.family.problems import FAMILY, FamilyProblem, draw_problem
from cupel_trainer.lab.family.skeleton import Kind, Part
from cupel_trainer.lab.lessons import Lesson, Mix, choose_program, make_lessons, vocabulary_texts
from cupel_trainer.lab.recipe import BUDGETS

pytest.importorskip("torch")

from cupel_trainer.lab.policy import PolicySize, make_policy
from cupel_trainer.lab.teaching import IGNORED, Teaching, encode_lesson, teach
from cupel_trainer.lab.vocabulary import make_tokenizer, split_words


def some_lessons(count: int, seed: int = 0) -> list[tuple[Setting, Lesson]]:
    random = np.random.default_rng(seed)
    settings = [list(Setting)[number % 3] for number in range(count)]
    problems = [draw_problem(random, list(Part)[number % 2], 0.0) for number in range(count)]
    lessons = make_lessons(problems, settings, BUDGETS, Mix(), random)
    return list(zip(settings, lessons, strict=True))


@pytest.fixture(scope="module")
def tokenizer() -> Any:  # transformers has no types
    return make_tokenizer(vocabulary_texts([lesson for _, lesson in some_lessons(600)]))


def test_every_text_that_the_policy_meets_survives_the_tokenizer(tokenizer: Any) -> None:
    for _, lesson in some_lessons(150, seed=1):
        for text in lesson.texts:
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("skeleton", FAMILY, ids=lambda each: each.name)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_program_survives_being_split_into_words(skeleton: Any, seed: int) -> None:
    numbers = skeleton.draw(np.random.default_rng(seed))
    for program in FamilyProblem(skeleton, numbers, modest=False).programs:
        assert "".join(split_words(program.source)) == program.source


@given(st.text(st.characters(codec="utf-8")))
def test_splitting_loses_no_character_of_any_text(text: str) -> None:
    assert "".join(split_words(text)) == text


def test_numbers_below_100_are_one_token_and_others_digits() -> None:
    assert split_words("7 42 165") == ["7", " 42", " 1", "6", "5"]


def test_a_word_that_was_never_seen_is_unknown(tokenizer: Any) -> None:
    assert tokenizer("Print xylophone")["input_ids"][1] == tokenizer.unk_token_id


def test_the_chat_template_lets_turns_be_appended(tokenizer: Any) -> None:
    template = TurnTemplate(tokenizer)  # raises where it does not
    assert template.chat


def test_lessons_are_the_token_sequences_of_conversations(tokenizer: Any) -> None:
    for _, lesson in some_lessons(30, seed=2):
        roles = ("user", "assistant")
        messages = [
            {"role": roles[number % 2], "content": text} for number, text in enumerate(lesson.texts)
        ]
        ids, labels = encode_lesson(tokenizer, lesson)
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
        assert ids == tokenizer(whole, add_special_tokens=False)["input_ids"]
        learned = [label for label in labels if label != IGNORED]
        said = "".join(f"{text}<|end|>" for text in lesson.texts[1::2])
        assert tokenizer.decode(learned) == said


def test_every_turn_of_a_lesson_is_the_action_that_its_setting_knows() -> None:
    kinds: dict[Setting, set[type]] = {setting: set() for setting in Setting}
    for setting, lesson in some_lessons(90):
        actions = [parse_action(setting, text, cut=False) for text in lesson.texts[1::2]]
        kinds[setting].update(map(type, actions))
        assert isinstance(actions[-1], Submit if setting is Setting.AGENTIC else Final)
    assert kinds == {
        Setting.REASONING: {Final},
        Setting.TOOLS: {RunCode, Final},
        Setting.AGENTIC: {WriteFile, Shell, Submit},
    }


def test_a_draft_that_fails_the_example_is_not_the_answer_of_most_lessons() -> None:
    changed = kept = 0
    for setting, lesson in some_lessons(400, seed=3):
        if setting is Setting.AGENTIC:
            changed += len(lesson.texts) == 8
            kept += len(lesson.texts) == 6
    assert kept > changed > 10


def test_programs_are_chosen_by_the_mix() -> None:
    random = np.random.default_rng(0)
    mix = Mix(hard={Kind.SLOW: 0.6, Kind.FAST: 0.1, Kind.WRONG: 0.3})
    chosen = [
        choose_program(draw_problem(random, Part.HARD, 0.0), mix, random).kind for _ in range(2000)
    ]
    for kind, share in mix.hard.items():
        assert chosen.count(kind) / 2000 == pytest.approx(share, abs=0.05)


def test_the_policy_learns_lessons_and_the_same_seed_gives_the_same_weights(tokenizer: Any) -> None:
    lessons = [lesson for _, lesson in some_lessons(64)]
    teaching = Teaching(lessons=64, steps=12, later_steps=4, batch_size=8, warm_up=2)
    size = PolicySize(hidden=16, layers=1, heads=2, inner=32)

    def taught() -> tuple[list[float], dict[str, Any]]:
        model = make_policy(size, tokenizer, seed=3)
        losses: list[float] = []
        teach(model, tokenizer, lessons, teaching, 5, lambda step, loss: losses.append(loss))
        return losses, model.state_dict()

    losses, first = taught()
    again, second = taught()
    assert len(losses) == 16
    assert losses[-1] < losses[0]
    assert losses == again
    assert all((first[name] == second[name]).all() for name in first)
