"""One encoded result for all events that satisfy the same terms.

Hardly any event of a farm is asked for twice: the frame or the job's id is new in each. But most
triggers require no particular frame and no particular job, so the result is that of an earlier
event like it (`agent.core.match.Alike`).
"""

from __future__ import annotations

from typing import Generic, TypeVar

from agent.core.event import Event, Job, is_self_and_parent
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

_UNKNOWN = None, None


class SharedResults(Generic[A]):
    """Results of lookups on one index, in one form. For lookups without `occurred` and
    `pending`."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        #: What singles out other events (None: nothing does), and the result: of events given as
        #: text by the text up to the extra, of events given as objects by their view.
        self._known: dict[str | _View, tuple[Alike | None, A]] = {}

    def clear(self) -> None:
        """Forget all."""
        self._known.clear()

    def of_text(self, event: str) -> A | None:
        """The result for an event given as text, without an owner. It need not be valid."""
        parts = event.split("-", 3)
        if len(parts) < 4:
            return None
        extra = parts[3]
        alike, result = self._known.get(event[: -len(extra)], _UNKNOWN)
        return None if alike is not None and alike.singles_out(extra, None) else result

    def of_object(self, event: UncheckedEvent | EventObject, owner: Job | None) -> A | None:
        """The result for an event given as an object, which need not be valid, as an owner sees
        it."""
        alike, result = self._known.get(_view(event, owner), _UNKNOWN)
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
        key: str | _View
        if isinstance(given, str):
            if owner is not None or event.extra is None:
                return 0
            key = given[: -len(event.extra)]
            length, labelled, number = len(key), False, None
        else:
            key = _view(given, owner)
            length, labelled, number = len(given.name), key[3], given.job.id
        if length > MAX_KEY or key in self._known:
            return 0
        alike = index.alike(event, labelled)
        if alike is None or alike.singles_out(event.extra, number):
            return 0
        self._known[key] = (alike if any(alike) else None), result
        return ENTRY_BYTES + 4 * length


def _view(event: UncheckedEvent | EventObject, owner: Job | None) -> _View:
    """What decides, with the extra, the job's id and its label, which terms an event satisfies.

    Of the label it says only whether there is one that may count.
    """
    job = event.job
    labelled = bool(job.label) and job.pgrp is not None and job.pgrp == (owner or job).pgrp
    return event.name, event.type, not event.extra, labelled, *is_self_and_parent(job, owner)
