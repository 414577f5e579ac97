"""What the agent says of an index: results of the pipe's methods as encoded JSON.

No I/O: parameters and an index go in, bytes come out.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import msgspec

from agent.core.event import Event, EventError, Job
from agent.core.index import Callback, Index, Match
from agent.core.quoting import escape_json
from agent.rpc.jsonrpc import CommonLookup, EventObject, LookupParams, LookupRequest
from agent.rpc.jsonrpc import result as result_line

_encode = msgspec.json.Encoder().encode

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
#: Callbacks of a result, and bytes of code in it, up to which it is encoded on the spot. Both take
#: about a millisecond.
QUICK_CALLBACKS = 500
QUICK_CODE_BYTES = 1 << 18
#: Bytes of a record in `status`, and findings of it: what a person reads at once.
MAX_SUMMARY_BYTES = 32 << 10
MAX_SUMMARY_FINDINGS = 100

Spend = Callable[[int], None]
"""Told how many bytes of a result were made, also 0, between two steps of long work. May raise."""

#: The line of an answer from its request's id, and what stands behind that.
_LINE = b'{"jsonrpc":"2.0","id":%d%b'


def encode(value: object) -> bytes:
    """JSON without characters that could drive the terminal that shows it."""
    return escape_json(_encode(value))


def freely(size: int) -> None:
    """Spend without a limit."""


class NotQuick(Exception):
    """Too slow or too large to answer in a batch, or on the loop that serves."""


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


def events(params: LookupParams, spend: Spend = freely) -> tuple[Event, tuple[Event, ...]]:
    """The event of a request and those that occurred, as the owner sees them. Raises BadEvent."""
    owner: Job | None = params.owner
    event = _event(params.event, owner, "/params/event")
    if not params.occurred:
        return event, ()
    if owner is None and isinstance(params.event, EventObject):
        owner = params.event.job
    occurred = []
    for i, one in enumerate(params.occurred):
        spend(0)
        occurred.append(_event(one, owner, f"/params/occurred/{i}"))
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

    def result(self, params: LookupParams, late: Callable[[], bool] = lambda: False) -> bytes:
        """The result of `lookup`. Raises BadEvent; and NotQuick where it takes long to encode, or
        is `late` before it is found."""
        known = self._known.get(params)
        if known is None:
            known = self._find(params, late)
            self._remember(params, known)
        return known

    def _find(self, params: LookupParams, late: Callable[[], bool]) -> bytes:
        def check() -> None:
            if late():
                raise NotQuick

        found = self._index.lookup(*events(params), check)
        if not _is_quick(found, params.code):
            raise NotQuick
        return _lookup(self._index, found, params.code, freely)

    def _remember(self, params: LookupParams, result: bytes) -> None:
        # The parameters are remembered with the answer, and may be far larger than it.
        size = len(_encode(params))
        if size <= MAX_KNOWN_PARAMS:
            self._make_room(len(result) + size)
            self._known[params] = result

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
        result = self._known.get(params)
        if result is None:
            result = self._find(params, late)
            if len(result) > MAX_QUICK_BYTES:
                # It is asked for by itself next, and not worked out again.
                self._remember(params, result)
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
            known = self.result(params, late)
        if len(known) > MAX_QUICK_BYTES:
            raise NotQuick
        return known


def _is_quick(found: Match, code: bool) -> bool:
    """Whether a result is encoded in no time."""
    if len(found.callbacks) + len(found.partial) > QUICK_CALLBACKS:
        return False
    if not code:
        return True
    size = sum(len(c.implementation.code) for c in found.callbacks)
    size += sum(len(c.implementation.code) for c, _ in found.partial)
    return size <= QUICK_CODE_BYTES


def lookup(index: Index, params: LookupParams, spend: Spend = freely) -> bytes:
    """The result of `lookup`. Raises BadEvent, and what `spend` raises."""
    found = index.lookup(*events(params, spend), lambda: spend(0))
    return _lookup(index, found, params.code, spend)


def _lookup(index: Index, found: Match, code: bool, spend: Spend) -> bytes:
    callbacks = (callback_json(c, code) for c in found.callbacks)
    partial = (callback_json(c, code) | {"missing": str(rest)} for c, rest in found.partial)
    return _result(index, spend, callbacks=callbacks, partial=partial)


def explain(index: Index, params: LookupParams, spend: Spend = freely) -> bytes:
    """The result of `explain`. Raises BadEvent, and what `spend` raises."""
    event, occurred = events(params, spend)
    explained = (
        callback_json(callback, params.code) | {"verdict": verdict, "reason": reason}
        for callback, verdict, reason in index.explain(event, occurred, lambda: spend(0))
    )
    return _result(index, spend, callbacks=explained)


def callbacks(index: Index, code: bool, spend: Spend = freely) -> bytes:
    """The result of `list`. Raises what `spend` raises."""
    return _result(index, spend, callbacks=(callback_json(c, code) for c in index.callbacks()))


def _result(index: Index, spend: Spend, **lists: Iterable[dict[str, Any]]) -> bytes:
    """An index's generation and digest, and lists of callbacks.

    Each callback is encoded by itself: to encode all at once holds the interpreter, and lookups
    wait for it.
    """
    pieces = [_encode(_head(index))[:-1]]
    for name, items in lists.items():
        pieces.append(b',"%b":[' % name.encode())
        before = len(pieces)
        for item in items:
            encoded = encode(item)
            spend(len(encoded) + 1)
            pieces += (encoded, b",")
        if len(pieces) > before:
            pieces.pop()
        pieces.append(b"]")
    pieces.append(b"}")
    return b"".join(pieces)


def summary(record: Mapping[str, Any]) -> bytes:
    """A record as `status` has it: without its changes and with the first of its findings.

    `omitted` says how many changes, causes and findings are left out.
    """
    short: dict[str, Any] = {k: v for k, v in record.items() if k != "changes"}
    omitted = {"changes": len(record["changes"])}
    room = MAX_SUMMARY_BYTES
    for name in ("held", "diagnostics", "causes"):
        items = short[name]
        # Errors are why a person asks.
        places = sorted(range(len(items)), key=lambda n: items[n].get("severity") != "error")
        kept = []
        for place in places[:MAX_SUMMARY_FINDINGS]:
            room -= len(_encode(items[place]))
            if room < 0:
                break
            kept.append(place)
        omitted[name] = len(items) - len(kept)
        short[name] = [items[place] for place in sorted(kept)]
    return encode(short | {"omitted": omitted})


def subscribed(index: Index) -> bytes:
    """The result of `subscribe`."""
    return encode(_head(index))


def _head(index: Index) -> dict[str, Any]:
    return {"generation": index.generation, "digest": index.digest}


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
