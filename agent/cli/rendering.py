"""Answers about callbacks, and records, as lines of text.

Lines have one subject each, so that they can be searched with grep. Text from files is escaped, so
that it cannot control the terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from agent.cli.screen import INDENT, Cell, Row, shorten, table, wrap
from agent.core.quoting import printable

#: A JSON object as the agent gives it.
JsonObject = dict[str, Any]
Paint = Callable[[str, str], str]

_COLOURS = {"fires": "green", "partial": "yellow", "no": ""}
#: Columns of the tables of callbacks that are never shortened: verdict, language, marks.
_FIXED = (0, 2, 5)


def callbacks(answer: JsonObject, limit: int | None, about: str = "") -> Iterator[str]:
    """The table of the callbacks of a result; beneath each its code, if the result has it.

    `limit` is the width of the terminal, None without one; `about` the heading of what is said of
    each callback: its reason, or what is missing.
    """
    held = frozenset(answer.get("held", ()))
    rows = []
    for callback in (*answer["callbacks"], *answer.get("partial", ())):
        verdict = callback.get("verdict", "")
        marks = _marks(callback, callback["directory"] in held)
        said = [callback.get("reason", "")]
        if "missing" in callback:
            said = [f"(partial, missing: {callback['missing']})"]
        if limit is None:
            said += [f"({text})" for text in marks.values()]
        cells = [
            Cell(verdict, _COLOURS.get(verdict, "")),
            Cell(callback["file"]),
            Cell(callback["language"]),
            Cell(callback["trigger"]),
            Cell(f"{callback['directory'].rstrip('/')}/callbacks.conf:{callback['line']}"),
            Cell("" if limit is None else ", ".join(marks), "yellow"),
        ]
        rows.append(Row(cells, "  ".join(filter(None, said)), list(_code(callback))))
    headings = ("VERDICT", "FILE", "LANGUAGE", "TRIGGER", "LINE", "NOTE", about)
    yield from table(headings, rows, limit, _FIXED)


def _marks(callback: JsonObject, held: bool) -> dict[str, str]:
    """What a reader must know of a callback: by mark, in words."""
    marks = {}
    if not callback["enabled"]:
        marks["off"] = "language off: the supervisor will not run it"
    if held:
        marks["held"] = "held"
    return marks


def footnotes(answer: JsonObject, limit: int | None) -> Iterator[str]:
    """What the marks of `callbacks` mean, and which directories are held."""
    shown = (*answer["callbacks"], *answer.get("partial", ()))
    if limit is not None and not all(callback["enabled"] for callback in shown):
        text = "off: the supervisor will not run it, see supervisor_language_flags in qb.conf"
        yield from wrap(text, limit, then=INDENT)
    held = [printable(path) for path in answer.get("held", ())]
    if held:
        what = held[0] if len(held) == 1 else f"{held[0]} and {len(held) - 1} more"
        if limit is not None:
            what = shorten(what, limit // 2)
        # Of one that is held, nothing may be served, or a part of its files as they are.
        text = f"held: {what}: what is served may differ from the files; see callback-agent status"
        yield from wrap(text, limit, then=INDENT)


def _code(callback: JsonObject) -> Iterator[str]:
    """The callback's code, indented, if the answer has it."""
    if "code_base64" in callback:
        # Late, since `lookup` must start fast.
        import base64

        text = base64.b64decode(callback["code_base64"]).decode("utf-8", "backslashreplace")
        yield f"{INDENT}(not UTF-8: other bytes are shown as \\xNN)"
    elif "code" in callback:
        text = callback["code"]
    else:
        return
    for line in text.removesuffix("\n").split("\n"):
        # Tabs are the only control characters that stay.
        shown = "\t".join(map(printable, line.removesuffix("\r").split("\t")))
        yield (INDENT + shown).rstrip()


def record_lines(record: JsonObject) -> Iterator[str]:
    """A record as text. It may be of an agent of another version."""
    from agent.reload.record_text import text_of_answer

    yield from text_of_answer(record).removesuffix("\n").split("\n")


def span(seconds: float) -> str:
    """A duration in its two largest units: `3 h 12 min`."""
    left = int(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        number, left = divmod(left, size)
        if number or (unit == "s" and not parts):
            parts.append(f"{number} {unit}")
    return " ".join(parts[:2])
