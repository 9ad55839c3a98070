"""LiveCodeBench's releases as windows of publication dates.

Source: "Dataset Versions" in the README of LiveCodeBench (arXiv 2403.07974). It gives months:
`release_v1` holds what was published from May 2023 to March 2024, and each later release all that
came before and more, up to May, July and September 2024, January and April 2025. The slice `v4` is
what `release_v4` added to `release_v3`; `v4_v5` is both slices.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date

from cupel_trainer.errors import ProblemSetError

FIRST_DAY = date(2023, 5, 1)
LAST_DAYS = (
    date(2024, 3, 31),
    date(2024, 5, 31),
    date(2024, 7, 31),
    date(2024, 9, 30),
    date(2025, 1, 31),
    date(2025, 4, 30),
)
"""The last day of slices v1, v2, ...; each begins on the day after the one before ended."""

_NAME = re.compile(r"(?P<whole>release_)?v(?P<first>[0-9]+)(?:_v(?P<last>[0-9]+))?")
_SLICE = re.compile(r"v([0-9]+)")


@dataclass(frozen=True, slots=True)
class Release:
    """A range of slices.

    Args:
        first: Its first slice, from 1.
        last: Its last slice.
    """

    first: int
    last: int

    def holds(self, slice_name: str, published: date | None) -> bool | None:
        """Whether a problem belongs to it.

        Args:
            slice_name: The slice that the problem set says, such as `v4`; decides where it is one.
            published: The day of publication, if known; decides otherwise.

        Returns:
            None if neither says anything.
        """
        if found := _SLICE.fullmatch(slice_name):
            return self.first <= int(found[1]) <= self.last
        if published is None:
            return None
        began = FIRST_DAY if self.first == 1 else LAST_DAYS[self.first - 2]
        after = published >= began if self.first == 1 else published > began
        return after and published <= LAST_DAYS[self.last - 1]


def parse_release(name: str) -> Release:
    """Reads a release's name: `release_v5`, `release_latest`, or slices: `v5`, `v4_v5`.

    Raises:
        ProblemSetError: LiveCodeBench has no such release.
    """
    newest = len(LAST_DAYS)
    if name == "release_latest":
        return Release(1, newest)
    found = _NAME.fullmatch(name)
    if found and not (found["whole"] and found["last"]):
        last = int(found["last"] or found["first"])
        first = 1 if found["whole"] else int(found["first"])
        if 1 <= first <= last <= newest:
            return Release(first, last)
    raise ProblemSetError(
        f"{name!r} is no release of LiveCodeBench: write release_v1 to release_v{newest}, "
        "or slices such as v5 or v4_v5"
    )
