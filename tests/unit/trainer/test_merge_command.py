"""`cupel merge` as a user types it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoints import content, random_tensors, write_checkpoint, write_pair

from cupel.cli import main


def cupel(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """Runs the command; its exit code, and all that it said."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out + captured.err


def test_a_sweep_then_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    low, high = write_pair(tmp_path, step=1e-3)
    code, said = cupel(capsys, "merge", low, high, "--alphas=-0.5,0,1.5", "--out", tmp_path / "out")
    assert code == 0
    assert "3 checkpoints in" in said
    assert "rounding eats part of the step in alpha_-0.5" in said
    for name in ("alpha_-0.5", "alpha_0", "alpha_1.5"):
        code, said = cupel(capsys, "merge", "verify", tmp_path / "out" / name)
        assert (code, "computed once more" in said) == (0, True)
    (tmp_path / "out" / "alpha_0" / "config.json").write_text("{}")
    assert cupel(capsys, "merge", "verify", tmp_path / "out" / "alpha_0")[0] == 1


def test_check_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    low, high = write_pair(tmp_path)
    before = content(tmp_path)
    code, said = cupel(capsys, "merge", low, high, "--alphas=0.5", "--check")
    assert (code, "2 checkpoints fit together" in said) == (0, True)
    assert content(tmp_path) == before


def test_a_recipe_says_the_same_as_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    low, high = write_pair(tmp_path)
    recipe = tmp_path / "merge.toml"
    recipe.write_text(
        'inputs = ["low", "high"]\nalphas = [0.25, 1.5]\nout = "from-recipe"\ndtype = "float32"\n'
        '[[layers]]\npattern = "lm_head.*"\nalpha = 0.0\n'
    )
    assert cupel(capsys, "merge", "--recipe", recipe)[0] == 0
    words = ["--alphas=0.25,1.5", "--dtype", "float32", "--layer", "lm_head.*=0"]
    assert cupel(capsys, "merge", low, high, *words, "--out", tmp_path / "from-words")[0] == 0
    assert content(tmp_path / "from-recipe") == content(tmp_path / "from-words")


def test_coefficients_for_three(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [write_checkpoint(tmp_path / f"{n}", random_tensors(1, step=n)) for n in range(3)]
    words = ["--coefficients", "0.5,0.25,0.25", "--out", tmp_path / "out"]
    assert cupel(capsys, "merge", *folders, *words)[0] == 0
    assert (tmp_path / "out" / "linear" / "cupel_merge.json").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--alphas=0.5"], "say where to: --out DIR"),
        (["--out", "o"], "give either alphas or coefficients"),
        (["--alphas=a", "--out", "o"], "not numbers separated by commas"),
        (["--alphas=0.5,0.50", "--out", "o"], "two alphas are the same"),
        (["--alphas=nan", "--out", "o"], "alphas"),
        (["--alphas=0.5", "--out", "o", "--method", "magic"], "no method 'magic'"),
        (["--alphas=0.5", "--out", "o", "--memory", "much"], "say it like 800M"),
        (["--alphas=0.5", "--out", "o", "--memory", "64M"], "allow at least"),
        (["--alphas=0.5", "--out", "o", "--layer", "x"], "say it like"),
        (["--alphas=0.5", "--out", "o", "--layer", "x=1,2"], "say it like"),
        (["--alphas=0.5", "--out", "o", "--memory", "1.2.3G"], "say it like 800M"),
        (["--recipe", "r.toml", "--out", "o"], "give either --recipe or the merge itself"),
        (["--alphas=0.5", "--out", "o", "--dtype", "int4"], "dtype"),
        (["--coefficients", "1", "--out", "o"], "a row of 1 coefficients"),
    ],
)
def test_mistakes_are_told_with_a_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    low, high = write_pair(tmp_path)
    words = [word if word != "o" else str(tmp_path / "o") for word in words]
    code, output = cupel(capsys, "merge", low, high, *words)
    assert code == 2
    assert said in output.replace("\n", " ")
    assert not list(tmp_path.glob("o/*"))


def test_memory_stays_bounded_whatever_the_tensors_size(tmp_path: Path) -> None:
    from cupel_trainer.merge.checkpoint import open_checkpoint
    from cupel_trainer.merge.methods.linear import Linear
    from cupel_trainer.merge.one_pass import Blending, Sizing

    ends = []
    for name in ("low", "high"):
        tensors = {"w": torch.zeros(1, dtype=torch.bfloat16).expand(2**25).contiguous()}
        ends.append(open_checkpoint(str(write_checkpoint(tmp_path / name, tensors))))
    blending = Blending(ends, Linear((0.5,) * 30), [None] * 30)
    for memory_bytes in (1_400_000_000, 3_000_000_000):
        sizing = Sizing.within(memory_bytes, blending, cores=2)
        held = sizing.workers * sizing.elements * 2 * (2 + 30)
        assert held < memory_bytes
        assert sizing.workers >= 1
