"""The progress bar of long calls; rich is loaded only when one is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(shown: bool, total: int | None) -> Iterator[Callable[[], None]]:
    """Shows a bar on standard error, if wanted.

    Args:
        shown: Whether there is a bar at all.
        total: How many steps there will be; None if unknown.

    Yields:
        A function that moves the bar by one.
    """
    if not shown:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    columns = ("judging", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("judging", total=total)
        yield lambda: progress.advance(task)
