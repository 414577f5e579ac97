"""Answers as lines of text.

Lines are plain and aligned, with one subject each, so that they can be searched with grep. Text
from files is escaped, so that it cannot control the terminal. `paint(text, colour)` returns the
text, in colour if the output has colours.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from agent.core.quoting import printable

#: A JSON object as the agent gives it.
JsonObject = dict[str, Any]
Paint = Callable[[str, str], str]


def columns(callback: JsonObject) -> list[str]:
    """File, language, trigger, and the place where the callback is registered."""
    place = f"{callback['directory'].rstrip('/')}/callbacks.conf:{callback['line']}"
    return [callback["file"], callback["language"], callback["trigger"], place]


def table(rows: Sequence[tuple[list[str], str, JsonObject]], paint: Paint) -> Iterator[str]:
    """A line for each callback: its columns, aligned, and a note; then its code, if it has one."""
    texts = [[printable(cell) for cell in cells] for cells, _, _ in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for cells, (_, note, callback) in zip(texts, rows, strict=True):
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        if note:
            padded.append(printable(note))
        if not callback["enabled"]:
            padded.append(paint("(language off: the supervisor will not run it)", "yellow"))
        yield "  ".join(padded).rstrip()
        yield from _code(callback)


def _code(callback: JsonObject) -> Iterator[str]:
    """The callback's code, indented, if the answer has it."""
    if "code_base64" in callback:
        text = base64.b64decode(callback["code_base64"]).decode("utf-8", "backslashreplace")
        yield "    (not UTF-8: other bytes are shown as \\xNN)"
    elif "code" in callback:
        text = callback["code"]
    else:
        return
    for line in text.removesuffix("\n").split("\n"):
        # Tabs are the only control characters that stay.
        shown = "\t".join(map(printable, line.removesuffix("\r").split("\t")))
        yield ("    " + shown).rstrip()


def health(status: JsonObject, paint: Paint) -> Iterator[str]:
    """The state first, then its parts; each line begins with its subject."""
    state = status["state"]
    yield "state: " + paint(printable(state), "green" if state == "ok" else "red")
    yield printable(
        f"agent: version {status['version']}, pid {status['pid']}, up {_span(status['uptime'])},"
        f" {count(status['clients'], 'client')}"
    )
    yield printable(
        f"index: generation {status['generation']}, {count(status['callbacks'], 'callback')},"
        f" {status['digest']}"
    )
    directories = status["directories"]
    width = max((len(printable(d["path"])) for d in directories), default=0)
    for d in directories:
        line = (
            f"directory: {printable(d['path']).ljust(width)}  {count(d['callbacks'], 'callback')}"
        )
        held = paint(f"  HELD: {printable(d['held'])}", "red") if d["held"] else ""
        yield f"{line}  by {printable(d['watch'])}{held}"
    settings = status["settings"]
    width = max(map(len, settings), default=0)
    for name, setting in settings.items():
        value = setting["value"]
        shown = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        yield printable(f"setting: {name.ljust(width)}  {shown}  ({setting['source']})")
    for note in status["notes"]:
        yield printable(f"note: {note}")
    yield "last reload:"
    record = status["last_reload"]
    yield from record_lines({"changes": [], **record})
    left_out = {k: n for k, n in record.get("omitted", {}).items() if n}
    if left_out:
        numbers = ", ".join(f"{n} {name}" for name, n in left_out.items())
        yield f"    {numbers}: see callback-agent log"


def record_lines(record: JsonObject) -> Iterator[str]:
    """The record as the reload log has it."""
    from agent.reload.log import Record, text

    yield from text(cast(Record, record)).rstrip("\n").split("\n")


def count(number: int, one: str, many: str | None = None) -> str:
    """`1 callback`, `2 callbacks`."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def _span(seconds: float) -> str:
    """A duration in its two largest units: `3 h 12 min`."""
    left = int(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        number, left = divmod(left, size)
        if number or (unit == "s" and not parts):
            parts.append(f"{number} {unit}")
    return " ".join(parts[:2])
