"""What the agent says of an index: results of the pipe's methods as encoded JSON.

No I/O: parameters and an index go in, bytes come out.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from typing import Any, cast

import msgspec

from agent.index import Callback, Index
from agent.protocol import CommonLookup, EventObject, LookupParams, LookupRequest
from agent.protocol import result as result_line
from agent.trigger import Event, EventError, Job

encode = msgspec.json.Encoder().encode

#: Answers that are remembered, and bytes of them. A farm asks about some hundred different events
#: in a second; beyond that, working an answer out anew is cheap.
MAX_ANSWERS = 8192
MAX_ANSWER_BYTES = 16 << 20
#: Bytes of parameters of which the answer is remembered; those of a real request have some hundred.
MAX_KNOWN_PARAMS = 4096
#: Events that occurred, and characters of an event, up to which a lookup is answered on the spot.
QUICK_EVENTS = 16
QUICK_CHARACTERS = 1024
#: Bytes of a result that may be given for thousands of requests at once.
MAX_QUICK_BYTES = 4096

#: The line of an answer from its request's id, and what stands behind that.
_LINE = b'{"jsonrpc":"2.0","id":%d%b'


class NotQuick(Exception):
    """A lookup takes time, or its answer is long: it goes by itself."""


class BadEvent(Exception):
    """An event among the parameters is none. `data` says where, as -32602 carries it."""

    def __init__(self, pointer: str, wrong: EventError) -> None:
        super().__init__(wrong.message)
        self.data: dict[str, Any] = {
            "pointer": pointer,
            "found": wrong.message,
            "expected": wrong.expected,
        }
        if wrong.column is not None:
            self.data["column"] = wrong.column


def events(params: LookupParams) -> tuple[Event, tuple[Event, ...]]:
    """The event of a request and those that occurred, as the owner sees them. Raises BadEvent."""
    owner: Job | None = params.owner
    event = _event(params.event, owner, "/params/event")
    if not params.occurred:
        return event, ()
    if owner is None and isinstance(params.event, EventObject):
        owner = params.event.job
    occurred = (_event(e, owner, f"/params/occurred/{i}") for i, e in enumerate(params.occurred))
    return event, tuple(occurred)


def _event(given: str | EventObject, owner: Job | None, pointer: str) -> Event:
    try:
        if isinstance(given, str):
            return Event.from_text(given, owner)
        return Event.from_job(given.name, given.type, given.extra, given.job, owner)
    except EventError as wrong:
        raise BadEvent(pointer, wrong) from wrong


def is_heavy(params: LookupParams) -> bool:
    """Whether a lookup may take so long that other clients would feel it."""
    event = params.event
    if not isinstance(event, str):
        event = (event.extra or "") + (event.job.label or "")
    return len(params.occurred) > QUICK_EVENTS or len(event) > QUICK_CHARACTERS


class Lookups:
    """The results of `lookup` on one index, each encoded once.

    Made anew for each index, so that no answer outlives the index that it came from.
    """

    __slots__ = ("_bytes", "_ends", "_index", "_known")

    def __init__(self, index: Index) -> None:
        self._index = index
        self._known: dict[LookupParams, bytes] = {}
        #: By the text of an event: the end of an answer's line, from behind the id.
        self._ends: dict[str, bytes] = {}
        self._bytes = 0

    def result(self, params: LookupParams) -> bytes:
        """The result of `lookup`. Raises BadEvent."""
        known = self._known.get(params)
        if known is None:
            known = lookup(self._index, params)
            size = len(encode(params))
            # The parameters are remembered with the answer, and may be far larger than it.
            if size <= MAX_KNOWN_PARAMS:
                self._make_room(len(known) + size)
                self._known[params] = known
        return known

    def _make_room(self, size: int) -> None:
        """For one more answer of so many bytes, by forgetting all where there is none."""
        self._bytes += size
        if len(self._known) + len(self._ends) >= MAX_ANSWERS or self._bytes > MAX_ANSWER_BYTES:
            self._known.clear()
            self._ends.clear()
            self._bytes = size

    def lines(
        self, lookups: list[CommonLookup] | list[LookupRequest], late: Callable[[], bool]
    ) -> list[bytes]:
        """The line of each answer. Raises NotQuick or BadEvent if it is so for any of them, and
        NotQuick as soon as it is `late` and one must be worked out."""
        if type(lookups[0]) is LookupRequest:
            return [result_line(asked.id, self._quick(asked.params, late)) for asked in lookups]
        common = cast(list[CommonLookup], lookups)
        ends = self._ends
        try:
            return [_LINE % (asked.id, ends[asked.params.event]) for asked in common]
        except KeyError:
            events = [asked.params.event for asked in common]
            found = [ends.get(event) or self._end(event, late) for event in events]
            return [_LINE % (asked.id, end) for asked, end in zip(common, found, strict=True)]

    def _end(self, event: str, late: Callable[[], bool]) -> bytes:
        if len(event) > QUICK_CHARACTERS or late():
            raise NotQuick
        params = LookupParams(event)
        # A long answer is among those, and need not be worked out to see that it is long.
        result = self._known.get(params) or lookup(self._index, params)
        if len(result) > MAX_QUICK_BYTES:
            raise NotQuick
        end = b',"result":%b}\n' % result
        self._make_room(len(end) + len(event))
        self._ends[event] = end
        return end

    def _quick(self, params: LookupParams, late: Callable[[], bool]) -> bytes:
        known = self._known.get(params)
        if known is None:
            if is_heavy(params) or late():
                raise NotQuick
            known = self.result(params)
        if len(known) > MAX_QUICK_BYTES:
            raise NotQuick
        return known


def lookup(index: Index, params: LookupParams) -> bytes:
    """The result of `lookup`. Raises BadEvent."""
    event, occurred = events(params)
    answer = index.lookup(event, occurred)
    code = params.code
    partial = [callback_json(c, code) | {"missing": str(missing)} for c, missing in answer.partial]
    return encode({**_head(index), "callbacks": _list(answer.callbacks, code), "partial": partial})


def explain(index: Index, params: LookupParams) -> bytes:
    """The result of `explain`. Raises BadEvent."""
    event, occurred = events(params)
    explained = [
        callback_json(callback, params.code) | {"verdict": verdict, "reason": reason}
        for callback, verdict, reason in index.explain(event, occurred)
    ]
    return encode(_head(index) | {"callbacks": explained})


def callbacks(index: Index, code: bool) -> bytes:
    """The result of `list`."""
    return encode(_head(index) | {"callbacks": _list(index.callbacks(), code)})


def subscribed(index: Index) -> bytes:
    """The result of `subscribe`."""
    return encode(_head(index))


def _head(index: Index) -> dict[str, Any]:
    return {"generation": index.generation, "digest": index.digest}


def _list(found: Iterable[Callback], code: bool) -> list[dict[str, Any]]:
    return [callback_json(c, code) for c in found]


def callback_json(callback: Callback, code: bool) -> dict[str, Any]:
    """A callback as answers carry it; with its code as text, or where that is no UTF-8, base64.

    Nothing is decoded with loss: Perl in Latin-1 is common.
    """
    fields = callback.as_json()
    if code:
        raw = callback.implementation.code
        try:
            fields["code"] = raw.decode()
        except UnicodeDecodeError:
            fields["code_base64"] = base64.b64encode(raw).decode()
    return fields
