"""Checkers: whether an output agrees with the expected one. Pure functions over bytes.

Outputs are bytes: invalid UTF-8 is neither an error nor special. White space is that of ASCII
(space, tab, newline, carriage return, vertical tab, form feed); every other byte, NUL included,
belongs to a token. Extra memory is bounded, however large an output or one of its tokens is.
"""

from __future__ import annotations

from cupel.schema import Checker, TokensChecker
from cupel_service.checkers.floats import equal_floats
from cupel_service.checkers.tokens import equal_tokens

__all__ = ["check", "equal_floats", "equal_tokens"]


def check(checker: Checker, output: bytes, expected: bytes) -> bool:
    """Decides whether a program's output is right.

    Args:
        checker: How to compare.
        output: What the program wrote, complete.
        expected: The reference output.

    Returns:
        True if the output is accepted. Every checker accepts the expected output itself.
    """
    if output == expected:
        return True
    if isinstance(checker, TokensChecker):
        return equal_tokens(output, expected, case_sensitive=checker.case_sensitive)
    return equal_floats(
        output,
        expected,
        absolute_tolerance=checker.absolute_tolerance,
        relative_tolerance=checker.relative_tolerance,
        case_sensitive=checker.case_sensitive,
    )
