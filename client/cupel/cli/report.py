"""What the command line prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cupel.errors import CupelError
from cupel.schema import MEBIBYTE, Judgement, ProblemSummary, TestResult, Verdict

GOOD, FAILED, BROKEN = 0, 1, 2
"""Exit codes: accepted; the program failed; usage, infrastructure or a judging error."""

_STYLES = {Verdict.AC: "green", Verdict.JE: "magenta", Verdict.TLE: "yellow", Verdict.MLE: "yellow"}


@contextmanager
def errors_reported() -> Iterator[None]:
    """Shows a CupelError as one message on standard error and exits with 2."""
    try:
        yield
    except CupelError as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    """Shows a message on standard error and exits with 2.

    Raises:
        typer.Exit: Always.
    """
    typer.echo(f"cupel: {message}", err=True)
    raise typer.Exit(BROKEN)


def exit_code(judgements: Sequence[Judgement]) -> int:
    """The worst of the judgements: 2 with a judging error, 1 with a failure, 0 if all are AC."""
    verdicts = {judgement.verdict for judgement in judgements}
    if Verdict.JE in verdicts:
        return BROKEN
    return GOOD if verdicts <= {Verdict.AC} else FAILED


def show_judgement(name: str, judgement: Judgement) -> None:
    """Prints the tests of a judgement as a table, and its verdict.

    Args:
        name: What was judged, such as a file's name.
        judgement: Its judgement.
    """
    console = Console(highlight=False)
    if judgement.tests:
        table = Table("tier", "test", "verdict", "cpu", "memory", "notes")
        for column in (0, 3, 4):
            table.columns[column].justify = "right"
        for test in judgement.tests:
            table.add_row(
                str(test.tier),
                escape(test.name),
                _coloured(test.verdict),
                f"{test.cpu_s:.3f} s",
                _mebibytes(test.memory_bytes),
                escape(_notes(test)),
            )
        console.print(table)
    if judgement.compile is not None and judgement.compile.diagnostics:
        console.print(judgement.compile.diagnostics.rstrip(), markup=False, soft_wrap=True)
    console.print(_verdict_line(name, judgement), soft_wrap=True)
    if judgement.degraded:
        layers = ", ".join(judgement.degraded)
        console.print(f"isolation given up on this service: {layers}", markup=False)


def _verdict_line(name: str, judgement: Judgement) -> str:
    parts = [f"{escape(name)}: {_coloured(judgement.verdict)}"]
    if judgement.verdict is not Verdict.AC:
        parts.append(judgement.failure_class.value)
    if judgement.first_failing_tier is not None:
        parts.append(f"first failing tier {judgement.first_failing_tier} of {judgement.tiers}")
    if judgement.tests:
        passed = sum(test.verdict is Verdict.AC for test in judgement.tests)
        wanted = sum(judgement.tests_per_tier[: judgement.coverage])
        parts.append(f"{passed} of {wanted} tests passed")
        parts.append(f"at most {judgement.cpu_s:.3f} s, {_mebibytes(judgement.memory_bytes)}")
    if not judgement.complete and judgement.verdict not in (Verdict.CE, Verdict.JE):
        parts.append("stopped early (--stop never judges every test)")
    if judgement.message:
        parts.append(escape(judgement.message))
    return "; ".join(parts)


def _notes(test: TestResult) -> str:
    notes = list(test.flags)
    if test.signal is not None:
        notes.append(f"signal {test.signal}")
    elif test.exit_code:
        notes.append(f"exit code {test.exit_code}")
    if test.tle_kind is not None:
        notes.append(f"{test.tle_kind.value}, wall {test.wall_s:.3f} s")
    if test.measurements > 1:
        notes.append(f"measured {test.measurements} times")
    return ", ".join(notes)


def _coloured(verdict: Verdict) -> str:
    return f"[bold {_STYLES.get(verdict, 'red')}]{verdict.value}[/]"


def _mebibytes(count_bytes: int) -> str:
    return f"{count_bytes / MEBIBYTE:.1f} MiB"


def show_problems(problems: Sequence[ProblemSummary]) -> None:
    """Prints problems as a table."""
    table = Table("problem", "title", "tests per tier", "checker", "cpu", "memory")
    for problem in problems:
        table.add_row(
            escape(problem.id),
            escape(problem.title),
            tests_per_tier(problem),
            escape(problem.checker),
            f"{problem.limits.cpu_s:g} s",
            _mebibytes(problem.limits.memory_bytes),
        )
    Console(highlight=False).print(table)


def tests_per_tier(problem: ProblemSummary) -> str:
    """Such as `3 + 4 + 2`."""
    return " + ".join(str(count) for count in problem.tests_per_tier)
