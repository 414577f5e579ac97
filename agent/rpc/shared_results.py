"""One encoded result for all events that satisfy the same terms.

Hardly any event of a farm is asked for twice: the frame or the job's id is new in each. But most
triggers require no particular frame and no particular job, so the result is that of an earlier
event like it (`agent.core.match.Alike`).
"""

from __future__ import annotations

from typing import Generic, TypeVar

from agent.core.event import Event, Job, standing
from agent.core.index import Index
from agent.core.match import Alike
from agent.rpc.messages import EventObject, UncheckedEvent

A = TypeVar("A")

#: Bytes of one entry besides those of the text in its key and its result: measured, of objects and
#: table.
ENTRY_BYTES = 400
#: Characters of a name, or of text before the extra, with which a result is kept. Real ones have
#: some dozen.
MAX_KEY = 256

_View = tuple[str, str, bool, bool, bool, bool]
_Entry = tuple[Alike | None, A]

_UNKNOWN = None, None


class SharedResults(Generic[A]):
    """Results of lookups on one index, in one form. For lookups without `occurred` and
    `pending`."""

    __slots__ = ("_by_head", "_by_view")

    def __init__(self) -> None:
        # Each entry says what singles out other events (None: nothing does), and the result.
        #: For events given as text: by the text up to the extra.
        self._by_head: dict[str, _Entry[A]] = {}
        #: For events given as objects.
        self._by_view: dict[_View, _Entry[A]] = {}

    def clear(self) -> None:
        """Forget all."""
        self._by_head.clear()
        self._by_view.clear()

    def of_text(self, event: str) -> A | None:
        """The result for an event given as text, without an owner. It need not be valid."""
        parts = event.split("-", 3)
        if len(parts) < 4:
            return None
        extra = parts[3]
        alike, result = self._by_head.get(event[: -len(extra)], _UNKNOWN)
        return None if alike is not None and alike.singles_out(extra, None) else result

    def of_object(self, event: UncheckedEvent | EventObject, owner: Job | None) -> A | None:
        """The result for an event given as an object, which need not be valid, as an owner sees
        it."""
        alike, result = self._by_view.get(_view(event, owner), _UNKNOWN)
        if alike is not None and alike.singles_out(event.extra, event.job.id):
            return None
        return result

    def keep(
        self, index: Index, given: str | EventObject, owner: Job | None, event: Event, result: A
    ) -> int:
        """Keep the result of a lookup for other events like its own. Returns the bytes that this
        takes, about.

        `event` is what is given as its owner sees it. Keeps nothing, and returns 0, where other
        events may have other results, for text with an owner, and for long names.
        """
        if isinstance(given, str):
            if owner is not None or event.extra is None:
                return 0
            head = given[: -len(event.extra)]
            known, size = head in self._by_head, len(head)
            alike, number = index.alike(event, labelled=False), None
        else:
            view = _view(given, owner)
            known, size = view in self._by_view, len(given.name)
            alike, number = index.alike(event, labelled=view[3]), given.job.id
        if known or size > MAX_KEY or alike is None or alike.singles_out(event.extra, number):
            return 0
        entry = (alike if any(alike) else None), result
        if isinstance(given, str):
            self._by_head[head] = entry
        else:
            self._by_view[view] = entry
        return ENTRY_BYTES + 4 * size


def _view(event: UncheckedEvent | EventObject, owner: Job | None) -> _View:
    """What decides, with the extra, the job's id and its label, which terms an event satisfies.

    Of the label it says only whether there is one that may count.
    """
    job = event.job
    labelled = bool(job.label) and job.pgrp is not None and job.pgrp == (owner or job).pgrp
    return event.name, event.type, not event.extra, labelled, *standing(job, owner)
