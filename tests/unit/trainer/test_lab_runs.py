"""The lab's stages, recipes, claims and report, without training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cupel.cli import build_app
from cupel_trainer.errors import OutputError, RecipeError
from cupel_trainer.evaluate.frontier import Rate
from cupel_trainer.evaluate.records import Setting
from cupel_trainer.lab.claims import CLAIMS, Expected, mean_interval, results
from cupel_trainer.lab.family.skeleton import Part
from cupel_trainer.lab.figures import Curve, RlCurve, SeedFigures, _changes
from cupel_trainer.lab.recipe import Size, read_recipe
from cupel_trainer.lab.report import findings_table, signed, write_report
from cupel_trainer.lab.stage import DONE, Show, Stage, claim, read_done, run_stages

pytest.importorskip("torch")

from cupel_trainer.lab.rl import training_recipe


class Killed(BaseException):
    """As by kill -9: nothing after it runs."""


def test_stages_that_are_done_are_not_run_again_after_a_kill(tmp_path: Path) -> None:
    ran: list[str] = []

    def stage(name: str, *, dies: bool = False) -> Stage:
        def run(folder: Path, show: Show) -> None:
            ran.append(name)
            if dies:
                raise Killed
            show("half", 0.5)
            (folder / "work").write_text(name)

        return Stage(name, name, 0.5, run)

    def ignore(stage: Stage, text: str, part: float) -> None:
        pass

    with pytest.raises(Killed):
        run_stages(tmp_path, [stage("a"), stage("b", dies=True)], ignore)
    assert read_done(tmp_path / "a") is not None
    assert read_done(tmp_path / "b") is None
    done = run_stages(tmp_path, [stage("a"), stage("b")], ignore)
    assert ran == ["a", "b", "b"]
    assert [each.name for each in done] == ["a", "b"]
    assert json.loads((tmp_path / "b" / DONE).read_text())["stage"] == "b"


def test_a_folder_of_another_recipe_or_seed_is_refused(tmp_path: Path) -> None:
    claim(tmp_path, {"seed": 1})
    claim(tmp_path, {"seed": 1})
    with pytest.raises(OutputError, match="another recipe or seed"):
        claim(tmp_path, {"seed": 2})


@pytest.mark.parametrize("size", list(Size))
def test_the_shipped_recipes_are_valid_and_make_valid_training_recipes(size: Size) -> None:
    recipe = read_recipe(size)
    runs = [
        training_recipe(
            recipe,
            start=Path("start"),
            problems=Path("train.jsonl"),
            coverage=coverage,
            seed=4,
            service="http://127.0.0.1:1",
        )
        for coverage in (recipe.rl.low, recipe.rl.high)
    ]
    assert [run.coverage.level for run in runs] == [2, 3]
    low, high = (run.model_dump(exclude={"coverage"}) for run in runs)
    assert low == high


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("samples = 24", "samples = 8"), "ensemble_budget"),
        (("alphas = [-0.5, 0, 0.5, 1, 1.5]", "alphas = [-0.5, 0, 0.5]"), "0 and 1"),
        (("steps = 700", "stepps = 700"), "stepps"),
        (("[problems]", "[problems"), "not TOML"),
    ],
)
def test_a_faulty_recipe_is_refused_with_its_place(
    tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    import cupel_trainer.lab.recipe as module

    text = (Path(module.__file__).parent / "full.toml").read_text()
    assert change[0] in text
    path = tmp_path / "recipe.toml"
    path.write_text(text.replace(*change))
    with pytest.raises(RecipeError, match=said):
        read_recipe(path)


def test_intervals_over_seeds_are_students() -> None:
    assert mean_interval([0.5]) is None
    interval = mean_interval([1.0, 2.0, 3.0])  # 2 +- 4.303 * 1 / sqrt(3)
    assert interval is not None
    assert interval.value == pytest.approx(2.0)
    assert interval.low == pytest.approx(2 - 2.4843, abs=1e-3)
    assert interval.high == pytest.approx(2 + 2.4843, abs=1e-3)


def test_changes_are_differences_between_the_alphas_that_they_name() -> None:
    curve = Curve(
        problems=4,
        samples=2,
        alphas=(-0.5, 0.0, 0.5, 1.0, 1.5),
        rates={
            Rate.SOLVE: (0.1, 0.2, 0.3, 0.25, 0.2),
            Rate.OPTIMIZATION: (0.8, 0.7, 0.5, 0.2, 0.1),
            Rate.CORRECTNESS: (0.1, 0.1, 0.2, 0.55, 0.7),
        },
    )
    changes = _changes("x", curve)
    assert changes["x/span/optimization"] == pytest.approx(-0.5)
    assert changes["x/first/optimization"] == pytest.approx(-0.2)
    assert changes["x/second/optimization"] == pytest.approx(-0.3)
    assert changes["x/above/correctness"] == pytest.approx(0.15)
    assert changes["x/below/optimization"] == pytest.approx(0.1)
    assert changes["x/span/solve"] == pytest.approx(0.05)


def seed_of(seed: int, shift: float) -> SeedFigures:
    curve = Curve(
        problems=4,
        samples=2,
        alphas=(-0.5, 0.0, 0.5, 1.0, 1.5),
        rates={
            Rate.SOLVE: (0.2,) * 5,
            Rate.OPTIMIZATION: (0.7, 0.6, 0.4, 0.2 + shift, 0.1),
            Rate.CORRECTNESS: (0.1, 0.2, 0.4, 0.6 - shift, 0.7),
        },
    )
    values = {each.key: 0.1 + shift for each in CLAIMS}
    values["reasoning/hard/span/optimization"] = -0.4 + shift
    values["reasoning/hard/span/solve"] = shift - 0.01
    rl = RlCurve(solve_rate=(0.3, 0.5), step_s=(1.0, 1.0), judge_wait_s=(0.1, 0.3), masked=0)
    values |= {"ensemble/pass": 0.6, "ensemble/single_pass": 0.5}
    return SeedFigures(
        seed=seed,
        curves={setting: dict.fromkeys(Part, curve) for setting in Setting},
        rl={"low": rl, "high": rl},
        claims=values,
        members={"alpha_0": 0.5, "alpha_1": 0.5},
        judging_errors=0,
        wall_s={"start": 1.0, "low": 2.0},
    )


def test_verdicts_follow_from_the_sides_of_the_intervals() -> None:
    found = {
        each.claim.key: each
        for each in results([seed_of(0, 0.0), seed_of(1, 0.01), seed_of(2, 0.02)])
    }
    assert found["reasoning/hard/span/optimization"].verdict == "appears"
    assert found["reasoning/hard/span/correctness"].verdict == "appears"
    assert found["reasoning/hard/span/solve"].verdict == "no change shown"
    downs = [key for key, each in found.items() if each.claim.expected is Expected.DOWN]
    downs.remove("reasoning/hard/span/optimization")
    assert {found[key].verdict for key in downs} == {"the opposite"}


def test_a_single_seed_is_called_no_finding(tmp_path: Path) -> None:
    found = results([seed_of(0, 0.0)])
    assert {each.verdict for each in found} == {"one seed: no interval"}
    page = write_report(tmp_path, read_recipe(Size.QUICK), "quick", [seed_of(0, 0.0)])
    assert "nothing is called a finding" in page.read_text("utf-8")


def test_the_report_stands_alone_and_holds_every_claim(tmp_path: Path) -> None:
    seeds = [seed_of(number, number / 100) for number in range(3)]
    page = write_report(tmp_path, read_recipe(Size.QUICK), "quick", seeds).read_text("utf-8")
    for each in CLAIMS:
        assert each.text in page
    assert 'src="data:image/svg+xml' in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    text = (tmp_path / "findings.md").read_text("utf-8")
    for result in results(seeds):
        assert result.claim.text in text
    assert (tmp_path / "pictures" / "plane-hard.png").stat().st_size > 1000


def test_points_are_signed_and_zero_has_no_minus() -> None:
    assert signed(0.123) == "+12.3"
    assert signed(-0.123) == "\N{MINUS SIGN}12.3"
    assert signed(-0.0001) == "+0.0"
    assert findings_table(results([seed_of(0, 0.0)])).columns[-1] == "here"


def test_two_recipes_at_once_are_a_usage_error() -> None:
    words = ["lab", "--quick", "--full"]
    result = CliRunner().invoke(build_app(words), words)
    assert result.exit_code == 2
    assert "one of --quick, --full" in result.output
