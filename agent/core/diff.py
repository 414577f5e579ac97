"""Which events fire differently in another index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from agent.core.event import Event
from agent.core.index import Index


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
    """The events for which other callbacks fire or are partial than before, or the same ones in
    another order. Each event is given with its text."""
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
