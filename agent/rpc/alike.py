"""Answers to events that were never asked for, where an event that is like them was.

Hardly any event of a farm is asked for twice: the frame or the job's id is new in each. But most
triggers require no particular frame and no particular job, so the answer is that to the last event
of the same kind (`agent.core.match.Alike`).
"""

from __future__ import annotations

from typing import Generic, TypeVar

from agent.core.event import Event, Job, standing
from agent.core.index import Index
from agent.core.match import Alike
from agent.rpc.messages import EventObject, PlainEvent

A = TypeVar("A")

#: Bytes of one entry besides those of its key and its answer.
ENTRY_BYTES = 400

_View = tuple[str, str, bool, bool, bool]

_UNKNOWN = None, None


class AlikeAnswers(Generic[A]):
    """Answers for one index and one way to answer, by kind of event. For lookups without `occurred`
    and `pending`."""

    __slots__ = ("_by_head", "_by_view")

    def __init__(self) -> None:
        #: For events given as text: by the text up to the extra. None where no event is singled
        #: out.
        self._by_head: dict[str, tuple[Alike | None, A]] = {}
        #: For events given as objects.
        self._by_view: dict[_View, tuple[Alike | None, A]] = {}

    def clear(self) -> None:
        """Forget all."""
        self._by_head.clear()
        self._by_view.clear()

    def to_text(self, event: str) -> A | None:
        """The answer to an event given as text, without an owner. It need not be valid."""
        parts = event.split("-", 3)
        if len(parts) < 4:
            return None
        extra = parts[3]
        alike, answer = self._by_head.get(event[: -len(extra)], _UNKNOWN)
        return None if alike is not None and alike.singles_out(extra, None) else answer

    def to_object(self, event: PlainEvent | EventObject, owner: Job | None) -> A | None:
        """The answer to an event given as an object, which need not be valid, as an owner sees
        it."""
        alike, answer = self._by_view.get(_view(event, owner), _UNKNOWN)
        if alike is not None and alike.singles_out(event.extra, event.job.id):
            return None
        return answer

    def keep(
        self, index: Index, given: str | EventObject, owner: Job | None, event: Event, answer: A
    ) -> int:
        """Keep the answer to an event, for others like it. Returns the bytes that this takes.

        `event` is what is given as its owner sees it. Does nothing where other events may have
        other answers, or for text with an owner.
        """
        number = None if isinstance(given, str) else given.job.id
        alike = index.alike(event)
        if alike is None or alike.singles_out(event.extra, number):
            return 0
        entry = (alike if any(alike) else None), answer
        if not isinstance(given, str):
            self._by_view[_view(given, owner)] = entry
            return ENTRY_BYTES
        if owner is not None or event.extra is None:
            return 0
        head = given[: -len(event.extra)]
        self._by_head[head] = entry
        return len(head) + ENTRY_BYTES


def _view(event: PlainEvent | EventObject, owner: Job | None) -> _View:
    """What decides, with the extra and the job's id, which terms an event satisfies. Its label is
    left out: see `alike`."""
    return event.name, event.type, not event.extra, *standing(event.job, owner)
