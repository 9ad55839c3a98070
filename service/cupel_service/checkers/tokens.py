"""The token checker: two outputs are equal if their sequences of tokens are.

Both outputs are streamed into one normal form, tokens with a single space between them, and those
forms are compared piece by piece. As no token holds white space, equal forms mean equal tokens.
"""

from __future__ import annotations

from collections.abc import Iterator

CHUNK_BYTES = 16 * 1024


def equal_tokens(
    output: bytes, expected: bytes, *, case_sensitive: bool = True, chunk_bytes: int = CHUNK_BYTES
) -> bool:
    """Compares two outputs token by token.

    Args:
        output: What the program wrote.
        expected: The reference output.
        case_sensitive: If false, the letters A-Z equal a-z (ASCII only).
        chunk_bytes: How much is looked at in one step.

    Returns:
        Whether both hold the same tokens in the same order.
    """
    ours = _normal_form(output, case_sensitive, chunk_bytes)
    theirs = _normal_form(expected, case_sensitive, chunk_bytes)
    left = right = b""
    while True:
        left = left or next(ours, b"")
        right = right or next(theirs, b"")
        if not left or not right:
            return left == right
        length = min(len(left), len(right))
        if left[:length] != right[:length]:
            return False
        left, right = left[length:], right[length:]


def _normal_form(data: bytes, case_sensitive: bool, chunk_bytes: int) -> Iterator[bytes]:
    """Yields pieces, none empty, that together are the tokens with one space between them."""
    begun = False  # something was yielded
    apart = False  # white space was seen since
    for start in range(0, len(data), chunk_bytes):
        chunk = data[start : start + chunk_bytes]
        piece = b" ".join(chunk.split())
        if not piece:
            apart = True
            continue
        if begun and (apart or chunk[:1].isspace()):
            piece = b" " + piece
        yield piece if case_sensitive else piece.lower()
        begun = True
        apart = chunk[-1:].isspace()
