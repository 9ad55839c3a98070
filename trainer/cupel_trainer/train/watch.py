"""What a run shows on standard error while it goes: a live line, or plain ones for a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from cupel_trainer.train.run import Progress
from cupel_trainer.train.step_record import StepRecord


def describe(record: StepRecord) -> str:
    """A step in one line."""
    parts = [
        f"reward {_number(record.reward)}",
        f"solved {_percent(record.solve_rate)}",
        f"too slow {_percent(record.optimization_failures)}",
        f"wrong {_percent(record.correctness_failures)}",
        f"{record.tokens_per_s:.0f} tokens/s",
        f"judge wait {record.judge_wait_s:.1f} s ({record.judge_wait_share:.0%})",
    ]
    if record.full_solve_rate is not None:
        parts.insert(2, f"at all tiers {_percent(record.full_solve_rate)}")
    if record.judging_errors:
        parts.append(f"{record.judging_errors} judging errors")
    return ", ".join(parts)


@contextmanager
def watching(console: Console | None = None) -> Iterator[Callable[[Progress], None]]:
    """Shows the progress of a run.

    Args:
        console: Where; by default standard error.

    Yields:
        What is to be told.
    """
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield _plain(console)
        return
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[doing]}"),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=console) as bar:
        shown = bar.add_task("", total=None, doing="loading")
        last = -1

        def show(progress: Progress) -> None:
            nonlocal last
            bar.update(
                shown, completed=progress.step, total=progress.steps, doing=escape(progress.doing)
            )
            if progress.record is not None and progress.record.step != last:
                last = progress.record.step
                bar.console.print(f"step {last}: {describe(progress.record)}", markup=False)

        yield show


def _plain(console: Console) -> Callable[[Progress], None]:
    said = ""

    def show(progress: Progress) -> None:
        nonlocal said
        record = progress.record
        if record is not None and progress.doing == "updating" and said != f"{record.step}":
            said = f"{record.step}"
            line = f"step {record.step} of {progress.steps}: {describe(record)}"
            console.print(line, markup=False, soft_wrap=True, highlight=False)

    return show


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
