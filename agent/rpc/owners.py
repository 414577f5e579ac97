"""The result of one lookup for many owners.

Universal callbacks hang on every job, so one event is asked for thousands of owners. To most of
them the event looks the same, so each view of it is looked up and encoded once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec

from agent.core.event import Event
from agent.core.index import Callback, Index, Match
from agent.rpc import question
from agent.rpc.messages import Job, LookupParams, OwnerPartial, OwnerResult
from agent.rpc.question import Check, PendingReader, Question

_encode = msgspec.json.Encoder().encode


def matches(index: Index, params: LookupParams, check: Check) -> list[Match]:
    """The match of each owner, parallel to `owners`. Owners to whom everything looks the same
    share one object. Raises BadText, and what `check` raises."""
    known: dict[tuple[frozenset[str], str | None, tuple[Event, ...]], Match] = {}
    counts: Callable[[str], bool] | None = None
    found = []
    for event, before, pending in _questions(params, check):
        if pending:
            found.append(index.lookup(event, before, check, pending))
            continue
        if counts is None:
            counts = index.contexts_that_count(event)
        # All else is the same for every owner.
        seen = frozenset(filter(counts, event.contexts)), event.text, before
        match = known.get(seen)
        if match is None:
            match = known[seen] = index.lookup(event, before, check)
        found.append(match)
    return found


def _questions(params: LookupParams, check: Check) -> Iterator[Question]:
    """What is asked for each owner."""
    reader = PendingReader(check)
    # A bad event is refused even where there are no owners.
    question.event_of(params.event, Job(), "/params/event")
    everyone = reader.read(params.pending or (), "/params/pending")
    for i, owner in enumerate(params.owners or ()):
        check()
        pending = everyone
        if owner.pending is not None:
            pending = reader.read(owner.pending, f"/params/owners/{i}/pending")
        event = question.event_of(params.event, owner, "/params/event")
        before = question.occurred(params.occurred, owner, check) if params.occurred else ()
        yield Question(event, before, pending)


def callbacks(index: Index, found: Iterable[Match]) -> list[Callback]:
    """Each callback that fires or is partial for any owner, once, in index order."""
    place = {served.directory: number for number, served in enumerate(index.served)}
    once = {id(match): match for match in found}.values()
    unique = {id(c): c for match in once for c in match.callbacks}
    unique |= {id(c): c for match in once for c, _ in match.partial}
    return sorted(unique.values(), key=lambda c: (place[c.directory], c.registration.line))


def encoded(found: Iterable[Match], callbacks: Iterable[Callback]) -> Iterator[bytes]:
    """The encoded result of each owner. `callbacks` are those of `callbacks()`."""
    numbers = {id(callback): number for number, callback in enumerate(callbacks)}
    known: dict[int, bytes] = {}
    for match in found:
        line = known.get(id(match))
        if line is None:
            line = known[id(match)] = _encode(
                OwnerResult(
                    fires=[numbers[id(c)] for c in match.callbacks],
                    partial=[
                        OwnerPartial(callback=numbers[id(c)], missing=str(missing))
                        for c, missing in match.partial
                    ],
                )
            )
        yield line
