from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupel_trainer.errors import EngineError, RecordsError
from cupel_trainer.evaluate.record_file import read_lines
from cupel_trainer.evaluate.records import CheckpointRef, Sample, SamplesHeader, Sampling
from cupel_trainer.evaluate.sampling import (
    CHUNK,
    SEEDS,
    Progress,
    Task,
    draw_samples,
    sample_seed,
)

HEADER = SamplesHeader(checkpoint=CheckpointRef(name="c"), sampling=Sampling(seed=7))


class Echo:
    """Writes its seed; what is in one batch with others tells of them, as rounding might."""

    def __init__(self, together: int = 1, fail_after: int | None = None) -> None:
        self.together = together
        self.asked: list[Task] = []
        self._fail_after = fail_after

    def answer(self, tasks: Sequence[Task]) -> Iterator[Sequence[Sample]]:
        self.asked = list(tasks)
        for start in range(0, len(tasks), self.together):
            if self._fail_after is not None and start >= self._fail_after:
                raise EngineError("out of memory")
            batch = tasks[start : start + self.together]
            yield [
                Sample(
                    problem=task.problem,
                    sample=task.sample,
                    seed=task.seed,
                    completion=f"{task.seed} of {sum(each.seed for each in batch)}",
                    completion_tokens=2,
                    finish_reason="length" if task.sample == 0 else "stop",
                )
                for task in batch
            ]


def run(out: Path, policy: Echo, count: int, problems: Sequence[str] = ("a", "b")) -> Progress:
    @contextmanager
    def opened() -> Iterator[Echo]:
        yield policy

    return draw_samples(out, HEADER, problems, count, opened, lambda _: None)


def read(out: Path) -> list[Sample]:
    return [line.record for line in read_lines(out, Sample)]


def test_every_sample_is_drawn_once_from_its_own_seed(tmp_path: Path) -> None:
    out = tmp_path / "samples"
    done = run(out, Echo(), 40)
    samples = read(out)
    assert {(each.problem, each.sample) for each in samples} == {
        (problem, number) for problem in "ab" for number in range(40)
    }
    assert len(samples) == 80
    assert len({each.seed for each in samples}) == 80
    assert all(each.seed == sample_seed(7, each.problem, each.sample) for each in samples)
    assert done == Progress(held=80, wanted=80, tokens=160, cut=2)


def test_problems_take_turns(tmp_path: Path) -> None:
    out = tmp_path / "samples"
    run(out, Echo(), CHUNK + 1)
    order = [each.problem for each in read(out)]
    assert order == ["a"] * CHUNK + ["b"] * CHUNK + ["a", "b"]


@given(run_seed=st.integers(0, 2**40), problem=st.text(max_size=9), sample=st.integers(0, 999))
def test_seeds_are_in_range_and_differ_within_a_problem(
    run_seed: int, problem: str, sample: int
) -> None:
    seed = sample_seed(run_seed, problem, sample)
    assert 0 <= seed < SEEDS
    assert len({sample_seed(run_seed, problem, sample + more) for more in range(5)}) == 5


def test_seeds_stay_what_they_are() -> None:
    # Another formula would draw other samples when old runs are gone on with.
    assert sample_seed(0, "two-sum", 0) == 262608610
    assert sample_seed(0, "two-sum", 1) == 262608611


@pytest.mark.parametrize("together", [1, 3, 16, 64])
def test_a_run_cut_anywhere_ends_as_if_it_had_not_been(tmp_path: Path, together: int) -> None:
    whole = tmp_path / "whole"
    run(whole, Echo(together), 20)
    content = whole.read_bytes()
    out = tmp_path / "cut"
    for length in range(0, len(content), 371):
        out.write_bytes(content[:length])
        run(out, Echo(together), 20)
        assert out.read_bytes() == content


def test_only_what_is_missing_is_drawn(tmp_path: Path) -> None:
    out = tmp_path / "samples"
    run(out, Echo(), 5)
    more = Echo()
    run(out, more, 7)
    assert [(task.problem, task.sample) for task in more.asked] == [
        ("a", 5),
        ("a", 6),
        ("b", 5),
        ("b", 6),
    ]
    assert len(read(out)) == 14


def test_nothing_missing_loads_no_model(tmp_path: Path) -> None:
    out = tmp_path / "samples"
    run(out, Echo(), 3)

    @contextmanager
    def never() -> Iterator[Echo]:
        raise AssertionError("a model was loaded for nothing")
        yield

    shown: list[Progress] = []
    done = draw_samples(out, HEADER, ["a", "b"], 2, never, shown.append)
    assert shown == [done]
    assert done.held == done.wanted == 4


def test_more_samples_later_are_those_of_one_run(tmp_path: Path) -> None:
    run(tmp_path / "one", Echo(), 50)
    run(tmp_path / "two", Echo(), 20)
    run(tmp_path / "two", Echo(), 50)

    def by_name(path: Path) -> list[Sample]:
        return sorted(read(path), key=lambda each: (each.problem, each.sample))

    assert by_name(tmp_path / "one") == by_name(tmp_path / "two")


def test_what_was_drawn_before_a_failure_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "samples"
    with pytest.raises(EngineError, match="out of memory"):
        run(out, Echo(4, fail_after=8), 10)
    assert len(read(out)) == 8
    run(out, Echo(4), 10)
    assert len(read(out)) == 20


def test_a_file_with_a_sample_twice_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "samples"
    run(out, Echo(), 2)
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join([*lines, lines[2]]))
    with pytest.raises(RecordsError, match="lines 3 and 6 are both sample 1 of problem 'a'"):
        run(out, Echo(), 3)
