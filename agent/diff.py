"""What `callback-agent diff` does: compares directories as they are read with what is served.

What is read counts as if every line without an error were served, whether the directory would be
held or not: that is what a person wants to see before they correct it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.check import Checked, in_order
from agent.core.diagnostic import Diagnostic, Severity
from agent.core.diff import FiresDifferently, fires_differently
from agent.core.event import Event
from agent.core.index import Callback, Change, Index, ServedDirectory, changes
from agent.core.line_diff import unified
from agent.core.unit import CONF, Unit, evaluate
from agent.rpc import listed

#: Bytes of the diff of one file, and lines of it that are compared.
MAX_DIFF_BYTES = 1 << 20
MAX_DIFF_LINES = 2000


@dataclass(frozen=True, slots=True)
class Text:
    """A file whose content differs, and its unified diff."""

    path: str
    diff: str


@dataclass(slots=True)
class Compared:
    """One directory: what is served of it, compared with what would be."""

    directory: str
    #: What was read in its place; the directory itself where its own files were.
    read: str
    #: What would be served.
    new: ServedDirectory
    #: Why what was read would be held, None if it would not; and the first finding that says so.
    held: str | None = None
    finding: Diagnostic | None = None
    changes: list[Change] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)
    #: What is not known.
    notes: list[str] = field(default_factory=list)

    @property
    def differs(self) -> bool:
        """Whether there is anything to report."""
        return bool(self.held or self.changes or self.texts)

    def as_json(self) -> dict[str, Any]:
        """`{directory, read, held, changes, files, notes}`, and `finding` where it is held."""
        fields: dict[str, Any] = {
            "directory": self.directory,
            "read": self.read,
            "held": self.held,
            "changes": [_as_json(change) for change in self.changes],
            "files": [{"path": text.path, "diff": text.diff} for text in self.texts],
            "notes": self.notes,
        }
        return fields if self.finding is None else {**fields, "finding": self.finding.as_json()}


def _as_json(change: Change) -> dict[str, Any]:
    """`{change, path, trigger, line, digest, enabled}`; `what` and `before` if it is modified."""
    content = _content(change.callback)
    fields: dict[str, Any] = {
        "change": change.change,
        "path": change.callback.path,
        "trigger": change.callback.registration.text,
        **content,
    }
    if change.before is not None:
        before = _content(change.before)
        fields["what"] = list(change.what)
        fields["before"] = {name: before[name] for name in change.what}
    return fields


def _content(callback: Callback) -> dict[str, Any]:
    return {
        "line": callback.registration.line,
        "digest": callback.implementation.digest,
        "enabled": callback.enabled,
    }


def compare(
    served: ServedDirectory, accepted: Unit | None, checked: Checked, languages: frozenset[str]
) -> Compared:
    """How what was read differs from what is served of a directory.

    `accepted` is the unit that is served, as far as it is known: texts are compared with it.
    `languages` are the language flags with which the agent serves.
    """
    directory, reading = served.directory, checked.reading
    result = Compared(directory, checked.path, served, checked.held)
    if checked.held:
        result.finding = min(
            in_order(checked.findings), key=lambda f: f.severity != Severity.ERROR, default=None
        )
    if reading.fault is not None or (reading.plan is None and reading.held is not None):
        # It cannot be read, so what was served stays.
        return result
    unit = evaluate(reading, None).unit or Unit()
    result.new = ServedDirectory.of(directory, unit, languages)
    result.changes = changes([served], [result.new])
    before = accepted or Unit()
    if before.conf is not None:
        _add_text(result, CONF, before.conf, checked.conf)
    for file, implementation in unit.implementations.items():
        if file in before.implementations:
            _add_text(result, file, before.implementations[file].code, implementation.code)
    return result


def _add_text(result: Compared, file: str, old: bytes, new: bytes) -> None:
    path = f"{result.read}/{file}"
    place = "on disk" if result.read == result.directory else "candidate"
    names = f"{result.directory}/{file}\tserved", f"{path}\t{place}"
    if diff := unified(old, new, names, MAX_DIFF_BYTES, MAX_DIFF_LINES):
        result.texts.append(Text(path, diff))


def served_directories(
    paths: Iterable[str], callbacks: Iterable[Mapping[str, Any]]
) -> dict[str, ServedDirectory]:
    """What is served of these directories, from the callbacks that `list` returns. They have no
    code.

    Raises LookupError, TypeError or ValueError if they do not have the form of a callback.
    """
    found = {path: ServedDirectory(path, ()) for path in paths}
    return found | {one.directory: one for one in listed.directories(callbacks)}


def fired(
    served: Mapping[str, ServedDirectory],
    compared: Sequence[Compared],
    events: Iterable[tuple[str, Event]],
) -> Iterator[FiresDifferently]:
    """The events that fire differently if what was read took the place of what is served."""
    new = {**served, **{one.directory: one.new for one in compared}}
    return fires_differently(Index.of(1, served.values()), Index.of(1, new.values()), events)
