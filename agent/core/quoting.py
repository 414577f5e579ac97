"""Makes text from outside safe to show: names, lines and triggers may hold any bytes."""

from __future__ import annotations

import re

#: The longest name or quoted text in a message, in characters. Longer ones are cut in the middle.
MAX_QUOTED = 200


def shorten(text: str, limit: int = MAX_QUOTED) -> str:
    """`text`, its middle replaced by `...` if it has more than `limit` characters."""
    if len(text) <= limit:
        return text
    tail = (limit - 3) // 3
    return f"{text[: limit - 3 - tail]}...{text[len(text) - tail :]}"


def shown(text: str) -> str:
    """`text` as a message quotes it: on one line, with at most MAX_QUOTED characters."""
    return shorten(printable(shorten(text)))


def encodable(text: str) -> str:
    r"""`text` with bytes that are not UTF-8 (lone surrogates, in Python) written as `\xNN`.

    File names and lines of a file may hold any bytes; JSON and terminals take only Unicode.
    """
    if text.isascii():
        return text
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # Surrogates that stand for no byte.
        text = _SURROGATE.sub(lambda m: f"\\u{ord(m[0]):04x}", text)
        raw = text.encode("utf-8", "surrogateescape")
    return raw.decode("utf-8", "backslashreplace")


_SURROGATE = re.compile("[\ud800-\udc7f\udd00-\udfff]")


def printable(text: str) -> str:
    r"""`text` on one line, with unprintable characters written as `\xNN`, `\uNNNN` or `\UNNNNNNNN`.

    Unprintable are control characters (C1 too), format characters such as those that change the
    direction of writing, separators other than the space, and unassigned code points. So a file
    name or a trigger cannot add lines to the log, control the terminal, or look like another name.
    """
    text = encodable(text)
    if text.isprintable():
        return text
    unprintable = {c for c in set(text) if not c.isprintable()}
    return text.translate({ord(c): c.encode("unicode_escape").decode() for c in unprintable})


# DEL, C1, and every format character and separator of lines or paragraphs of Unicode 16. Written
# out, because computing it from all code points would take 100 ms at each start.
_UNPRINTABLE = re.compile(
    "[\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f"
    "\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f]"
)


def escape_json(data: bytes) -> bytes:
    r"""Encoded JSON in which `\uNNNN` replaces characters that could control a terminal.

    Takes and returns UTF-8; the value that it decodes to is the same. Encoders escape C0 only;
    this adds DEL, C1, and format characters such as those that change the direction of writing.
    """
    if data.isascii() and b"\x7f" not in data:
        return data
    return _UNPRINTABLE.sub(_as_json_escape, data.decode()).encode()


def _as_json_escape(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))
