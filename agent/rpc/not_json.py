"""What is wrong with a line that is not JSON, in words for a person who wrote the client."""

from __future__ import annotations

import re

#: What may be the first half of a surrogate pair without the second: if the backslash is not
#: itself escaped. It begins with fixed bytes, so that a MiB is searched in a millisecond.
_FIRST_HALF = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})")
_BACKSLASH = ord("\\")


def explain(line: bytes, refused: ValueError) -> dict[str, str]:
    """What was found on a line that the decoder refused, and what was expected.

    `refused` is what the decoder raised. Bytes count from 0.
    """
    expected = "one JSON value in UTF-8 on the line"
    # The decoder adds a path into the value, which says nothing more than the byte does.
    found = str(refused).removeprefix("JSON is malformed: ").partition(" - at `")[0]
    half = _first_half(line)
    if line.startswith(b"\xef\xbb\xbf"):
        expected += ", without a byte order mark"
        found = "a byte order mark"
    elif isinstance(refused, UnicodeDecodeError):
        # The decoder counts from the beginning of a string.
        found = f"a byte that is not UTF-8 (byte {_first_bad_byte(line)})"
    elif "surrogate" in found or ("truncated" in found and half):
        # Near the end of the line, the decoder misses the second half as the rest of its input.
        place = f"(byte {half})" if half else found[found.find("(byte") :]
        expected = r"both halves of a surrogate pair, as in \ud83d\ude00, or the character itself"
        found = f"an escape of one half of a surrogate pair {place}"
    elif "truncated" in found:
        found = "a line that ends inside a JSON value"
    return {"expected": expected, "found": found}


def _first_half(line: bytes) -> int | None:
    """Where the escape of the first half of a surrogate pair without the second ends."""
    for half in _FIRST_HALF.finditer(line):
        begin = half.start()
        while begin and line[begin - 1] == _BACKSLASH:
            begin -= 1
        if (half.start() - begin) % 2 == 0:
            return half.end()
    return None


def _first_bad_byte(line: bytes) -> int:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return error.start
    return len(line)
