"""How long a judge is busy with a submission: measured once, replayed by `step.py` ever after.

Judges the stdio rows of a folder of cases (see `cases.py`) in native boxes and writes one line per
judged row. A slot is busy for the CPU time of the compiler and of every test, and for the wall time
of a test that waited idly into its limit: unlike the wall time of all, that does not grow when the
machine has other work. Left out are rows whose author's time limit is larger than 10 s, and those
with a single test, which try a judge rather than a solution: no training set has such.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from case_rows import CasesError, Plan, read_rows
from cases import judge, read_plans
from cupel import CupelError, Judgement
from cupel.schema import Problem, TleKind, Verdict

TIME_LIMIT_S_MAX = 10.0


def run_s(judgement: Judgement) -> float:
    return sum(
        test.wall_s if test.tle_kind is TleKind.IDLE else test.cpu_s * test.measurements
        for test in judgement.tests
    )


def cpu_limit_s(plan: Plan) -> float:
    problem = plan.submission.problem
    return problem.limits.cpu_s if isinstance(problem, Problem) else 0.0


def stdio_rows(folder: Path) -> set[str]:
    return {
        row.row_id
        for row in read_rows(folder)
        if row.kind == "stdio"
        and len(row.tests) > 1
        and (row.time_limit_s or 0.0) <= TIME_LIMIT_S_MAX
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="the folder of the cases; it holds rows/*.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="the JSONL file to write")
    arguments = parser.parse_args()
    try:
        rows = stdio_rows(arguments.folder)
        plans = [plan for plan in read_plans(arguments.folder)[0] if plan.row_id in rows]
        judgements = judge(plans, "native")
    except (CasesError, CupelError) as error:
        print(f"verdict_times: {error}", file=sys.stderr)
        return 2
    lines = [
        json.dumps(
            {
                "language": judgement.language,
                "verdict": judgement.verdict,
                "tests": len(judgement.tests),
                "compile_s": round(judgement.compile.cpu_s if judgement.compile else 0.0, 4),
                "cpu_limit_s": cpu_limit_s(plan),
                "run_s": round(run_s(judgement), 4),
            }
        )
        for plan in plans
        if (judgement := judgements[plan.row_id]).verdict is not Verdict.JE
    ]
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"verdict_times: {len(lines)} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
