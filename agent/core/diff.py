"""How two states of the callbacks differ: callbacks, events that fire differently, and texts."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from agent.core.event import Event
from agent.core.index import Callback, Index, ServedDirectory, changes

#: Lines of each text that difflib compares, after what both have in common at their ends. It takes
#: quadratic time. Of longer texts, all lines between the ends count as replaced.
MAX_COMPARED = 2000
#: Unchanged lines that are shown around a change.
CONTEXT = 3


class Difference(NamedTuple):
    """A callback that is gained (`added`), lost (`removed`) or changed (`modified`)."""

    change: str
    #: As it is after; for one that is lost, as it was.
    callback: Callback
    #: For one that is changed, as it was.
    before: Callback | None = None

    @property
    def what(self) -> tuple[str, ...]:
        """Which fields changed: of `digest`, `line` and `enabled`."""
        if self.before is None:
            return ()
        was, now = _content(self.before), _content(self.callback)
        return tuple(name for name in now if was[name] != now[name])

    def as_json(self) -> dict[str, Any]:
        """`{change, path, trigger, line, digest, enabled}`; `what` and `before` if it changed."""
        fields: dict[str, Any] = {
            "change": self.change,
            "path": self.callback.path,
            "trigger": self.callback.registration.text,
            **_content(self.callback),
        }
        if self.before is not None:
            was = _content(self.before)
            fields["what"] = list(self.what)
            fields["before"] = {name: was[name] for name in self.what}
        return fields


def differences(old: ServedDirectory, new: ServedDirectory) -> list[Difference]:
    """The callbacks that are lost, then those that are gained or changed, in line order."""
    before = {(c.path, c.registration.text): c for c in old.callbacks}
    found = []
    for change in changes([old], [new]):
        key = change.callback.path, change.callback.registration.text
        was = before[key] if change.change == "modified" else None
        found.append(Difference(change.change, change.callback, was))
    return found


def _content(callback: Callback) -> dict[str, Any]:
    return {
        "line": callback.registration.line,
        "digest": callback.implementation.digest,
        "enabled": callback.enabled,
    }


class Fired(NamedTuple):
    """A callback that fires for an event, or is partial: then with what is missing."""

    path: str
    trigger: str
    enabled: bool
    missing: str | None = None

    def as_json(self) -> dict[str, Any]:
        fields = {"path": self.path, "trigger": self.trigger, "enabled": self.enabled}
        return fields if self.missing is None else {**fields, "missing": self.missing}


@dataclass(frozen=True, slots=True)
class FiresDifferently:
    """An event, and which callbacks fire for it before and after."""

    event: str
    old: tuple[Fired, ...]
    new: tuple[Fired, ...]

    def as_json(self) -> dict[str, Any]:
        """`{event, old, new}`."""
        return {
            "event": self.event,
            "old": [fired.as_json() for fired in self.old],
            "new": [fired.as_json() for fired in self.new],
        }


def fires_differently(
    old: Index, new: Index, events: Iterable[tuple[str, Event]]
) -> Iterator[FiresDifferently]:
    """The events, given with their texts, for which not the same callbacks fire or are partial in
    the same order."""
    for text, event in events:
        before, after = _fired(old, event), _fired(new, event)
        if before != after:
            yield FiresDifferently(text, before, after)


def _fired(index: Index, event: Event) -> tuple[Fired, ...]:
    found = index.lookup(event)
    whole = [Fired(c.path, c.registration.text, c.enabled) for c in found.callbacks]
    partial = [
        Fired(c.path, c.registration.text, c.enabled, str(missing)) for c, missing in found.partial
    ]
    return (*whole, *partial)


def unified(old: bytes, new: bytes, old_name: str, new_name: str) -> list[str] | None:
    """The lines of a unified diff, without line ends; empty if the texts are equal; None if one of
    them is not UTF-8. Takes bounded time."""
    if old == new:
        return []
    try:
        before, after = old.decode().split("\n"), new.decode().split("\n")
    except UnicodeDecodeError:
        return None
    for lines in (before, after):
        if lines[-1] == "":
            lines.pop()
        else:
            lines[-1] += _NO_NEWLINE
    found = [f"--- {old_name}", f"+++ {new_name}"]
    for group in _groups(before, after):
        spans = [(group[0][1], group[-1][2]), (group[0][3], group[-1][4])]
        found.append(f"@@ -{_range(*spans[0])} +{_range(*spans[1])} @@")
        for tag, a, b, c, d in group:
            if tag == "equal":
                found += _prefixed(" ", before[a:b])
            else:
                found += _prefixed("-", before[a:b])
                found += _prefixed("+", after[c:d])
    return found


_NO_NEWLINE = "\n\\ No newline at end of file"

_Opcode = tuple[str, int, int, int, int]


def _groups(before: Sequence[str], after: Sequence[str]) -> Iterator[list[_Opcode]]:
    """The changes with their context, as difflib's `get_grouped_opcodes`."""
    head = _common(before, after)
    tail = _common(before[head:][::-1], after[head:][::-1])
    above, below = min(head, CONTEXT), min(tail, CONTEXT)
    start = head - above
    old, new = before[start : len(before) - tail + below], after[start : len(after) - tail + below]
    if max(len(old), len(new)) <= MAX_COMPARED:
        grouped = difflib.SequenceMatcher(None, old, new, autojunk=False).get_grouped_opcodes(
            CONTEXT
        )
    else:
        middle = ("replace", above, len(old) - below, above, len(new) - below)
        ends = ("equal", len(old) - below, len(old), len(new) - below, len(new))
        grouped = iter([[("equal", 0, above, 0, above), middle, ends]])
    for group in grouped:
        yield [(tag, a + start, b + start, c + start, d + start) for tag, a, b, c, d in group]


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """How many lines are the same at the beginning of both."""
    pairs = zip(one, other, strict=False)
    shorter = min(len(one), len(other))
    return next((n for n, (a, b) in enumerate(pairs) if a != b), shorter)


def _range(start: int, stop: int) -> str:
    length = stop - start
    begin = start + 1 if length else start
    return str(begin) if length == 1 else f"{begin},{length}"


def _prefixed(mark: str, lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        yield from (mark + line).split("\n")
