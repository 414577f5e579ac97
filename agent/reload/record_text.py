"""A record as text for a person: one line that says what happened to what, then indented lines.

The first line alone is enough for `tail -f` and `grep ERROR`. Nothing is said twice: what the first
line says is not in the others, and what the record before had is only counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from agent.core import record_event
from agent.core.counting import count
from agent.core.diagnostic import RANK, Severity, format_line
from agent.core.quoting import printable
from agent.core.record_event import is_in
from agent.core.unit import CONF
from agent.rpc.messages import Cause, Change, Diagnostic, Record

#: Directories that a list names before it counts the rest.
MAX_NAMED = 3

_HUNK = re.compile(r"@@ -(\d+)(?:,\d+)? \+(\d+)(?:,\d+)? @@")
#: What a modified callback has.
_WHAT = {"digest": "other code", "line": "another line", "enabled": "its language was switched"}


def level(record: Record) -> str:
    """INFO, WARNING or ERROR, as the supervisor's own log has them."""
    severities = {d.severity for d in record.diagnostics}
    if record.held or "error" in severities:
        return "ERROR"
    return "WARNING" if "warning" in severities else "INFO"


def text(record: Record, who: str = "") -> str:
    """A record of the reload log. The first line has the form of the supervisor's own log, in local
    time. `who` is `HOST[PID]`."""
    new = [d for d in record.diagnostics if d.new]
    return _text(record, who, _word(record, new), new)


def text_of_answer(answer: Mapping[str, Any]) -> str:
    """As `text`, of a record that the pipe gave, perhaps of an agent of another version.

    It may be the record of a call of `reload` that changed nothing. Then all errors are in it.
    Raises ValueError if it is not a record.
    """
    lists = ("changes", "newly_held", "restored", "conf_diff")
    missing = {"instance": "?", "sequence": 0, **{name: [] for name in lists}}
    known = {k: v for k, v in answer.items() if k in Record.__struct_fields__}
    record = msgspec.convert(missing | known, Record)
    new = [d for d in record.diagnostics if d.new]
    if record.event != "reloaded" or record.causes or record.changes or new:
        return _text(record, "", _word(record, new), new)
    errors = [d for d in record.diagnostics if d.severity == "error"]
    return _text(record, "", "nothing changed", errors)


def _word(record: Record, new: list[Diagnostic]) -> str:
    """The event as it is shown."""
    held = {h.directory for h in record.held}
    touched = [item.path for items in (record.causes, new) for item in items]
    return record_event.word(record.event, bool(record.changes), held, touched)


def _text(record: Record, who: str, event: str, new: list[Diagnostic]) -> str:
    said = _Said()
    phrases = [*_what_happened(record, new, said)]
    if event == record_event.STILL_HELD:
        held = [h.directory for h in record.held]
        said.directories |= {d for d in held if any(is_in(path, [d]) for path in said.causes)}
    phrases += _standing(record, new, said)
    served = "served"
    if not record.changes and record.event not in ("started", "stopped"):
        served = "served as before"
    state = f"generation {record.generation}, {count(record.callbacks, 'callback')} {served}"
    phrases.append(f"{state} ({record.duration_ms:.0f} ms)")
    when = _local(record.time)
    head = f"[{when:%b %d, %Y %H:%M:%S}] {who}{who and ': '}{level(record)}: {event}: "
    lines = [head + "; ".join(phrases)]
    lines += (f"    {line}" for line in _details(record, new, said))
    return "\n".join(lines) + "\n"


@dataclass(slots=True)
class _Said:
    """What the first line says."""

    finding: Diagnostic | None = None
    #: Paths of causes.
    causes: set[str] = field(default_factory=set)
    #: Directories that are held, still held or restored, by what is said of them or of files there.
    directories: set[str] = field(default_factory=set)


# The first line ----------------------------------------------------------------------------------


def _what_happened(record: Record, new: list[Diagnostic], said: _Said) -> Iterator[str]:
    """What happened, to which file or directory, and by whom."""
    phrase = _subject(record, new, said)
    if left := len(set(record.newly_held) - said.directories):
        phrase += f" and {count(left, 'other directory', 'other directories')}"
    changes = _counts(record.changes) if record.event != "started" else ""
    if phrase or changes:
        yield ": ".join(filter(None, (phrase, changes)))
    elif record.diagnostics and record.event == "reloaded":
        yield "no finding is new"


def _subject(record: Record, new: list[Diagnostic], said: _Said) -> str:
    """The finding, file or directory that the record is about most; empty for none."""
    finding = _finding_to_name(record, new)
    if finding is not None:
        said.finding = finding
        said.causes.add(finding.path)
        said.directories |= {d for d in record.newly_held if is_in(finding.path, [d])}
        return _finding(finding) + _by(_cause_of(finding.path, record), record)
    if record.newly_held:
        directory = record.newly_held[0]
        said.directories.add(directory)
        reason = next(h.reason for h in record.held if h.directory == directory)
        return f"{printable(directory)} ({reason})"
    if record.event == "started":
        said.causes |= {c.path for c in record.causes[:MAX_NAMED]}
        return _named([c.path for c in record.causes])
    if record.causes:
        cause = _first_cause(record)
        said.causes.add(cause.path)
        said.directories |= {d for d in record.restored if is_in(cause.path, [d])}
        more = len(record.causes) - 1
        return _cause(cause, record) + (f" and {count(more, 'other file')}" if more else "")
    if record.restored:
        said.directories.add(record.restored[0])
        return printable(record.restored[0])
    return ""


def _finding_to_name(record: Record, new: list[Diagnostic]) -> Diagnostic | None:
    """The first error in a directory that is newly held. If none is newly held: the first error;
    and if no file changed either, the first finding of any severity."""
    errors = [d for d in new if d.severity == "error"]
    if record.newly_held:
        return next((d for d in errors if is_in(d.path, record.newly_held)), None)
    if errors or record.causes or record.restored:
        return next(iter(errors), None)
    return next(iter(new), None)


def _standing(record: Record, new: list[Diagnostic], said: _Said) -> Iterator[str]:
    """What makes this an error, if the record before had it already."""
    others = said.directories.union(record.newly_held)
    held = [h.directory for h in record.held if h.directory not in others]
    if held:
        yield f"still held: {_named(held)}"
    elif not record.held:
        errors = [d for d in record.diagnostics if d.severity == "error"]
        if errors and not any(d.severity == "error" for d in new):
            yield f"still wrong: {_named([d.path for d in errors])}"


def _first_cause(record: Record) -> Cause:
    """The cause to name: in a directory that is restored, and a callbacks.conf rather than what it
    names."""
    restored = record.restored
    return min(
        record.causes,
        key=lambda c: (not is_in(c.path, restored), not c.path.endswith(f"/{CONF}")),
    )


def _cause_of(path: str, record: Record) -> Cause | None:
    return next((c for c in record.causes if c.path == path), None)


def _cause(cause: Cause, record: Record) -> str:
    return f"{printable(cause.path)} {cause.change}{_by(cause, record)}"


def _by(cause: Cause | None, record: Record) -> str:
    """Who owns a file that changed and when it was written, ` (mia, 03:12:08)`."""
    if cause is None or not cause.owner:
        return ""
    parts = [printable(cause.owner)]
    if cause.mtime:
        try:
            when = _local(cause.mtime)
        except (OverflowError, ValueError, OSError):
            parts.append(cause.mtime)  # A clock may have been set to any year.
        else:
            today = when.date() == _local(record.time).date()
            parts.append(f"{when:%H:%M:%S}" if today else f"{when:%b %d, %Y %H:%M:%S}")
    return f" ({', '.join(parts)})"


def _finding(found: Diagnostic) -> str:
    """`PATH:LINE:COLUMN: MESSAGE [CODE]`."""
    place = f"{found.path}:{found.line or 1}:{found.column or 1}"
    return printable(f"{place}: {found.message} [{found.code}]")


def _named(paths: Sequence[str]) -> str:
    """The first of these paths, and how many more there are."""
    paths = list(dict.fromkeys(paths))
    text = ", ".join(map(printable, paths[:MAX_NAMED]))
    left = len(paths) - MAX_NAMED
    return f"{text} and {left} more" if left > 0 else text


def _counts(changes: Iterable[Change]) -> str:
    """`1 callback added, 2 modified`."""
    numbers: dict[str, int] = {}
    for kind in ("added", "removed", "modified", "moved"):
        if number := sum(_kind(c) == kind for c in changes):
            numbers[kind] = number
    texts = [f"{number} {kind}" for kind, number in numbers.items()]
    if texts:
        kind, number = next(iter(numbers.items()))
        texts[0] = f"{count(number, 'callback')} {kind}"
    return ", ".join(texts)


def _kind(change: Change) -> str:
    """The kind of a change: `moved` if only the line changed."""
    return "moved" if change.what == ["line"] else change.change


# The other lines ---------------------------------------------------------------------------------


def _details(record: Record, new: list[Diagnostic], said: _Said) -> Iterator[str]:
    if said.finding is not None and said.finding.hint:
        yield f"help: {printable(said.finding.hint)}"
    for cause in record.causes:
        if cause.path not in said.causes:
            yield f"cause: {_cause(cause, record)}"
    yield from _diffs(record, said)
    if record.event != "started":
        yield from _changes(record.changes)
    for directory in record.restored:
        if directory not in said.directories:
            yield f"restored: {printable(directory)}"
    newly_held = set(record.newly_held) - said.directories
    for held in record.held:
        if held.directory in newly_held:
            yield f"held: {printable(held.directory)} ({held.reason})"
    for found in sorted(new, key=lambda d: RANK[Severity(d.severity)]):
        if found is not said.finding:
            yield format_line(msgspec.to_builtins(found))
    shown = set(map(id, new))
    others = [d for d in record.diagnostics if id(d) not in shown]
    if others:
        errors = sum(d.severity == "error" for d in others)
        worst = f" ({count(errors, 'error')})" if errors else ""
        yield f"{count(len(others), 'finding')} as before{worst}"


def _changes(changes: Iterable[Change]) -> Iterator[str]:
    moved = 0
    for change in changes:
        kind = _kind(change)
        if kind == "moved":
            moved += 1
            continue
        what = "; " + ", ".join(_WHAT[name] for name in change.what) if change.what else ""
        place = f"(line {change.line}{what})"
        yield f"{kind}: {printable(change.path)}: {printable(change.trigger)} {place}"
    if moved:
        yield f"moved: {count(moved, 'callback')} to other lines"


def _diffs(record: Record, said: _Said) -> Iterator[str]:
    """The lines of callbacks.conf files that differ, except those whose callbacks are listed as
    added or removed."""
    if not record.conf_diff:
        return  # as at the start, when every callback is a change
    listed = {(c.path.rpartition("/")[0], c.change, c.line) for c in record.changes}
    for diff in record.conf_diff:
        directory = diff.path.rpartition("/")[0]
        lines = [
            f"{sign} {number}: {printable(line)}" if number else printable(line)
            for sign, number, line in _differing(diff.diff)
            if (directory, "added" if sign == "+" else "removed", number) not in listed
        ]
        if lines and (len(record.conf_diff) > 1 or diff.path not in said.causes):
            yield f"{printable(diff.path)}:"
        yield from lines


def _differing(diff: str) -> Iterator[tuple[str, int, str]]:
    """Sign, line number and text of each line that differs. The line that says that the diff is cut
    has no number."""
    numbers: dict[str, int] | None = None
    for line in diff.split("\n"):
        if match := _HUNK.fullmatch(line):
            numbers = {"-": int(match[1]), "+": int(match[2])}
        elif numbers is None or not line:
            continue  # The names of the files.
        elif line.startswith("\\"):
            yield "", 0, f"({line[2:]})"
        else:
            if line[0] in numbers:
                yield line[0], numbers[line[0]], line[1:]
            for sign in numbers if line[0] == " " else line[0]:
                numbers[sign] += 1


def _local(time: str) -> datetime:
    return datetime.fromisoformat(time).astimezone()
