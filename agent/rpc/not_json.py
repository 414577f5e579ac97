"""What is wrong with a line that is not JSON, in words for a person who wrote the client."""

from __future__ import annotations


def explain(line: bytes, refused: ValueError) -> dict[str, str]:
    """What was found on a line that the decoder refused, and what was expected.

    `refused` is what the decoder raised. Bytes count from 0.
    """
    expected = "one JSON value in UTF-8 on the line"
    # The decoder adds a path into the value, which says nothing more than the byte does.
    found = str(refused).removeprefix("JSON is malformed: ").partition(" - at `")[0]
    if line.startswith(b"\xef\xbb\xbf"):
        expected += ", without a byte order mark"
        found = "a byte order mark"
    elif isinstance(refused, UnicodeDecodeError):
        # The decoder counts from the beginning of a string.
        found = f"a byte that is not UTF-8 (byte {_first_bad_byte(line)})"
    elif "surrogate" in found:
        place = found[found.find("(byte") :]
        expected = r"both halves of a surrogate pair, as in \ud83d\ude00, or the character itself"
        found = f"an escape of one half of a surrogate pair {place}"
    elif "truncated" in found:
        found = "a line that ends inside a JSON value"
    return {"expected": expected, "found": found}


def _first_bad_byte(line: bytes) -> int:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return error.start
    return len(line)
