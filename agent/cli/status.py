"""The command `status`: the answer as lines of text, on a terminal one screen.

The verdict is the first line and the last. Each line begins with its subject. Where the output is
not a terminal, nothing is shortened or left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import click

from agent.cli import screen
from agent.cli.asking import show
from agent.cli.options import json_option, pipe_option
from agent.cli.output import paint
from agent.cli.record_words import touched, word
from agent.cli.rendering import JsonObject, span
from agent.cli.screen import INDENT, Size, cells, cut, shorten, wrap
from agent.core.counting import count
from agent.core.diagnostic import format_line
from agent.core.quoting import printable
from agent.core.record_event import is_in

#: Lines of one finding at most: the rest is in the log, and `check` shows it.
MAX_FINDING_LINES = 3
#: Lines that findings and notes get at least, on however small a terminal.
MIN_LINES = 2
#: Columns of a path that are always shown.
MIN_PATH = 12


@click.command()
@click.option("--settings", is_flag=True, help="Show each setting too, and where it came from.")
@json_option
@pipe_option
def status(settings: bool, as_json: bool, pipe: str | None) -> int:
    """Show the agent's health, directories and last reload.

    Exit status: 0 ok, 1 degraded.
    """
    size = screen.size()
    return show(
        lambda agent: agent.status(),
        lambda answer: screen_lines(answer, size, settings),
        pipe,
        as_json,
        status=lambda answer: 0 if answer["state"] == "ok" else 1,
    )


def screen_lines(
    answer: JsonObject, size: Size | None, with_settings: bool = False
) -> Iterator[str]:
    """What `status` prints, on a terminal of `size` (None: no terminal)."""
    columns = size.columns if size else None
    first_and_last = verdict(answer, columns)
    why = reasons(answer, columns)
    about = [*facts(answer, columns), _last_reload(answer["last_reload"], columns)]
    notes = [cut(f"note: {printable(note)}", columns) for note in answer["notes"]]
    room = None
    if size:
        # The last line of the screen is for the prompt.
        room = size.lines - 1 - len((first_and_last, *about, first_and_last))
        why = fitting(why, max(MIN_LINES, room // 2))
        notes = notes[-max(MIN_LINES, room // 6) :]
        room = max(MIN_LINES, room - sum(map(len, why)) - len(notes))
    yield first_and_last
    for lines in why:
        yield from lines
    yield from about
    yield from _directories(answer["directories"], columns, room)
    if with_settings:
        yield from _settings(answer["settings"])
    yield from notes
    yield first_and_last


def state(answer: JsonObject) -> str:
    """The state, and in how many places something is wrong."""
    name = printable(answer["state"])
    wrong = []
    directories = answer["directories"]
    held = sum(d["held"] is not None for d in directories)
    if held:
        verb = "is" if held == 1 else "are"
        wrong.append(f"{held} of {count(len(directories), 'directory', 'directories')} {verb} held")
    record = answer["last_reload"]
    errors = sum(d["severity"] == "error" for d in record["diagnostics"])
    if errors:
        more = " or more" if record.get("omitted", {}).get("diagnostics") else ""
        wrong.append(f"{errors}{more} {'error' if errors == 1 and not more else 'errors'}")
    return f"{name}: {', '.join(wrong)}" if wrong and name != "ok" else name


def verdict(answer: JsonObject, columns: int | None) -> str:
    """The line of the state."""
    label = "state: "
    shown = cut(state(answer), columns - len(label) if columns else None)
    return label + paint(shown, "green" if answer["state"] == "ok" else "red")


def reasons(answer: JsonObject, columns: int | None) -> list[list[str]]:
    """The lines of each reason of the state: the first finding of each held directory, or why it
    is held; then the first error about each other file."""
    found = answer["last_reload"]["diagnostics"]
    # An error says more of why a directory is held than a warning before it.
    found = sorted(found, key=lambda d: d["severity"] != "error")
    said, explained = [], set()
    for directory in answer["directories"]:
        if directory["held"] is None:
            continue
        path = directory["path"]
        inside = [d for d in found if is_in(d["path"], [path])]
        explained |= {d["path"] for d in inside}
        text = f"{_path(path, columns)} is held: {printable(directory['held'])}"
        said.append(_line(inside[0], columns) if inside else text)
    for diagnostic in found:
        if diagnostic["severity"] == "error" and diagnostic["path"] not in explained:
            explained.add(diagnostic["path"])
            said.append(_line(diagnostic, columns))
    if not said and answer["state"] != "ok":
        said.append("see the notes, and callback-agent log")
    shown = []
    for reason in said:
        lines = wrap(reason, columns, "why: ", INDENT)
        if columns is not None and len(lines) > MAX_FINDING_LINES:
            last = " ".join([lines[MAX_FINDING_LINES - 1], lines[MAX_FINDING_LINES].lstrip()])
            lines[MAX_FINDING_LINES - 1 :] = [cut(last, columns)]
        shown.append(lines)
    return shown


def _line(diagnostic: JsonObject, columns: int | None) -> str:
    """A finding as one line."""
    return format_line({**diagnostic, "path": _path(diagnostic["path"], columns)})


def _path(path: str, columns: int | None) -> str:
    """A path, shortened so that what follows it has room."""
    return shorten(printable(path), columns // 2 if columns else None)


def fitting(groups: list[list[str]], room: int) -> list[list[str]]:
    """As many whole groups of lines as have room, at least one, and how many are left out."""
    if sum(map(len, groups)) <= room:
        return groups
    taken = 1
    while sum(map(len, groups[: taken + 1])) < room:
        taken += 1
    left = len(groups) - taken
    return [*groups[:taken], *([[f"why: {left} more, see callback-agent check"]] if left else [])]


def facts(answer: JsonObject, columns: int | None) -> Iterator[str]:
    """The lines about the agent as a whole."""
    for text in _facts(answer):
        yield cut(printable(text), columns)


def _facts(answer: JsonObject) -> Iterator[str]:
    off = answer.get("disabled", 0)
    served = f"callbacks: {answer['callbacks']} served"
    yield served + (f", {off} of them off: supervisor_language_flags" if off else "")
    if warnings := answer.get("warnings"):
        yield f"warnings: {warnings}: see callback-agent check"
    change = f"generation {answer['generation']}"
    if "last_change" in answer:
        change = f"{span(answer['last_change'])} ago, {change}"
    yield f"last change: {change}, {answer['digest']}"
    if "lookups" in answer:
        lookups = answer["lookups"]
        yield f"lookups: {lookups['per_second']:.1f} per second, {lookups['total']} in all"
    yield (
        f"agent: version {answer['version']}, pid {answer['pid']}, up {span(answer['uptime'])},"
        f" {count(answer['clients'], 'client')}"
    )


def _last_reload(record: JsonObject, columns: int | None) -> str:
    """The newest record, in short."""
    when = datetime.fromisoformat(record["time"]).astimezone()
    took = f"{record['duration_ms']:.0f} ms"
    text = f"last reload: {when:%Y-%m-%d %H:%M:%S} {printable(word(record))}, {took}"
    if causes := record["causes"]:
        more = len(causes) - 1 + record.get("omitted", {}).get("causes", 0)
        text += f": {causes[0]['change']} "
        rest = f" and {more} more" if more else ""
        room = columns - cells(text) - len(rest) if columns else None
        text += shorten(printable(causes[0]["path"]), room) + rest
    elif new := next(touched(record), ""):
        text += ": a new finding in "
        text += shorten(printable(new), columns - cells(text) if columns else None)
    return cut(text, columns)


def _directories(
    directories: list[JsonObject], columns: int | None, room: int | None
) -> Iterator[str]:
    """A line for each directory. If `room` lines are not enough for all, the held ones come first,
    and the last line counts the rest."""
    shown, left = directories, list[JsonObject]()
    if room is not None and len(directories) > room:
        ordered = sorted(directories, key=lambda d: d["held"] is None)
        shown, left = ordered[: room - 1], ordered[room - 1 :]
    label = "directory: "
    texts = [f"  {count(d['callbacks'], 'callback')}  by {printable(d['watch'])}" for d in shown]
    holds = [f"  HELD: {printable(d['held'])}" if d["held"] else "" for d in shown]
    paths = [printable(d["path"]) for d in shown]
    width = max(map(len if columns is None else cells, paths), default=0)
    if columns is not None:
        longest = max(
            (len(text) + cells(held) for text, held in zip(texts, holds, strict=True)), default=0
        )
        width = min(width, max(MIN_PATH, columns - len(label) - longest))
    for path, text, held in zip(paths, texts, holds, strict=True):
        path = shorten(path, width if columns else None)
        path += " " * (width - (len(path) if columns is None else cells(path)))
        if columns is not None:
            held = cut(held, max(0, columns - len(label) - width - len(text)))
        yield cut(label + path + text, columns) + (paint(held, "red") if held else "")
    if left:
        held_too = sum(d["held"] is not None for d in left)
        ways = {way: sum(d["watch"] == way for d in left) for way in ("events", "scan")}
        watched = ", ".join(f"{number} by {way}" for way, number in ways.items() if number)
        held_text = f"{held_too} held" if held_too else "none held"
        total = count(sum(d["callbacks"] for d in left), "callback")
        yield cut(f"{label}{len(left)} more: {total}, {watched}, {held_text}", columns)


def _settings(settings: JsonObject) -> Iterator[str]:
    """A line for each setting: its value, and where it came from."""
    width = max(map(len, settings), default=0)
    for name, setting in settings.items():
        value = setting["value"]
        shown = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        yield printable(f"setting: {name.ljust(width)}  {shown}  ({setting['source']})")
