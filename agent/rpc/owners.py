"""The result of one lookup for many owners.

Universal callbacks hang on every job, so one event is asked for thousands of owners. To most of
them the event looks the same, so each view of it is looked up and encoded once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import TypeVar

import msgspec

from agent.core.event import Event, views_of_job, views_of_text
from agent.core.index import Callback, Index, Match, Pending
from agent.rpc import question
from agent.rpc.messages import Job, LookupParams, Owner, OwnerPartial, OwnerResult
from agent.rpc.question import Checkpoint, PendingReader

_encode = msgspec.json.Encoder().encode

#: Owners that are looked at between two checkpoints, in about 0.1 ms.
_AT_ONCE = 250
#: Bytes of results that are joined at once.
_JOINED_BYTES = 1 << 14

_T = TypeVar("_T")


def matches(index: Index, params: LookupParams, checkpoint: Checkpoint) -> list[Match]:
    """The match of each owner, parallel to `owners`. Owners to whom everything looks the same
    share one object. Raises BadText, and what `checkpoint` raises."""
    reader = PendingReader(checkpoint)
    # A bad event is refused even where there are no owners.
    question.event_of(params.event, Job(), "/params/event")
    everyone = reader.read(params.pending or (), "/params/pending")
    shared = _Shared(index, params, everyone, checkpoint)
    owners = params.owners or ()
    found: list[Match] = []
    for some in _parts(owners):
        checkpoint()
        found += shared.matches(some)
    for i, owner in enumerate(owners):
        if owner.pending is not None:
            checkpoint()
            event, occurred = shared.events(owner)
            pending = reader.read(owner.pending, f"/params/owners/{i}/pending")
            found[i] = index.lookup(event, occurred, checkpoint, pending)
    return found


def _parts(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), _AT_ONCE):
        yield items[start : start + _AT_ONCE]


class _Shared:
    """The matches of owners, but for their own `pending`. Only how they see the events differs."""

    def __init__(
        self, index: Index, params: LookupParams, pending: Pending, checkpoint: Checkpoint
    ) -> None:
        self._index = index
        self._params = params
        self._pending = pending
        self._checkpoint = checkpoint
        #: By what decides how an owner sees the events.
        self._by_view: dict[Hashable, Match] = {}
        #: Which job ids make a difference to an event that is text; None while it is not known.
        self._id_counts: Callable[[int], bool] | None = None

    def matches(self, owners: Sequence[Owner]) -> Iterator[Match]:
        """The match of each owner."""
        views = self._views(owners)
        for view, owner in dict(zip(views, owners, strict=True)).items():
            if view not in self._by_view:
                event, occurred = self.events(owner)
                self._by_view[view] = self._index.lookup(
                    event, occurred, self._checkpoint, self._pending
                )
        return map(self._by_view.__getitem__, views)

    def _views(self, owners: Sequence[Owner]) -> Sequence[Hashable]:
        views = self._views_of_event(owners)
        if not self._params.occurred:
            return views
        others = (
            views_of_text(owners, None) if isinstance(one, str) else views_of_job(owners, one.job)
            for one in self._params.occurred
        )
        return list(zip(views, *others, strict=True))

    def _views_of_event(self, owners: Sequence[Owner]) -> list[Hashable]:
        event = self._params.event
        if not isinstance(event, str):
            return views_of_job(owners, event.job)
        if self._pending:  # its terms may require any job id
            return views_of_text(owners, None)
        if self._id_counts is None:
            seen = question.event_of(event, Job(), "/params/event")
            self._id_counts = self._index.id_counts(seen, self._checkpoint)
        ids = {i for o in owners for i in (o.id, o.pid) if i is not None}
        return views_of_text(owners, set(filter(self._id_counts, ids)))

    def events(self, owner: Job) -> tuple[Event, tuple[Event, ...]]:
        """The event and what occurred, as an owner sees them."""
        event = question.event_of(self._params.event, owner, "/params/event")
        if not self._params.occurred:
            return event, ()
        return event, question.occurred(self._params.occurred, owner, self._checkpoint)


def callbacks(index: Index, found: Iterable[Match]) -> list[Callback]:
    """Each callback that fires or is partial for any owner, once, in index order. `found` has each
    match once."""
    place = {served.directory: number for number, served in enumerate(index.served)}
    unique = {id(c): c for match in found for c in match.callbacks}
    unique |= {id(c): c for match in found for c, _ in match.partial}
    return sorted(unique.values(), key=lambda c: (place[c.directory], c.registration.line))


def encoded(found: Iterable[Match], unique: Iterable[Callback]) -> Iterator[bytes]:
    """The encoded results of the owners, of some at once with commas between them. `unique` is what
    `callbacks` returns."""
    numbers = {id(callback): number for number, callback in enumerate(unique)}
    encoded_once: dict[int, bytes] = {}
    some: list[bytes] = []
    size = 0
    for match in found:
        line = encoded_once.get(id(match))
        if line is None:
            line = encoded_once[id(match)] = _encode(
                OwnerResult(
                    fires=[numbers[id(c)] for c in match.callbacks],
                    partial=[
                        OwnerPartial(callback=numbers[id(c)], missing=str(missing))
                        for c, missing in match.partial
                    ],
                )
            )
        some.append(line)
        size += len(line)
        if size > _JOINED_BYTES:
            yield b",".join(some)
            some.clear()
            size = 0
    if some:
        yield b",".join(some)
