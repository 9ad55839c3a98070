import gzip
import json
import sys
from pathlib import Path

import pytest

from cupel import (
    FailureClass,
    FloatsChecker,
    Judgement,
    Language,
    Stop,
    TestResult,
    TokensChecker,
    Verdict,
)

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))
from case_rows import CasesError, NotApplicable, Reading, Row, lifted, plan, read_rows

MEBIBYTE = 1024 * 1024


def row(**changes):
    fields = {
        "row_id": "author/sum",
        "kind": "stdio",
        "language": "python",
        "source_code": "print(3)",
        "time_limit_s": 2.0,
        "memory_limit_mb": 256,
        "checker": {"type": "tokens"},
        "tests": [{"name": "one", "group_or_tier": "all", "input": "1 2", "expected_output": "3"}],
        "expected_verdicts": ["AC"],
    }
    return Row.model_validate(fields | changes)


def judgement(*verdicts, tiers=None, verdict=None):
    results = tuple(
        TestResult(name=str(n), tier=tier, verdict=each, cpu_s=0, wall_s=0, memory_bytes=0)
        for n, (each, tier) in enumerate(zip(verdicts, tiers or [1] * len(verdicts), strict=True))
    )
    first = next((each for each in verdicts if each is not Verdict.AC), Verdict.AC)
    return Judgement(
        id="author/sum",
        language=Language.PYTHON,
        verdict=verdict or first,
        failure_class=FailureClass.NONE,
        complete=True,
        coverage=1,
        tiers=1,
        tests_per_tier=(len(results),),
        cpu_s=0,
        wall_s=0,
        memory_bytes=0,
        problem=None,
        tests=results,
    )


def test_a_plain_row_becomes_a_submission_with_the_authors_limits():
    planned = plan(row(), Path())
    assert planned.submission.language is Language.PYTHON
    assert planned.submission.stop is Stop.FIRST_FAILURE
    problem = planned.submission.problem
    assert (problem.limits.cpu_s, problem.limits.memory_bytes) == (2.0, 256 * MEBIBYTE)
    assert [(test.input, test.output) for test in problem.tests] == [("1 2", "3")]
    assert problem.checker == TokensChecker()


def test_no_memory_limit_means_512_mebibytes():
    limits = plan(row(memory_limit_mb=None), Path()).submission.problem.limits
    assert limits.memory_bytes == 512 * MEBIBYTE


def test_a_row_that_must_end_gets_three_times_what_its_author_saw():
    seen = {"one": ["AC", 1.5], "two": ["TLE", 9.0]}
    assert plan(row(observed=seen), Path()).submission.problem.limits.cpu_s == 4.5
    late = row(observed=seen, expected_verdicts=["TLE"])
    assert plan(late, Path()).submission.problem.limits.cpu_s == 2.0


def test_test_data_is_read_from_plain_and_from_gzipped_files(tmp_path):
    (tmp_path / "a.in.gz").write_bytes(gzip.compress(b"1 2\n"))
    (tmp_path / "a.ans").write_bytes(b"3\n")
    test = {"name": "a", "input_path": "a.in.gz", "expected_output_path": "a.ans"}
    problem = plan(row(tests=[test]), tmp_path).submission.problem
    assert [(test.input, test.output) for test in problem.tests] == [("1 2\n", "3\n")]
    with pytest.raises(CasesError, match="elsewhere.*cannot be read"):
        plan(row(tests=[test]), tmp_path / "elsewhere")


def test_re_is_rte_and_what_is_also_acceptable_is_as_expected():
    planned = plan(row(expected_verdicts=["RE"], also_acceptable=["MLE"]), Path())
    assert planned.expected == {Verdict.RTE, Verdict.MLE}
    assert planned.fault(judgement(Verdict.MLE)) == ""
    assert planned.fault(judgement(Verdict.WA)) == "WA"


def test_an_empty_list_of_verdicts_demands_anything_but_a_judging_error():
    planned = plan(row(expected_verdicts=[]), Path())
    assert planned.fault(judgement(Verdict.TLE)) == ""
    assert planned.fault(judgement(verdict=Verdict.JE)) == "JE"


def test_without_a_checker_wa_means_that_the_program_ended_normally():
    unanswered = [{"name": "one", "input": "", "expected_output": None}]
    planned = plan(row(checker={"type": "none"}, tests=unanswered), Path())
    assert planned.reading is Reading.ENDED
    assert planned.got(judgement(Verdict.WA)) is Verdict.AC
    assert planned.got(judgement(Verdict.RTE)) is Verdict.RTE
    assert planned.got(judgement(verdict=Verdict.CE)) is Verdict.CE


def test_without_a_checker_no_program_can_guess_the_expected_output():
    unanswered = [{"name": "one"}]
    unchecked = row(checker={"type": "none"}, tests=unanswered)
    outputs = {plan(unchecked, Path()).submission.problem.tests[0].output for _ in range(2)}
    assert len(outputs) == 2
    assert min(len(output) for output in outputs) == 32


@pytest.mark.parametrize(
    ("checker", "case_sensitive"),
    [
        ({"type": "kattis_default", "flags": ""}, False),
        ({"type": "kattis_default", "flags": "case_sensitive"}, True),
        ({"type": "testlib", "equivalent_to": "tokens, case-sensitive"}, True),
    ],
)
def test_checkers_that_compare_tokens_become_the_tokens_checker(checker, case_sensitive):
    checked = plan(row(checker=checker), Path()).submission.problem.checker
    assert checked == TokensChecker(case_sensitive=case_sensitive)


@pytest.mark.parametrize(
    ("flags", "absolute", "relative", "case_sensitive"),
    [
        ("float_tolerance 0.5", 0.5, 0.5, False),
        ("float_absolute_tolerance 1e-6 case_sensitive", 1e-6, 0.0, True),
        ("float_relative_tolerance 1e-9", 0.0, 1e-9, False),
    ],
)
def test_float_flags_become_the_floats_checker(flags, absolute, relative, case_sensitive):
    checker = {"type": "kattis_default", "flags": flags}
    assert plan(row(checker=checker), Path()).submission.problem.checker == FloatsChecker(
        absolute_tolerance=absolute,
        relative_tolerance=relative,
        case_sensitive=case_sensitive,
    )


def test_a_special_checker_is_not_applicable_unless_no_checker_decides_the_verdict():
    special = {"type": "testlib", "path": "checker.cpp"}
    with pytest.raises(NotApplicable, match="testlib"):
        plan(row(checker=special), Path())
    tests = [{"name": name, "expected_output": "x"} for name in ("a", "b", "c")]
    late = row(checker=special, tests=tests, expected_verdicts=["TLE"], witness_test="b")
    planned = plan(late, Path())
    assert [test.name for test in planned.submission.problem.tests] == ["a", "b"]
    assert planned.submission.stop is Stop.NEVER
    assert planned.fault(judgement(Verdict.WA, Verdict.TLE)) == ""
    assert planned.fault(judgement(Verdict.WA, Verdict.WA)) == "AC"


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "function"},
        {"kind": "interactive"},
        {"kind": "unit-test-runner"},
        {"language": "rust"},
        {"tags": ["near-limit"]},
        {"tests": [{"name": "one", "requires": "numpy", "expected_output": "3"}]},
        {"checker": {"type": "kattis_default", "flags": "space_change_sensitive"}},
    ],
)
def test_what_cupel_does_not_judge_is_refused_with_a_reason(changes):
    with pytest.raises(NotApplicable, match=r".{15}"):
        plan(row(**changes), Path())


def test_expected_groups_are_compared_one_by_one():
    tests = [
        {"name": name, "group_or_tier": group, "expected_output": "3"}
        for name, group in (("s", "sample"), ("a", "one"), ("b", "two"))
    ]
    groups = {"sample": "AC", "one": "AC", "two": "TLE"}
    planned = plan(row(tests=tests, expected_groups=groups, expected_verdicts=["TLE"]), Path())
    assert [test.tier for test in planned.submission.problem.tests] == [1, 2, 3]
    good = judgement(Verdict.AC, Verdict.AC, Verdict.TLE, tiers=[1, 2, 3])
    assert planned.fault(good) == ""
    early = judgement(Verdict.AC, Verdict.TLE, Verdict.TLE, tiers=[1, 2, 3])
    assert planned.fault(early) == "TLE in group 2, where AC is expected"


def test_a_program_that_met_the_other_limit_first_is_judged_again_without_it():
    planned = plan(row(expected_verdicts=["TLE"]), Path())
    again = lifted(planned, judgement(Verdict.MLE))
    limits = again.submission.problem.limits
    assert (limits.cpu_s, limits.memory_bytes) == (2.0, 8 * 256 * MEBIBYTE)
    hungry = lifted(plan(row(expected_verdicts=["MLE"]), Path()), judgement(Verdict.TLE))
    assert hungry.submission.problem.limits.cpu_s == 16.0
    for verdict in (Verdict.TLE, Verdict.RTE, Verdict.WA):
        assert lifted(planned, judgement(verdict)) is None


def test_filling_the_disk_may_end_by_the_memory_limit():
    filling = row(expected_verdicts=["RE"], tags=["disk-fill"])
    assert plan(filling, Path()).expected == {Verdict.RTE, Verdict.MLE}


def test_persistence_rows_run_twice_and_must_stay_silent():
    silent = row(
        checker={"type": "none"},
        tests=[{"name": "one"}],
        expected_verdicts=[],
        tags=["cross-run-persistence"],
    )
    planned = plan(silent, Path())
    assert [test.output for test in planned.submission.problem.tests] == ["", ""]
    assert planned.submission.stop is Stop.NEVER
    assert planned.fault(judgement(Verdict.AC, Verdict.AC)) == ""
    assert planned.fault(judgement(Verdict.AC, Verdict.WA)) == "WA"


def test_rows_are_read_file_by_file_and_a_broken_line_is_named(tmp_path):
    rows = tmp_path / "rows"
    rows.mkdir()
    good = row().model_dump()
    (rows / "a.jsonl").write_text(json.dumps(good) + "\n")
    assert [each.row_id for each in read_rows(tmp_path)] == ["author/sum"]
    (rows / "b.jsonl").write_text(json.dumps(good) + "\n" + json.dumps({"row_id": "x"}) + "\n")
    with pytest.raises(CasesError, match=r"b\.jsonl:2: kind"):
        list(read_rows(tmp_path))


def test_a_folder_without_rows_is_refused(tmp_path):
    with pytest.raises(CasesError, match="holds no rows"):
        list(read_rows(tmp_path))
