"""The float checker: tokens, where numbers may differ within a tolerance.

A number is a decimal of at most 1024 bytes, such as `-1`, `.5`, `2.` or `6.02e+23`, and nothing
else: `0x1p3`, `1_0` and `1,5` are text. Text must be equal, if so asked but for its case. So are
`inf` and `nan` in every spelling: they equal the same spelling only, never a number. A decimal
beyond the range of float64 (`1e999`) equals itself as text only. Comparison is in float64: integers
of more than 15 digits are as close as float64 sees them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import zip_longest

NUMBER_BYTES_MAX = 1024

# On bytes, \d is 0-9, \S is everything but ASCII white space, and neither looks at the locale.
_NUMBER = re.compile(rb"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
_TOKEN = re.compile(rb"\S+")


def equal_floats(
    output: bytes,
    expected: bytes,
    *,
    absolute_tolerance: float,
    relative_tolerance: float,
    case_sensitive: bool = True,
) -> bool:
    """Compares two outputs token by token, numbers within either of two tolerances.

    Args:
        output: What the program wrote.
        expected: The reference output.
        absolute_tolerance: Accepts |output - expected| up to this much.
        relative_tolerance: Accepts |output - expected| up to this part of |expected|.
        case_sensitive: If false, the letters A-Z equal a-z in tokens that are text (ASCII only).

    Returns:
        Whether both hold as many tokens, and each pair is equal as text or close as numbers.
    """
    for ours, theirs in zip_longest(_tokens(output), _tokens(expected)):
        if ours == theirs:
            continue
        if not case_sensitive and ours and theirs and _equal_but_for_case(ours, theirs):
            continue
        if not isinstance(ours, bytes) or not isinstance(theirs, bytes):
            return False  # one ended before the other, or is too long to be a number
        if not (_NUMBER.fullmatch(ours) and _NUMBER.fullmatch(theirs)):
            return False
        if not _close(float(ours), float(theirs), absolute_tolerance, relative_tolerance):
            return False
    return True


def _equal_but_for_case(ours: bytes | memoryview, theirs: bytes | memoryview) -> bool:
    step = NUMBER_BYTES_MAX  # a long token is a view, and is looked at in pieces
    return len(ours) == len(theirs) and all(
        bytes(ours[at : at + step]).lower() == bytes(theirs[at : at + step]).lower()
        for at in range(0, len(ours), step)
    )


def _close(ours: float, theirs: float, absolute: float, relative: float) -> bool:
    if math.isinf(ours) or math.isinf(theirs):
        return False
    return abs(ours - theirs) <= max(absolute, relative * abs(theirs))


def _tokens(data: bytes) -> Iterator[bytes | memoryview]:
    """Yields the tokens; one that is too long for a number as a view, so that none is copied."""
    view = memoryview(data)
    for match in _TOKEN.finditer(data):
        start, end = match.span()
        yield data[start:end] if end - start <= NUMBER_BYTES_MAX else view[start:end]
