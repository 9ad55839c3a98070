import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CASES = ROOT.parent / "shared" / "cases"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not (CASES / "rows").is_dir(), reason=f"no cases at {CASES}")
def test_real_submissions_get_the_verdicts_that_their_authors_expect():
    shown = subprocess.run(
        [sys.executable, ROOT / "bench" / "cases.py", CASES],
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert ", 0 unexpected, " in shown.stdout.splitlines()[-1]


def test_a_folder_that_holds_no_cases_is_a_clear_error(tmp_path):
    shown = subprocess.run(
        [sys.executable, ROOT / "bench" / "cases.py", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 2
    assert "CASES=FOLDER" in shown.stderr
