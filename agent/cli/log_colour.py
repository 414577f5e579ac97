"""Colours of the text log, for a terminal."""

from __future__ import annotations

import re
from collections.abc import Callable

from agent.cli.findings import COLOURS
from agent.core.diagnostic import Severity
from agent.core.quoting import printable

#: The level and the event of a first line.
_HEAD = re.compile(r"(\[[^]]*\] (?:\S+: )?)(INFO|WARNING|ERROR): ([\w ]+):")
#: What an indented line begins with, and its colour.
_DETAILS = {
    **dict.fromkeys(("+ ", "added: ", "restored: "), "green"),
    **dict.fromkeys(("- ", "removed: ", "held: "), "red"),
    "modified: ": "yellow",
    "help: ": "cyan",
}
#: The severity of a finding.
_FINDING = re.compile(r":\d+:\d+: (error|warning|note):")
_LEVELS = {"INFO": "green", "WARNING": "yellow", "ERROR": "red"}


def coloured(data: bytes, paint: Callable[[str, str], str]) -> bytes:
    """Lines of a log with colours, where `paint` gives them; as they are where it does not."""
    if not data or paint("x", "red") == "x":
        return data
    text = data.decode("utf-8", "backslashreplace")
    lines = (_line(printable(line), paint) for line in text.split("\n")[:-1])
    return "".join(f"{line}\n" for line in lines).encode()


def _line(line: str, paint: Callable[[str, str], str]) -> str:
    if match := _HEAD.match(line):
        level, event = (paint(match[n], _LEVELS[match[2]]) for n in (2, 3))
        return f"{match[1]}{level}: {event}:{line[match.end() :]}"
    for beginning, colour in _DETAILS.items():
        if line.startswith(f"    {beginning}"):
            return paint(line, colour)
    if match := _FINDING.search(line):
        start, end = match.span(1)
        return line[:start] + paint(match[1], COLOURS[Severity(match[1])]) + line[end:]
    return line
