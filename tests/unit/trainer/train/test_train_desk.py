"""The verdict desk: batches, judging errors, a service that goes and comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path

import pytest
from fake_judge import FakeJudge, fake_judge
from tiny_policy import tiny_recipe, write_problems

from cupel.schema import FailureClass
from cupel_trainer.errors import TrainingError
from cupel_trainer.evaluate.problem_set import read_problem_set
from cupel_trainer.train.desk import Desk
from cupel_trainer.train.recipe import Recipe
from cupel_trainer.train.step_record import Scores


@pytest.fixture
def judge() -> Iterator[FakeJudge]:
    with fake_judge() as fake:
        yield fake


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_problems(tmp_path / "problems.jsonl")
    return tmp_path


def desk_of(folder: Path, fake: FakeJudge, recipe: Recipe | None = None) -> Desk:
    recipe = recipe or tiny_recipe(folder)
    return Desk(recipe, read_problem_set(recipe.problems.set), fake.url, folder / "out", "")


def test_completions_that_come_together_share_a_request(folder: Path, judge: FakeJudge) -> None:
    recipe = tiny_recipe(folder, service={"linger_s": 0.3, "batch": 3})
    with desk_of(folder, judge, recipe) as desk:
        first = desk.judge("say-1", "print(1)", 0).result()
        handles = [desk.judge("say-1", f"print({number})", 0) for number in range(7)]
        rewards = [handle.result().reward for handle in handles]
    assert first.reward == 1.0
    assert rewards == [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert sorted(len(each.completions) for each in judge.requests) == [1, 1, 3, 3]
    assert judge.problems == {}, "what the run registered is removed"


def test_coverage_of_a_step_decides_the_reward(folder: Path, judge: FakeJudge) -> None:
    recipe = tiny_recipe(
        folder, coverage={"schedule": [[0, 1], [2, 1.0]]}, reward={"full_coverage": True}
    )
    with desk_of(folder, judge, recipe) as desk:
        low, high = (desk.judge("say-1", "slow", step).result() for step in (1, 2))
    assert (low.level, low.reward, low.failure) == (1, 1.0, FailureClass.NONE)
    assert (high.level, high.reward, high.failure) == (2, 0.0, FailureClass.OPTIMIZATION)
    assert low.solved_fully is high.solved_fully is False


def test_a_judging_error_is_asked_again_and_then_masked(folder: Path, judge: FakeJudge) -> None:
    judge.errors.update({"print(1)": 2, "print(2)": 9})
    with desk_of(folder, judge) as desk:
        healed = desk.judge("say-1", "print(1)", 0).result()
        hidden = desk.judge("say-2", "print(2)", 0).result()
    assert healed.reward == 1.0
    assert hidden.reward is None
    assert hidden.failure is FailureClass.INFRASTRUCTURE
    assert hidden.solved is None
    assert judge.errors["print(2)"] == 6, "asked three times"


def test_a_service_that_is_away_is_waited_for(folder: Path, judge: FakeJudge) -> None:
    with desk_of(folder, judge) as desk:
        assert desk.judge("say-1", "print(1)", 0).result().reward == 1.0
        judge.down.set()
        handle = desk.judge("say-2", "print(2)", 0)
        done, _ = wait([handle], timeout=1.0)
        assert not done
        assert desk.away_s > 0
        judge.down.clear()
        assert handle.result(30).reward == 1.0
        assert desk.away_s == 0


def test_patience_ends_with_an_error_and_never_with_a_reward(
    folder: Path, judge: FakeJudge
) -> None:
    recipe = tiny_recipe(folder, service={"patience_s": 1.0})
    with desk_of(folder, judge, recipe) as desk:
        desk.judge("say-1", "print(1)", 0).result()
        judge.down.set()
        handle = desk.judge("say-1", "print(1)", 0)
        with pytest.raises(
            TrainingError, match=r"\(1 s; service\.patience_s.*goes on from its last"
        ):
            handle.result(30)
        judge.down.clear()


def test_a_service_that_lost_its_store_gets_its_problems_again(
    folder: Path, judge: FakeJudge
) -> None:
    with desk_of(folder, judge) as desk:
        assert desk.judge("say-1", "print(1)", 0).result().reward == 1.0
        judge.problems.clear()
        assert desk.judge("say-1", "print(1)", 0).result().reward == 1.0


def test_faults_of_the_service_are_no_rewards(folder: Path, judge: FakeJudge) -> None:
    judge.faults.extend([500, 502, 429])
    with desk_of(folder, judge) as desk:
        assert desk.judge("say-3", "print(3)", 0).result().reward == 1.0


def test_a_key_that_may_not_register_is_said(folder: Path, judge: FakeJudge) -> None:
    with desk_of(folder, judge) as desk:
        judge.faults.append(403)
        with pytest.raises(TrainingError, match="does not register problems for this key"):
            desk.judge("say-1", "print(1)", 0).result()


def test_judging_goes_on_beside_the_caller(folder: Path, judge: FakeJudge) -> None:
    with desk_of(folder, judge) as desk:
        handle = desk.judge("say-1", "print(1)", 0)
        done = threading.Event()
        handle.add_done_callback(lambda _: done.set())
        assert done.wait(30), "nobody asked for the result"
        began_s = time.monotonic()
        assert handle.result().reward == 1.0
        assert time.monotonic() - began_s < 1


def test_counts_of_a_batch_add_up(folder: Path, judge: FakeJudge) -> None:
    judge.errors["print(9)"] = 99
    recipe = tiny_recipe(folder, coverage={"level": 2}, reward={"full_coverage": True})
    texts = ("print(1)", "print(2)", "slow", "print(9)")
    with desk_of(folder, judge, recipe) as desk:
        batch = [desk.judge("say-1", text, 0).result() for text in texts]
    fields = (Scores.of(batch[:2]) + Scores.of(batch[2:])).fields()
    assert fields == {
        "completions": 4,
        "reward": pytest.approx(1 / 3),
        "solve_rate": pytest.approx(1 / 3),
        "full_solve_rate": pytest.approx(1 / 3),
        "optimization_failures": pytest.approx(1 / 3),
        "correctness_failures": pytest.approx(1 / 3),
        "judging_errors": 1,
        "extra": {"full": pytest.approx(1 / 3)},
    }
