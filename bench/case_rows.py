"""Rows of a folder of cases: what is submitted for each, and whether its judgement is as expected.

Nothing here does anything but read files. How a row becomes a submission:

* Its tests keep their order, in one tier; where the author states a verdict per group of tests,
  each group is a tier, all tests are judged, and every group is compared.
* Checkers: `tokens`; `kattis_default` (tokens in any case, unless `case_sensitive`; numbers within
  the float tolerances that its flags give), but not with `space_change_sensitive`; testlib
  checkers that the row declares to be equivalent to tokens. Any other checker decides AC from WA
  by rules that Cupel does not have yet: not applicable, except where the author expects a verdict
  that no checker decides (TLE, RTE, MLE, OLE, CE). Such a row is judged up to its witness, the
  test that shows the failure, and read as described next.
* Checker `none`: the author only says how the program ends. Cupel's wire has no such checker on
  purpose, because nothing that a program does may give AC without proof from outside. So the
  expected output is a secret that no program prints, and here alone, WA means: it ended normally,
  which is what the author calls AC.
* An empty list of expected verdicts demands only that Cupel survives: anything but JE.
* Files that a program writes lie in memory in a box and count as it: a row tagged `disk-fill` that
  may end by RTE may end by MLE.
* A program that exceeds two limits meets one of them first, which depends on the machine. If it
  meets the memory limit where the author expects TLE, or the other way round, it is judged once
  more with that limit lifted, and must then do as expected.
* A row tagged `cross-run-persistence` runs twice in one box and must print nothing either time.
* Limits are the author's; without a memory limit, 512 MiB. A row that is expected to end by itself
  gets at least three times the slowest time its author saw, for machines that are slower.
"""

from __future__ import annotations

import gzip
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from cupel.schema import (
    MEBIBYTE,
    Checker,
    Data,
    FloatsChecker,
    Judgement,
    Language,
    Limits,
    Problem,
    Stop,
    Submission,
    Testcase,
    TestResult,
    TokensChecker,
    Verdict,
    encode_data,
)

MEMORY_BYTES_DEFAULT = 512 * MEBIBYTE
SLACK = 3.0
"""Least ratio between a row's time limit and the slowest run that its author saw succeed."""
LIFT = 8
"""By how much a limit is lifted that a program met before the one that its author expects."""
VERDICTS = {verdict.value: verdict for verdict in Verdict} | {"RE": Verdict.RTE}
NEEDS_A_CHECKER = frozenset({Verdict.AC, Verdict.WA})


class CasesError(Exception):
    """The folder is not one of cases, or a row of it is not what its documentation promises."""


class NotApplicable(Exception):
    """A row that Cupel does not judge; the text is the reason, the same for all rows of a kind."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class RowChecker(_Part):
    """How the author compares outputs."""

    type: str
    flags: str | None = None
    equivalent_to: str | None = None


class RowTest(_Part):
    """One test, its data in the row or in a file."""

    name: str
    group_or_tier: str = ""
    input: str | None = None
    input_path: str | None = None
    expected_output: str | None = None
    expected_output_path: str | None = None
    requires: str | tuple[str, ...] | None = None

    @property
    def has_answer(self) -> bool:
        """Whether an expected output is known."""
        return self.expected_output is not None or self.expected_output_path is not None


class Row(_Part):
    """One program with the verdicts that its author expects."""

    row_id: str
    kind: str
    language: str
    source_code: str
    time_limit_s: float | None = None
    memory_limit_mb: float | None = None
    checker: RowChecker | None = None
    tests: tuple[RowTest, ...] = ()
    expected_verdicts: tuple[str, ...] = ()
    also_acceptable: tuple[str, ...] | None = None
    tags: tuple[str, ...] | None = None
    observed: dict[str, JsonValue] | None = None  # by test: [verdict, seconds]; other kinds differ
    expected_groups: dict[str, str] | None = None
    witness_test: str | None = None

    @property
    def expected(self) -> frozenset[Verdict]:
        """Every verdict that counts as right."""
        names = {*self.expected_verdicts, *(self.also_acceptable or ())}
        if not self.expected_verdicts:
            return frozenset(Verdict) - {Verdict.JE}
        return frozenset(VERDICTS[name] for name in names)

    @property
    def slowest_s(self) -> float:
        """The longest time in which a test ended by itself on the author's machine, in seconds."""
        slowest = 0.0
        for seen in (self.observed or {}).values():
            match seen:
                case [str(verdict), int(seconds) | float(seconds)] if verdict != "TLE":
                    slowest = max(slowest, seconds)
        return slowest


class Reading(Enum):
    """What a WA of the judge says about a row."""

    CHECKED = "checked"
    """The output is wrong."""
    ENDED = "ended"
    """The program ended normally; its output was not to be compared."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A row that can be judged.

    Args:
        row_id: The row's name.
        submission: What is sent; its problem is inline.
        reading: How a WA is read.
        expected: The verdicts that count as right.
        groups: The verdict expected of each group of tests, or nothing; by the group's tier.
    """

    row_id: str
    submission: Submission
    reading: Reading
    expected: frozenset[Verdict]
    groups: tuple[Verdict, ...] = ()

    def got(self, judgement: Judgement) -> Verdict:
        """What the judgement says, in the author's terms."""
        if self.reading is Reading.CHECKED or not judgement.tests:
            return judgement.verdict
        return _ended(judgement.tests)

    def fault(self, judgement: Judgement) -> str:
        """Why a judgement is not as expected; empty if it is."""
        got = self.got(judgement)
        if got not in self.expected:
            detail = f": {judgement.message}" if judgement.message else ""
            return f"{got}{detail}"
        for tier, wanted in enumerate(self.groups, start=1):
            verdict = _ended(t for t in judgement.tests if t.tier == tier)
            if self.reading is Reading.CHECKED:
                verdict = _first_failure(t for t in judgement.tests if t.tier == tier)
            if verdict is not wanted:
                return f"{verdict} in group {tier}, where {wanted} is expected"
        return ""


def lifted(planned: Plan, judgement: Judgement) -> Plan | None:
    """Lifts the limit that a program met before the one that its author expects it to exceed.

    Args:
        planned: The row as it was judged.
        judgement: What came out.

    Returns:
        The plan to judge it by once more, or None if nothing of the kind happened.
    """
    got, problem = planned.got(judgement), planned.submission.problem
    if got in planned.expected or isinstance(problem, str):
        return None
    limits = problem.limits
    if got is Verdict.MLE and Verdict.TLE in planned.expected:
        limits = limits.model_copy(update={"memory_bytes": LIFT * limits.memory_bytes})
    elif got is Verdict.TLE and Verdict.MLE in planned.expected:
        limits = limits.model_copy(update={"cpu_s": LIFT * limits.cpu_s})
    else:
        return None
    problem = problem.model_copy(update={"limits": limits})
    submission = planned.submission.model_copy(update={"problem": problem})
    return replace(planned, submission=submission)


def _ended(results: Iterable[TestResult]) -> Verdict:
    """The first verdict that no checker decides, or AC: every test ended normally."""
    return next((r.verdict for r in results if r.verdict not in NEEDS_A_CHECKER), Verdict.AC)


def _first_failure(results: Iterable[TestResult]) -> Verdict:
    return next((r.verdict for r in results if r.verdict is not Verdict.AC), Verdict.AC)


def read_rows(folder: Path) -> Iterator[Row]:
    """Reads the rows of a folder of cases.

    Args:
        folder: It holds `rows/*.jsonl`.

    Yields:
        Each row, file by file.

    Raises:
        CasesError: There are no rows, or one cannot be read; names the line.
    """
    files = sorted((folder / "rows").glob("*.jsonl"))
    if not files:
        raise CasesError(f"{folder} holds no rows/*.jsonl: name another by CASES=FOLDER")
    for file in files:
        for number, line in enumerate(file.read_text("utf-8").splitlines(), start=1):
            try:
                yield Row.model_validate_json(line)
            except ValidationError as error:
                fault = error.errors(include_url=False, include_input=False)[0]
                place = ".".join(str(part) for part in fault["loc"])
                raise CasesError(f"{file}:{number}: {place}: {fault['msg']}") from error


def plan(row: Row, folder: Path) -> Plan:
    """Says how a row is judged.

    Args:
        row: The row.
        folder: Where the files that it names lie.

    Returns:
        The plan; its submission has the row's name as id.

    Raises:
        NotApplicable: Cupel does not judge such rows.
        CasesError: A file is missing, or a verdict is unknown.
    """
    _refuse_unsuited(row)
    try:
        expected = row.expected
    except KeyError as error:
        raise CasesError(f"{row.row_id}: unknown verdict {error}") from error
    if "disk-fill" in (row.tags or ()) and Verdict.RTE in expected:
        expected |= {Verdict.MLE}
    checker, reading, tests = _checking(row, expected)
    groups = tuple(dict.fromkeys(test.group_or_tier for test in tests))
    by_group = row.expected_groups is not None and set(groups) == set(row.expected_groups)
    if "cross-run-persistence" in (row.tags or ()):
        # What a run leaves behind would make the next one print; so silence is the right answer.
        twice = (tests[0], tests[0].model_copy(update={"name": f"{tests[0].name} again"}))
        tests = tuple(t.model_copy(update={"expected_output": ""}) for t in twice)
        reading, expected = Reading.CHECKED, expected - {Verdict.WA}
    cases = tuple(
        _testcase(test, folder, groups.index(test.group_or_tier) + 1 if by_group else 1)
        for test in tests
    )
    complete = by_group or reading is Reading.ENDED or len(cases) > len(row.tests)
    return Plan(
        row_id=row.row_id,
        submission=Submission(
            id=row.row_id,
            problem=Problem(limits=_limits(row, expected), checker=checker, tests=cases),
            language=Language(row.language),
            source=row.source_code,
            stop=Stop.NEVER if complete else Stop.FIRST_FAILURE,
        ),
        reading=reading,
        expected=expected,
        groups=tuple(VERDICTS[(row.expected_groups or {})[g]] for g in groups) if by_group else (),
    )


def _refuse_unsuited(row: Row) -> None:
    if row.kind not in ("stdio", "adversarial"):
        reasons = {
            "function": "function rows: the author's harness calls the program's functions",
            "interactive": "interactive rows: the program talks with an interactor",
            "unit-test-runner": "unit-test-runner rows: a test framework of the language runs them",
        }
        raise NotApplicable(reasons.get(row.kind, f"{row.kind} rows: not stdio"))
    if row.language not in {language.value for language in Language}:
        raise NotApplicable("languages other than c, cpp and python")
    if "near-limit" in (row.tags or ()):
        raise NotApplicable("near-limit rows: their verdict depends on the machine")
    if any(test.requires for test in row.tests):
        raise NotApplicable("tests that require more than the language itself")


def _checking(
    row: Row, expected: frozenset[Verdict]
) -> tuple[Checker, Reading, tuple[RowTest, ...]]:
    """The checker, what a WA means, and the tests that are judged."""
    if row.checker is None or row.checker.type == "none":
        return TokensChecker(), Reading.ENDED, row.tests
    checker = _equivalent(row.checker)
    if checker is not None:
        if not all(test.has_answer for test in row.tests):
            raise NotApplicable("tests without an expected output")
        return checker, Reading.CHECKED, row.tests
    if expected & NEEDS_A_CHECKER:
        raise NotApplicable(f"{row.checker.type} checkers that are more than tokens")
    names = [test.name for test in row.tests]
    end = names.index(row.witness_test) + 1 if row.witness_test in names else len(names)
    return TokensChecker(), Reading.ENDED, row.tests[:end]


def _equivalent(checker: RowChecker) -> Checker | None:
    """Cupel's checker that decides as the author's does, if there is one."""
    if checker.type == "tokens":
        return TokensChecker()
    if checker.type == "kattis_default":
        return _kattis((checker.flags or "").split())
    if checker.type == "testlib" and (checker.equivalent_to or "").startswith("tokens"):
        return TokensChecker(case_sensitive="case-insensitive" not in (checker.equivalent_to or ""))
    return None


def _kattis(flags: Sequence[str]) -> Checker | None:
    """The default validator of the Kattis problem format, by its flags."""
    words = iter(flags)
    case_sensitive, tolerances = False, {"absolute_tolerance": 0.0, "relative_tolerance": 0.0}
    for word in words:
        match word:
            case "case_sensitive":
                case_sensitive = True
            case "float_tolerance":
                tolerances = dict.fromkeys(tolerances, float(next(words)))
            case "float_absolute_tolerance" | "float_relative_tolerance":
                tolerances[word.removeprefix("float_")] = float(next(words))
            case _:
                return None
    if not any(tolerances.values()):
        return TokensChecker(case_sensitive=case_sensitive)
    return FloatsChecker(case_sensitive=case_sensitive, **tolerances)


def _limits(row: Row, expected: frozenset[Verdict]) -> Limits:
    cpu_s = row.time_limit_s or Limits().cpu_s
    if Verdict.TLE not in expected:
        cpu_s = max(cpu_s, SLACK * row.slowest_s)
    memory_mb = row.memory_limit_mb
    return Limits(
        cpu_s=cpu_s,
        memory_bytes=int(memory_mb * MEBIBYTE) if memory_mb else MEMORY_BYTES_DEFAULT,
    )


def _testcase(test: RowTest, folder: Path, tier: int) -> Testcase:
    answer = _data(folder, test.expected_output, test.expected_output_path)
    return Testcase(
        name=test.name,
        input=_data(folder, test.input, test.input_path) or "",
        output=secrets.token_hex(16) if answer is None else answer,
        tier=tier,
    )


def _data(folder: Path, text: str | None, path: str | None) -> Data | None:
    if text is not None or path is None:
        return text
    try:
        raw = (folder / path).read_bytes()
        return encode_data(gzip.decompress(raw) if path.endswith(".gz") else raw)
    except (OSError, EOFError) as error:
        raise CasesError(f"{folder / path}: cannot be read: {error}") from error
