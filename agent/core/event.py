"""Events: the table of their types, an event as its owner sees it, and patterns with `*`.

An event is `name-type-context-extra`. It is seen from its *owner*, the job that has the callbacks.
An event that is given as text states its context itself; for one that is given as an object the
contexts are derived from the job ids.
"""

from __future__ import annotations

from collections.abc import Container, Hashable, Iterable, Mapping
from typing import NamedTuple, Protocol

from agent.core.quoting import shorten, shown
from agent.core.spelling import nearest


class EventType(NamedTuple):
    """One type of event."""

    name: str
    #: What the extra of such an event is; None if the type needs no extra.
    extra: str | None = None
    #: How many numbers, with hyphens between them, the extra consists of; 0 if it may be any text.
    numbers: int = 0
    #: An extra, for hints.
    example: str = ""
    #: Whether `type-extra` alone is a trigger: any name in any context.
    short: bool = False

    @property
    def is_global(self) -> bool:
        """Whether such events belong to no job."""
        return self.name.startswith("global")


#: Every type of event, by name.
TYPES: Mapping[str, EventType] = {
    row.name: row
    for row in (
        EventType("job"),
        EventType("subjob", "instance id", 1, "2"),
        EventType("work", "work id or name"),
        EventType("host", "host name"),
        EventType("time", "time of day", 1, "834567890"),
        EventType("repeat", "time of day and interval", 2, "834567890-3600"),
        EventType("global"),
        EventType("globaltime", "time of day", 1, "834567890", short=True),
        EventType("globalrepeat", "time of day and interval", 2, "834567890-3600", short=True),
    )
}

#: The event names that Qube defines, and two that its examples use. Sites may define more.
NAMES = frozenset(
    {
        *("complete", "done", "submit", "killed", "blocked", "failed", "running", "waiting"),
        *("assigned", "removed", "modified", "dummy", "timeout", "unblock"),
    }
)

#: Other forms of these names, which people write and no event has.
NAME_FORMS: Mapping[str, str] = {
    **dict.fromkeys(("fail", "fails", "failure"), "failed"),
    **dict.fromkeys(("kill", "kills"), "killed"),
    **dict.fromkeys(("block", "blocks"), "blocked"),
    **dict.fromkeys(("completes", "completion", "completed"), "complete"),
    **dict.fromkeys(("submits", "submitted", "submission"), "submit"),
    **dict.fromkeys(("run", "runs"), "running"),
    **dict.fromkeys(("wait", "waits"), "waiting"),
    **dict.fromkeys(("assign", "assigns"), "assigned"),
    **dict.fromkeys(("remove", "removes"), "removed"),
    **dict.fromkeys(("modify", "modifies"), "modified"),
    **dict.fromkeys(("timedout", "timeouts"), "timeout"),
    **dict.fromkeys(("unblocked", "unblocks"), "unblock"),
}

#: Words of other programs for what happens to a job, and the names of Qube that may be meant, the
#: likeliest first. No event of Qube has such a name. What such a word means is not certain.
SYNONYMS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("finish", "finished", "finishes"), ("complete", "done")),
    **dict.fromkeys(("end", "ends", "ended", "exit", "exited"), ("done",)),
    **dict.fromkeys(("success", "successful", "succeed", "succeeded"), ("complete",)),
    **dict.fromkeys(("error", "errors", "errored"), ("failed",)),
    **dict.fromkeys(("crash", "crashed", "dead", "died"), ("failed", "killed")),
    **dict.fromkeys(("abort", "aborted", "terminated"), ("killed", "failed")),
    **dict.fromkeys(("cancel", "cancels", "cancelled", "canceled"), ("killed",)),
    **dict.fromkeys(("stop", "stopped"), ("killed", "done")),
    **dict.fromkeys(("start", "starts", "started", "starting"), ("running",)),
    **dict.fromkeys(("begin", "begins", "began", "begun", "launched"), ("running",)),
    **dict.fromkeys(("queue", "queued", "pending"), ("waiting", "submit")),
    **dict.fromkeys(("create", "created"), ("submit",)),
    **dict.fromkeys(("dispatch", "dispatched"), ("assigned",)),
    **dict.fromkeys(("pause", "paused", "suspend", "suspended", "held"), ("blocked",)),
    **dict.fromkeys(("resume", "resumed"), ("unblock", "running")),
    **dict.fromkeys(("retry", "retried", "requeue", "requeued"), ("waiting", "running")),
    **dict.fromkeys(("restart", "restarted"), ("waiting", "running")),
    **dict.fromkeys(("delete", "deleted"), ("removed",)),
    **dict.fromkeys(("changed", "updated"), ("modified",)),
    **dict.fromkeys(("expire", "expired"), ("timeout",)),
}

#: Words of other programs, and of Qube's own pages, for its types.
TYPE_FORMS: Mapping[str, str] = {
    **dict.fromkeys(("frame", "frames", "task", "item", "agenda", "chunk"), "work"),
    **dict.fromkeys(("instance", "instances", "subjobs", "process"), "subjob"),
    **dict.fromkeys(("worker", "node", "machine"), "host"),
}

#: What the name `done` in a trigger matches besides itself.
DONE = frozenset({"complete", "killed", "failed"})


#: A pid up to this counts as not given: a job without a parent has pid 1.
NO_PARENT = 1
#: A pgrp that counts as not given.
NO_GROUP = 0


class Job(Protocol):
    """A job as an event or an owner gives it. None means not given, and equals nothing."""

    @property
    def id(self) -> int | None: ...
    @property
    def label(self) -> str | None: ...
    @property
    def pid(self) -> int | None: ...
    @property
    def pgrp(self) -> int | None: ...


class EventError(ValueError):
    """The text or object is not an event.

    `message` says what was found, `expected` what was expected; `column` counts from 1 in an event
    that is text, and is None for an object.
    """

    def __init__(self, message: str, expected: str, column: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.expected = expected
        self.column = column


class Event(NamedTuple):
    """One event as its owner sees it.

    A label *counts* if its job and the owner have the same pgrp, and if the label cannot be taken
    for `self`, `parent` or an id.
    """

    name: str
    type: str
    extra: str | None
    #: The names of its context: `self`, `parent`, job ids in decimal.
    contexts: frozenset[str]
    #: What terms with a label are compared with; None if the event has no label that counts.
    text: str | None = None
    #: Whether `text` is the label without an extra.
    alone: bool = False
    #: `text` of an event that was given as text: the end of its label is not known.
    unsplit: str | None = None
    #: Whether there is no parent, or no label that counts, only because a pid, or a pgrp, that was
    #: given counts as not given.
    no_parent: bool = False
    no_group: bool = False

    @classmethod
    def from_text(cls, text: str, owner: Job | None = None) -> Event:
        """The event that a text in the syntax of a trigger's term names, from end to end.

        Raises EventError. In an event `*`, operators and white space are ordinary characters.
        """
        name, _, rest = text.partition("-")
        if not name:
            raise EventError("an event without a name", "name-type-context-extra", 1)
        kind, _, rest = rest.partition("-")
        end = len(text) + 1
        row = TYPES.get(kind)
        if row is None:
            raise _unknown_type(kind, min(len(name) + 2, end), text)
        needs = row.extra
        if not rest:
            expected = "self, parent, a job id or a label after the type"
            raise EventError("an event without a context", expected, end)
        context, hyphen, extra = rest.partition("-")
        own = context in ("self", "parent") or is_id(context)
        if own and hyphen and not extra:
            raise EventError("an empty extra", "an extra after the hyphen, or no hyphen", end)
        if needs is not None and not hyphen:
            expected = f"{shown(text)}-EXTRA, where EXTRA is the {needs}"
            raise EventError(f"an event of type {kind} without extra", expected, end)
        if own:
            no_parent = owner is not None and _parent(owner) != owner.pid
            contexts = _contexts_of_text(context, owner)
            return cls(name, kind, extra or None, contexts, no_parent=no_parent)
        return cls(name, kind, None, frozenset(), rest, needs is None, rest)

    @classmethod
    def from_job(
        cls, name: str, kind: str, extra: str | None, job: Job, owner: Job | None = None
    ) -> Event:
        """The event `name` of `job`, with the contexts that it has for `owner`.

        Without an owner, the owner is the event's own job, which then is `self` even without an
        id. Raises EventError.
        """
        if not name or "-" in name:
            expected = "a name without a hyphen, not empty"
            raise EventError(f"the event name {shorten(repr(name))}", expected)
        row = TYPES.get(kind)
        if row is None:
            raise _unknown_type(kind)
        needs = row.extra
        if needs is not None and not extra:
            raise EventError(f"an event of type {kind} without extra", f"the {needs}")
        is_self, is_parent = is_self_and_parent(job, owner)
        contexts = {str(job.id)} if job.id is not None else set()
        if is_self:
            contexts.add("self")
        if is_parent:
            contexts.add("parent")
        owner, group = owner or job, job.pgrp
        text = None
        # A job whose label is `self` or `1234` must not pass for another job.
        poses = job.label in ("self", "parent") or (job.label and is_id(job.label))
        counts = job.label and not poses and group is not None and group == owner.pgrp
        if counts and group != NO_GROUP:
            text = f"{job.label}-{extra}" if extra else job.label
        return cls(
            *(name, kind, extra or None, frozenset(contexts), text, not extra),
            no_parent=_parent(owner) != owner.pid,
            no_group=bool(counts) and group == NO_GROUP,
        )


def is_self_and_parent(job: Job, owner: Job | None) -> tuple[bool, bool]:
    """Whether a job is its owner's `self`, and whether it is its `parent`. Without an owner, the
    job is its own."""
    if job.id is None:
        return owner is None, False
    return owner is None or job.id == owner.id, job.id == _parent(owner or job)


def views_of_job(owners: Iterable[Job], job: Job) -> list[Hashable]:
    """For each owner, a value that decides how it sees an event of this job. Owners with equal
    values see equal events, except for `no_parent`, which only `explain` reads."""
    own, group = job.id, job.pgrp
    return [
        (o.id == own, (pid := o.pid) == own, pid is None or pid <= NO_PARENT, o.pgrp == group)
        for o in owners
    ]


def views_of_text(owners: Iterable[Job], ids: Container[int] | None) -> list[Hashable]:
    """The same for an event that was given as text. `ids` are the job ids that can make a
    difference; None if any id can."""
    if ids is None:
        return [(o.id, o.pid) for o in owners]
    return [
        (
            (i := o.id) in ids and (i,),
            (pid := o.pid) in ids and (pid,),
            i == pid and i is not None and i > NO_PARENT,
        )
        for o in owners
    ]


def _parent(job: Job) -> int | None:
    """The id of a job's parent, None if it is not given."""
    return None if job.pid is None or job.pid <= NO_PARENT else job.pid


def _unknown_type(kind: str, column: int | None = None, text: str = "") -> EventError:
    """The error about a type. For an event that is text, with its column and the whole text."""
    name, _, rest = text.partition("-")
    if name in TYPES and TYPES[name].short and rest:
        expected = f"an event in full, such as dummy-{name}-self-{shown(rest)}"
        return EventError(f"the short form of a trigger, {shown(text)}", expected, 1)
    if name == "link" and kind in NAMES:
        expected = f"an event without link-, such as {shown(rest)}"
        return EventError("the syntax of a dependency, link-", expected, 1)
    found = f"the unknown type {shorten(repr(kind))}"
    if not kind and column is not None:
        found = "an event without a type"
    expected = "one of the types " + ", ".join(TYPES)
    near = kind.lower() if kind.lower() in TYPES else nearest(kind, TYPES)
    return EventError(found, f"{expected}; did you mean {near}?" if near else expected, column)


def _contexts_of_text(context: str, owner: Job | None) -> frozenset[str]:
    """All names of a context: `self` is the owner's id too, `parent` the owner's pid."""
    own = canonical_id(context) if is_id(context) else context
    contexts = {own}
    if owner is not None:
        ids = {"self": owner.id, "parent": _parent(owner)}
        number = str(ids[own]) if ids.get(own) is not None else own
        contexts.add(number)
        contexts |= {word for word, i in ids.items() if i is not None and str(i) == number}
    return frozenset(contexts)


def is_id(text: str) -> bool:
    """Whether a text is a job id: ASCII digits, at least one."""
    return text.isascii() and text.isdigit()


def canonical_id(digits: str) -> str:
    """A job id without leading zeros: ids compare as numbers, of any length."""
    return digits.lstrip("0") or "0"


def matches_name(pattern: str, name: str) -> bool:
    """Whether a term's name matches an event's name; `done` also matches the names in DONE."""
    return glob(pattern, name) or (pattern == "done" and name in DONE)


def glob(pattern: str, text: str) -> bool:
    """Whether `text` matches `pattern`, in which `*` matches any characters, or none."""
    first, *others = pattern.split("*")
    if not others:
        return first == text
    last = others.pop()
    if len(text) < len(first) + len(last) or not (text.startswith(first) and text.endswith(last)):
        return False
    at, end = len(first), len(text) - len(last)
    for part in others:
        at = text.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True


def glob_steps(pattern: str, text: str) -> int:
    """The steps of one `glob`, as `Steps` counts them: more than one only if both are long."""
    return 1 + (len(pattern) * len(text) >> 14)
