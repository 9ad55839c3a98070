from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from study_files import LETTERS, figures, header, study_table, write_verdicts

from cupel_trainer.evaluate.complementarity import complementarity, solved_order
from cupel_trainer.evaluate.counting import EndlessAs
from cupel_trainer.evaluate.frontier import (
    Place,
    Rate,
    draw_counts,
    place_of,
    problem_rates,
)
from cupel_trainer.evaluate.records import CheckpointRef
from cupel_trainer.evaluate.verdict_table import VerdictTable, join_files, read_verdicts_file


def test_rates_are_means_over_problems(tmp_path: Path) -> None:
    # By hand: p is 2/4 solved, 1/4 slow, 1/4 wrong; q 0/2 solved, 2/2 slow (its JE is no sample).
    table = study_table(tmp_path, {0.0: {"p": "AATW", "q": "TMJ"}})
    rates = figures(table).splits[0].checkpoints[0].rates
    assert rates[Rate.SOLVE].value == pytest.approx(0.25)
    assert rates[Rate.OPTIMIZATION].value == pytest.approx(0.625)
    assert rates[Rate.CORRECTNESS].value == pytest.approx(0.125)
    assert rates[Rate.UNCLASSIFIED].value == 0


def test_partly_judged_failures_are_a_rate_of_their_own(tmp_path: Path) -> None:
    table = study_table(tmp_path, {0.0: {"p": "APPW"}})
    checkpoint = figures(table).splits[0].checkpoints[0]
    assert checkpoint.rates[Rate.SOLVE].value == 0.25
    assert checkpoint.rates[Rate.CORRECTNESS].value == 0.25
    assert checkpoint.rates[Rate.UNCLASSIFIED].value == 0.5
    assert checkpoint.unclassified == 2


def test_endless_loops_count_as_asked_and_both_ways_are_kept(tmp_path: Path) -> None:
    table = study_table(tmp_path, {0.0: {"p": "TEIUFW"}})
    slow = figures(table).splits[0]
    wrong = figures(table, EndlessAs.CORRECTNESS).splits[0]
    for split, other, optimization in ((slow, wrong, 5 / 6), (wrong, slow, 3 / 6)):
        rates = split.checkpoints[0].rates
        assert rates[Rate.OPTIMIZATION].value == pytest.approx(optimization)
        assert rates[Rate.CORRECTNESS].value == pytest.approx(1 - optimization)
        assert split.other_rates[0] == other.checkpoints[0].rates
    assert (slow.checkpoints[0].endless, slow.checkpoints[0].unprobed) == (2, 1)


def test_samples_and_judging_errors_are_counted(tmp_path: Path) -> None:
    table = study_table(tmp_path, {0.0: {"p": "AJW", "q": "JJA"}})
    checkpoint = figures(table).splits[0].checkpoints[0]
    assert (checkpoint.scored, checkpoint.judging_errors) == (3, 3)
    assert checkpoint.tokens == 100


@given(
    st.lists(
        st.lists(
            st.text(alphabet="".join(LETTERS), min_size=4, max_size=4), min_size=3, max_size=3
        ),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from(EndlessAs),
)
def test_the_rates_of_every_problem_sum_to_1(
    tmp_path_factory: pytest.TempPathFactory, letters: list[list[str]], endless: EndlessAs
) -> None:
    verdicts: dict[float | str, dict[str, str]] = {
        float(row): {f"p{column}": f"A{text}" for column, text in enumerate(texts)}
        for row, texts in enumerate(letters)
    }
    table = study_table(tmp_path_factory.mktemp("rates"), verdicts)
    total = sum(problem_rates(table, endless).values())
    assert total == pytest.approx(np.ones((len(letters), 3)))


def test_pass_at_k_is_averaged_over_problems(tmp_path: Path) -> None:
    # p: n = 4, c = 2; q: n = 4, c = 0. pass@2 of p is 1 - 1/6.
    table = study_table(tmp_path, {0.0: {"p": "AAWW", "q": "WWWW"}})
    passes = figures(table).splits[0].checkpoints[0].passes
    assert list(passes) == [1, 2, 4]
    assert passes[1].value == pytest.approx(0.25)
    assert passes[2].value == pytest.approx((5 / 6) / 2)
    assert passes[4].value == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("samples", "draws"),
    [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (8, (1, 2, 4, 8)), (9, (1, 2, 4, 8, 9))],
)
def test_k_doubles_up_to_the_samples(tmp_path: Path, samples: int, draws: tuple[int, ...]) -> None:
    assert draw_counts(study_table(tmp_path, {0.0: {"p": "W" * samples}})) == draws


def test_k_goes_no_further_than_the_checkpoint_with_fewest_samples(tmp_path: Path) -> None:
    table = study_table(tmp_path, {0.0: {"p": "WWWW", "q": "WWW"}, 1.0: {"p": "WWA", "q": "AAJ"}})
    study = figures(table)
    assert study.draws == (1, 2)
    assert study.splits[0].short == 0


def test_problems_that_lost_samples_are_counted_and_bounded_from_below(tmp_path: Path) -> None:
    table = study_table(tmp_path, {0.0: {"p": "AWWW", "q": "WWWW", "r": "WJJJ"}})
    split = figures(table).splits[0]
    assert split.short == 1
    assert split.checkpoints[0].passes[4].value == pytest.approx(1 / 3)


def test_changes_are_paired_and_run_along_alpha(tmp_path: Path) -> None:
    verdicts: dict[float | str, dict[str, str]] = {
        -0.5: {"p": "TTTT", "q": "TTWW"},
        0.0: {"p": "ATTT", "q": "ATWW"},
        1.0: {"p": "AWWT", "q": "AWWW"},
        2.0: {"p": "WWWW", "q": "WWWW"},
        "teacher": {"p": "AAAA", "q": "AAAA"},
    }
    split = figures(study_table(tmp_path, verdicts)).splits[0]
    alphas = [(step.before.alpha, step.after.alpha) for step in split.steps]
    assert alphas == [(-0.5, 0.0), (0.0, 1.0), (1.0, 2.0)]
    assert split.span is not None
    assert split.span.changes[Rate.OPTIMIZATION].value == pytest.approx((-0.5 - 0.25) / 2)
    assert split.span.changes[Rate.CORRECTNESS].value == pytest.approx((0.5 + 0.25) / 2)
    # Each problem changes by nothing, so every resample does: paired, not two intervals.
    assert split.span.changes[Rate.SOLVE].low == split.span.changes[Rate.SOLVE].high == 0
    beyond = [(step.before.alpha, step.after.alpha) for step in split.beyond]
    assert beyond == [(0.0, -0.5), (1.0, 2.0)]
    assert split.best == 4
    assert split.leads[4].value == 0
    assert split.leads[0].value == pytest.approx(1.0)


def test_of_equal_alphas_the_first_by_name_is_on_the_path(tmp_path: Path) -> None:
    paths = [
        write_verdicts(tmp_path / name, {"p": "AW"}, header(name, alpha))
        for name, alpha in (("trained", 0.0), ("merged", 0.0), ("high", 1.0))
    ]
    split = figures(join_files([read_verdicts_file(path) for path in paths])).splits[0]
    assert [(step.before.name, step.after.name) for step in split.steps] == [("merged", "high")]
    assert len(split.checkpoints) == 3


def test_without_alphas_there_is_no_path(tmp_path: Path) -> None:
    split = figures(study_table(tmp_path, {"a": {"p": "A"}, "b": {"p": "W"}})).splits[0]
    assert (split.steps, split.span, split.beyond) == ((), None, ())


def test_each_difficulty_has_figures_of_its_own(tmp_path: Path) -> None:
    table = study_table(
        tmp_path, {0.0: {"p": "AA", "q": "WW"}}, difficulties={"p": "easy", "q": "hard"}
    )
    splits = figures(table).splits
    solve = {split.name: split.checkpoints[0].rates[Rate.SOLVE].value for split in splits}
    assert solve == {"all": 0.5, "easy": 1.0, "hard": 0.0}


@pytest.mark.parametrize(
    ("alpha", "place"),
    [
        (None, Place.OTHER),
        (0.0, Place.END),
        (1.0, Place.END),
        (0.5, Place.INTERPOLATION),
        (-0.25, Place.EXTRAPOLATION),
        (1.25, Place.EXTRAPOLATION),
    ],
)
def test_alpha_tells_ends_interpolations_and_extrapolations_apart(
    alpha: float | None, place: Place
) -> None:
    assert place_of(CheckpointRef(name="c", alpha=alpha)) is place


def test_complementarity_counts_what_one_solves_and_another_does_not(tmp_path: Path) -> None:
    table = study_table(
        tmp_path,
        {
            0.0: {"p": "AA", "q": "AW", "r": "WW"},
            1.0: {"p": "WA", "q": "WW", "r": "AA"},
        },
    )
    compared = complementarity(table)
    assert compared.counts.tolist() == [[0, 1], [1, 0]]
    assert compared.draws == 1
    # Row 0, column 1: p 1 * 1/2, q 1/2 * 1, r 0. Diagonal: one draw hits and the other misses.
    assert compared.expected == pytest.approx(np.array([[0.5, 1.0], [1.0, 0.5]]))


@given(st.integers(1, 3), st.data())
def test_the_diagonal_is_what_two_runs_of_one_checkpoint_would_show(
    draws: int, data: st.DataObject
) -> None:
    samples = 2 * draws
    accepted = data.draw(st.integers(0, samples))
    letters = "A" * accepted + "W" * (samples - accepted)
    halves = [
        (set(chosen), set(range(samples)) - set(chosen))
        for chosen in combinations(range(samples), draws)
    ]
    hits = [
        any(index < accepted for index in one) and not any(index < accepted for index in other)
        for one, other in halves
    ]
    assert complementarity(_single(letters)).expected[0, 0] == pytest.approx(sum(hits) / len(hits))


def _single(letters: str) -> VerdictTable:
    counts = np.zeros((1, 1, 7), dtype=np.int64)
    counts[0, 0, 0], counts[0, 0, 1] = letters.count("A"), letters.count("W")
    return VerdictTable(
        headers=(header("a", 0.0),),
        problems=("p",),
        difficulties=("",),
        dates=("",),
        counts=counts,
        tokens=np.zeros((1, 1), dtype=np.int64),
        files=((Path("a"), ""),),
    )


def test_the_order_of_problems_shows_who_solves_them(tmp_path: Path) -> None:
    table = study_table(
        tmp_path,
        {
            0.0: {"all": "AA", "high": "WW", "low": "AW", "none": "WW", "rare": "AW"},
            1.0: {"all": "AA", "high": "AA", "low": "WW", "none": "WW", "rare": "AW"},
        },
    )
    ordered = [table.problems[index] for index in solved_order(table)]
    assert ordered == ["all", "rare", "low", "high", "none"]
