"""Entries of the reload log, in both of its formats, and which of them are wanted.

An entry is a line that does not begin with white space, and the indented lines that follow it. One
of the JSON format is one line. A log may have both, if the setting was changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from agent.cli import record_words
from agent.core.quoting import printable
from agent.core.record_event import STILL_HELD

#: The beginning of an entry, with its first byte.
_BEGIN = re.compile(rb"^(?=\S)", re.MULTILINE)
#: The first line in the text format.
_HEAD = re.compile(
    rb"\[([A-Z][a-z]{2}) (\d\d), (\d{4}) (\d\d):(\d\d):(\d\d)\] (?:\S+: )?[A-Z]+: (\w+|"
    rb"still held): "
)
#: In a first line, the directories that were held before and still are.
_STILL_HELD = re.compile(r"; still held: (.+?)(?: and \d+ more)?; generation ")
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry. `data` ends with a line feed."""

    data: bytes

    @property
    def is_json(self) -> bool:
        return self.data.startswith(b"{")

    @property
    def record(self) -> dict[str, Any]:
        """The record of an entry in JSON; empty for any other."""
        if self.is_json:
            try:
                found = json.loads(self.data.partition(b"\n")[0])
            except (ValueError, RecursionError):
                return {}
            return found if isinstance(found, dict) else {}
        return {}

    @property
    def is_text(self) -> bool:
        """Whether it is a record in text."""
        return _HEAD.match(self.data) is not None


def split(data: bytes) -> Iterator[Entry]:
    """The entries of a part of a log. Indented lines before the first entry are left out."""
    begins = [match.start() for match in _BEGIN.finditer(data)]
    for begin, end in pairwise([*begins, len(data)]):
        yield Entry(data[begin:end])


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which entries are wanted: of which time, event and path. None and () are all.

    With `as_json` only records in JSON.
    """

    since: datetime | None = None
    until: datetime | None = None
    events: tuple[str, ...] = ()
    path: str | None = None
    as_json: bool = False

    def includes(self, entry: Entry) -> bool:
        """Whether an entry is wanted."""
        if self == Wanted():
            return True
        if entry.is_json or self.as_json:
            record = entry.record
            return bool(record or not self.as_json) and self.includes_record(record)
        time, event = _read_head(entry.data)
        text = entry.data.decode("utf-8", "backslashreplace")
        if not self._includes(time, _events_of_text(event, text)):
            return False
        return self.path is None or self.path in text or printable(self.path) in text

    def includes_record(self, record: dict[str, Any]) -> bool:
        """Whether a record is wanted."""
        if not self._includes(_time_of(record), _events(record)):
            return False
        return self.path is None or any(self.path in path for path in _paths(record))

    def _includes(self, time: datetime | None, events: set[str]) -> bool:
        if self.events and events.isdisjoint(self.events):
            return False
        if self.since is None and self.until is None:
            return True
        if time is None:
            return False
        after = self.since is None or self.since <= time
        return after and (self.until is None or time <= self.until)


def _read_head(data: bytes) -> tuple[datetime | None, str | None]:
    """Time and event of an entry in text."""
    match = _HEAD.match(data)
    if match is None or match[1].decode() not in _MONTHS:
        return None, None
    day, year, hour, minute, second = map(int, match.group(2, 3, 4, 5, 6))
    try:
        month = _MONTHS.index(match[1].decode()) + 1
        time = datetime(year, month, day, hour, minute, second).astimezone()
    except (ValueError, OverflowError, OSError):
        return None, match[7].decode()
    return time, match[7].decode()


def _events(record: dict[str, Any]) -> set[str]:
    """The event of a record; and `held`, if a directory that was held was edited again."""
    event = str(record.get("event"))
    try:
        again = record_words.is_held_again({**record, "event": event})
    except (LookupError, TypeError, AttributeError):
        return {event}  # Not a record of ours.
    return {event, "held"} if again else {event}


def _events_of_text(event: str | None, text: str) -> set[str]:
    """As `_events`, of an entry in text whose first line begins with this event."""
    if event == STILL_HELD:
        return {"reloaded", "held"}
    if event not in ("reloaded", "restored"):
        return {event} if event else set()
    match = _STILL_HELD.search(text.partition("\n")[0])
    named = match[1].split(", ") if match else []
    is_touched = any(re.search(rf"\s{re.escape(d)}/[^/\s]*[\s:]", text) for d in named)
    return {event, "held"} if is_touched else {event}


def _time_of(record: dict[str, Any]) -> datetime | None:
    """In whole seconds, as the text format has it."""
    try:
        return datetime.fromisoformat(record["time"]).replace(microsecond=0)
    except (LookupError, TypeError, ValueError):
        return None


def _paths(record: dict[str, Any]) -> Iterator[str]:
    """What a record is about. Findings that the record before had too are not."""
    try:
        for name in ("causes", "changes", "conf_diff"):
            yield from (item["path"] for item in record.get(name, ()))
        yield from (held["directory"] for held in record.get("held", ()))
        yield from record.get("restored", ())
        found = record.get("diagnostics", ())
        yield from (d["path"] for d in found if d.get("new") or "sequence" not in record)
    except (LookupError, TypeError, AttributeError):
        return  # Not a record of ours.
