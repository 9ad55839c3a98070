"""How an unexpected exception is logged: where it happened, never what it says."""

from __future__ import annotations

import traceback


def frames_of(error: BaseException) -> str:
    """The innermost frames of an exception, without its message, which may quote secrets.

    Returns:
        Such as `judge.py:88 judge < embedded.py:240 _work`.
    """
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    return " < ".join(
        f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}"
        for frame in reversed(frames)
    )
