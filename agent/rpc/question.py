"""What a lookup asks for: its event, what occurred, and what is pending, from its parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from agent.core import trigger
from agent.core.event import Event, EventError, Job
from agent.core.index import NOTHING_PENDING, Pending
from agent.core.trigger import Trigger
from agent.rpc import jsonrpc, messages
from agent.rpc.messages import ERRORS, INVALID_PARAMS, EventObject, ExplainParams

#: Events that occurred or callbacks that are pending, and characters of an event, up to which a
#: lookup is computed on the loop.
QUICK_EVENTS = 16
QUICK_CHARACTERS = 1024

Checkpoint = Callable[[], object]
"""Called between two steps of long work. It raises to end the work."""


class BadText(Exception):
    """The text of an event or of a trigger is not valid. `data` says where, as -32602 has it."""

    def __init__(self, pointer: str, found: str, expected: str, column: int | None = None) -> None:
        super().__init__(found)
        self.data: dict[str, Any] = {"pointer": pointer, "found": found, "expected": expected}
        if column is not None:
            self.data["column"] = column


def refusal(id: messages.Id, wrong: BadText) -> bytes:
    """The response to a request with such a text."""
    message = f"{ERRORS[INVALID_PARAMS]}: {wrong}"
    return jsonrpc.error(id, INVALID_PARAMS, message, wrong.data)


class Question(NamedTuple):
    """One event as one owner sees it, with what the owner remembers."""

    event: Event
    occurred: tuple[Event, ...] = ()
    pending: Pending = NOTHING_PENDING


def is_heavy(params: ExplainParams) -> bool:
    """Whether a lookup may take so long that it would delay other clients."""
    event = params.event
    if not isinstance(event, str):
        event = event.name + (event.extra or "") + (event.job.label or "")
    before = params.occurred or params.pending or ()
    return len(before) > QUICK_EVENTS or len(event) > QUICK_CHARACTERS


def of(params: ExplainParams, checkpoint: Checkpoint) -> Question:
    """What a request for one owner asks for. Raises BadText, and what `checkpoint` raises."""
    owner: Job | None = params.owner
    event = event_of(params.event, owner, "/params/event")
    pending = NOTHING_PENDING
    if params.pending:
        pending = PendingReader(checkpoint).read(params.pending, "/params/pending")
    if not params.occurred:
        return Question(event, (), pending)
    if owner is None and isinstance(params.event, EventObject):
        owner = params.event.job
    return Question(event, occurred(params.occurred, owner, checkpoint), pending)


def occurred(
    given: Sequence[str | EventObject], owner: Job | None, checkpoint: Checkpoint
) -> tuple[Event, ...]:
    """The events that occurred, as their owner sees them.

    Raises BadText, and what `checkpoint` raises.
    """
    events = []
    for i, one in enumerate(given):
        checkpoint()
        events.append(event_of(one, owner, f"/params/occurred/{i}"))
    return tuple(events)


def event_of(given: str | EventObject, owner: Job | None, pointer: str) -> Event:
    """An event as its owner sees it. `pointer` is its place in the request. Raises BadText."""
    try:
        if isinstance(given, str):
            return Event.from_text(given, owner)
        return Event.from_job(given.name, given.type, given.extra, given.job, owner)
    except EventError as wrong:
        raise BadText(pointer, wrong.message, wrong.expected, wrong.column) from wrong


class PendingReader:
    """Reads what is pending. Each text is parsed once: many owners wait for the same."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._parsed: dict[str, Trigger] = {}

    def read(self, given: Sequence[messages.Pending], pointer: str) -> Pending:
        """What is missing, by callback; of entries for the same callback the last counts.

        `pointer` is the place of `given` in the request. Raises BadText, and what the checkpoint
        raises.
        """
        return {
            (one.path, one.trigger): self._missing(one.missing, f"{pointer}/{i}/missing")
            for i, one in enumerate(given)
        }

    def _missing(self, text: str, pointer: str) -> Trigger:
        known = self._parsed.get(text)
        if known is not None:
            return known
        self._checkpoint()
        tree, problems = trigger.parse(text)
        if tree is None:
            wrong = problems[-1]
            expected = "the `missing` of an earlier result, as it was"
            raise BadText(pointer, wrong.message, expected, wrong.column)
        self._parsed[text] = tree
        return tree
