"""The result of one lookup for many owners.

Universal callbacks hang on every job, so one event is asked for thousands of owners. To most of
them the event looks the same, so each view of it is looked up and encoded once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec

from agent.core.event import Event
from agent.core.index import Callback, Index, Match, Pending
from agent.rpc import question
from agent.rpc.messages import Job, LookupParams, OwnerPartial, OwnerResult
from agent.rpc.question import Checkpoint, PendingReader

_encode = msgspec.json.Encoder().encode


def matches(index: Index, params: LookupParams, checkpoint: Checkpoint) -> list[Match]:
    """The match of each owner, parallel to `owners`. Owners to whom everything looks the same
    share one object. Raises BadText, and what `checkpoint` raises."""
    reader = PendingReader(checkpoint)
    # A bad event is refused even where there are no owners.
    question.event_of(params.event, Job(), "/params/event")
    everyone = reader.read(params.pending or (), "/params/pending")
    shared = _Shared(index, params, everyone, checkpoint)
    found = []
    for i, owner in enumerate(params.owners or ()):
        checkpoint()
        if owner.pending is None:
            found.append(shared.match(owner))
            continue
        event, occurred = shared.events(owner)
        pending = reader.read(owner.pending, f"/params/owners/{i}/pending")
        found.append(index.lookup(event, occurred, checkpoint, pending))
    return found


class _Shared:
    """The matches of owners that have no `pending` of their own. Only how they see the events
    differs."""

    def __init__(
        self, index: Index, params: LookupParams, pending: Pending, checkpoint: Checkpoint
    ) -> None:
        self._index = index
        self._params = params
        self._pending = pending
        self._checkpoint = checkpoint
        self._given = (params.event, *(params.occurred or ()))
        #: By what decides how an owner sees the events; and by the events as they are then seen.
        self._by_view: dict[tuple[object, ...], Match] = {}
        self._by_events: dict[tuple[object, ...], Match] = {}
        self._counts: Callable[[str], bool] | None = None

    def match(self, owner: Job) -> Match:
        """The match of one owner."""
        view = tuple(question.view(one, owner) for one in self._given)
        match = self._by_view.get(view)
        if match is None:
            match = self._by_view[view] = self._of_events(*self.events(owner))
        return match

    def events(self, owner: Job) -> tuple[Event, tuple[Event, ...]]:
        """The event and what occurred, as an owner sees them."""
        event = question.event_of(self._params.event, owner, "/params/event")
        if not self._params.occurred:
            return event, ()
        return event, question.occurred(self._params.occurred, owner, self._checkpoint)

    def _of_events(self, event: Event, occurred: tuple[Event, ...]) -> Match:
        if self._pending:
            return self._index.lookup(event, occurred, self._checkpoint, self._pending)
        if self._counts is None:
            self._counts = self._index.contexts_that_count(event)
        # All else is the same for every owner.
        seen = frozenset(filter(self._counts, event.contexts)), event.text, occurred
        match = self._by_events.get(seen)
        if match is None:
            match = self._by_events[seen] = self._index.lookup(event, occurred, self._checkpoint)
        return match


def callbacks(index: Index, found: Iterable[Match]) -> list[Callback]:
    """Each callback that fires or is partial for any owner, once, in index order."""
    place = {served.directory: number for number, served in enumerate(index.served)}
    once = {id(match): match for match in found}.values()
    unique = {id(c): c for match in once for c in match.callbacks}
    unique |= {id(c): c for match in once for c, _ in match.partial}
    return sorted(unique.values(), key=lambda c: (place[c.directory], c.registration.line))


def encoded(found: Iterable[Match], unique: Iterable[Callback]) -> Iterator[bytes]:
    """The encoded result of each owner. `unique` is what `callbacks` returns."""
    numbers = {id(callback): number for number, callback in enumerate(unique)}
    encoded_once: dict[int, bytes] = {}
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
        yield line
