"""Judges a folder of real submissions and compares with what their authors expect (`make cases`).

Every stdio row in C, C++ or Python goes over HTTP through a service of its own; `case_rows` says
how a row becomes a submission and which rows are not applicable. The sources are hostile: they run
in boxes only. Exit status: 0 if all is as expected, 1 if a row is not, 2 if it could not be tried.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from case_rows import CasesError, NotApplicable, Plan, lifted, plan, read_rows
from cupel import Client, CupelError, Judgement
from cupel.embedded import embedded_service

SILENCE_S_MAX = 3600.0
"""The longest silence of the service that is waited for: some rows are slow, slots are few."""


def read_plans(folder: Path) -> tuple[list[Plan], Counter[str]]:
    """Reads a folder.

    Args:
        folder: The folder of the cases.

    Returns:
        The rows to judge, and how many rows are not applicable for which reason.

    Raises:
        CasesError: The folder or a row cannot be read.
    """
    plans: list[Plan] = []
    reasons: Counter[str] = Counter()
    for row in read_rows(folder):
        try:
            plans.append(plan(row, folder))
        except NotApplicable as reason:
            reasons[str(reason)] += 1
    return plans, reasons


def judge(plans: Sequence[Plan], box: str) -> dict[str, Judgement]:
    """Judges rows by a service of one's own, with a progress bar on standard error.

    Args:
        plans: The rows.
        box: The kind of box that they run in.

    Returns:
        The judgements by row.

    Raises:
        CupelError: The service did not start, or a request failed.
    """
    with embedded_service(["--box", box]) as url, Client(url, timeout_s=SILENCE_S_MAX) as client:
        judgements = _judge(client, plans)
        again = [new for each in plans if (new := lifted(each, judgements[each.row_id]))]
        return judgements | _judge(client, again)


def _judge(client: Client, plans: Sequence[Plan]) -> dict[str, Judgement]:
    submissions = [each.submission for each in plans]
    judged = client.judge_many(submissions, batch_size=4, progress=True)
    return {judgement.id: judgement for _, judgement in judged}


def report(
    console: Console,
    plans: Sequence[Plan],
    judgements: Mapping[str, Judgement],
    reasons: Counter[str],
    *,
    every: bool,
) -> int:
    """Shows the rows that are not as expected, and the count of all.

    Args:
        console: Where it is shown.
        plans: The rows that were judged.
        judgements: Their judgements.
        reasons: How many rows were not, by reason.
        every: Show rows that are as expected, too.

    Returns:
        How many rows are not as expected.
    """
    faults = {each.row_id: each.fault(judgements[each.row_id]) for each in plans}
    table = Table("row", "expected", "got", "cpu_s", title="Expected against got")
    for each in plans:
        judgement, fault = judgements[each.row_id], faults[each.row_id]
        if not (fault or every):
            continue
        got = f"[red]{escape(fault)}[/]" if fault else each.got(judgement).value
        expected = " ".join(sorted(each.expected)) if len(each.expected) < 5 else "any but JE"
        table.add_row(escape(each.row_id), expected, got, f"{judgement.cpu_s:.2f}")
    if table.row_count:
        console.print(table)
    if reasons:
        refused = Table("rows", "not applicable, because", title="Not applicable")
        for reason, count in reasons.most_common():
            refused.add_row(str(count), reason)
        console.print(refused)
    unexpected = sum(1 for fault in faults.values() if fault)
    print(
        f"cases: {len(plans) - unexpected} as expected, {unexpected} unexpected, "
        f"{reasons.total()} not applicable"
    )
    return unexpected


def compare(plans: Sequence[Plan], every: Mapping[str, Mapping[str, Judgement]]) -> int:
    """Shows the rows whose verdicts depend on the kind of box.

    Args:
        plans: The rows.
        every: Their judgements by kind of box.

    Returns:
        How many rows differ.
    """
    differing = 0
    for each in plans:
        got = {box: each.got(judgements[each.row_id]).value for box, judgements in every.items()}
        if len(set(got.values())) > 1:
            differing += 1
            print(f"cases: {each.row_id} differs: {got}")
    print(f"cases: {differing} of {len(plans)} rows differ between {' and '.join(every)} boxes")
    return differing


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="the folder of the cases; it holds rows/*.jsonl")
    parser.add_argument(
        "--box",
        action="append",
        choices=["native", "docker"],
        help="kind of box; given twice, verdicts are compared row by row; default: native",
    )
    parser.add_argument("--all", action="store_true", help="also show rows that are as expected")
    parser.add_argument("--only", default="", help="only rows whose name contains this text")
    arguments = parser.parse_args()
    console = Console() if Console().is_terminal else Console(width=140)
    try:
        plans, reasons = read_plans(arguments.folder)
        plans = [each for each in plans if arguments.only in each.row_id]
        every = {box: judge(plans, box) for box in arguments.box or ["native"]}
    except (CasesError, CupelError) as error:
        print(f"cases: {error}", file=sys.stderr)
        return 2
    unexpected = sum(
        report(console, plans, judgements, reasons, every=arguments.all)
        for judgements in every.values()
    )
    differing = compare(plans, every) if len(every) > 1 else 0
    return 1 if unexpected or differing else 0


if __name__ == "__main__":
    sys.exit(main())
