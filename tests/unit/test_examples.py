import subprocess
import sys
from pathlib import Path

import pytest

from cupel import Verdict, load_problem

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples"))
from demo import EXPECTED, GROUPS, demo_batch
from generate import SUITES, answer, cases

ROOT = Path(__file__).resolve().parents[2]
SMALL_TIERS = 2


@pytest.mark.parametrize("name", GROUPS)
def test_every_example_loads_and_has_four_tiers(name):
    problem = load_problem(ROOT / "examples" / name)
    assert {test.tier for test in problem.tests} == {1, 2, 3, 4}
    assert problem.title
    assert problem.statement


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.problem)
def test_the_generator_makes_the_committed_tests_again_byte_for_byte(suite):
    folder = ROOT / "examples" / suite.problem
    made = list(cases(suite))
    assert {folder / f"{case.stem}.in" for case in made} == set((folder / "tests").glob("*/*.in"))
    for case in made:
        assert (folder / f"{case.stem}.in").read_bytes() == case.text.encode()
        if int(Path(case.stem).parent.name) <= SMALL_TIERS:
            expected = (folder / f"{case.stem}.ans").read_bytes()
            assert answer(suite.problem, case.text).encode() == expected


@pytest.mark.parametrize("name", [name for name in GROUPS if "slow.py" in GROUPS[name]])
def test_slow_python_programs_are_right_on_small_inputs(name):
    folder = ROOT / "examples" / name
    for path in sorted(folder.glob("tests/[12]/*.in")):
        shown = subprocess.run(
            [sys.executable, folder / "solutions" / "slow.py"],
            input=path.read_bytes(),
            capture_output=True,
            check=True,
        )
        assert shown.stdout.split() == path.with_suffix(".ans").read_bytes().split()


def test_the_test_data_of_all_examples_is_small():
    sizes = [path.stat().st_size for path in (ROOT / "examples").glob("*/tests/*/*")]
    assert sum(sizes) < 1_500_000


def test_the_demo_batch_has_groups_of_eight_and_every_kind_of_program():
    batch = demo_batch()
    assert len(GROUPS) >= 6
    assert {len(labels) for labels in GROUPS.values()} == {8}
    assert len(batch) == 8 * len(GROUPS)
    assert {Path(completion.label).stem for completion in batch} == set(EXPECTED)
    assert {completion.expected for completion in batch} == set(Verdict) - {Verdict.JE}


def test_every_program_of_the_demo_is_one_closed_fenced_block_at_least():
    for completion in demo_batch():
        fences = completion.text.count("```")
        assert fences % 2 == 0
        assert (fences == 0) == (completion.label == "no_code")
