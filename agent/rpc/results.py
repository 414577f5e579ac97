"""Results of the pipe's methods, from parameters and an index, as encoded JSON. No I/O."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from typing import TypeVar

import msgspec
from msgspec import UNSET

from agent.core.diagnostic import Diagnostic
from agent.core.index import Callback, Index, Match
from agent.core.quoting import encodable, escape_json
from agent.rpc import jsonrpc, messages, owners, question
from agent.rpc.messages import REQUEST_TYPES, ExplainParams, LookupParams, Request

_encode = msgspec.json.Encoder().encode

#: Bytes of the results that are cached, with their parameters: some 20,000 usual ones. A farm asks
#: for some hundred different events in a second.
MAX_CACHE_BYTES = 16 << 20
#: Bytes of one cached result besides its own and its parameters': measured, of objects and table.
ENTRY_OVERHEAD = 512
#: Bytes of parameters whose result is cached. Those of a real request have some hundred.
MAX_CACHED_PARAMS = 4096
#: Bytes of a result up to which it is answered in a batch of thousands of requests.
MAX_BATCHED_RESULT = 4096
#: Callbacks of a result, and bytes of code in it, up to which it is encoded on the loop. Each of
#: these takes about a millisecond.
QUICK_CALLBACKS = 500
QUICK_CODE_BYTES = 1 << 18
#: Bytes of a record in `status`, and items of each of its lists: as much as a person reads.
MAX_SUMMARY_BYTES = 32 << 10
MAX_SUMMARY_ITEMS = 100

Spend = Callable[[int], None]
"""Called between two steps of long work with the bytes of result that were made, which may be 0. It
raises to end the work."""

_LINE = b'{"jsonrpc":"2.0","id":%d,"result":%b}\n'

_LookupRequest = REQUEST_TYPES["lookup"]

_C = TypeVar("_C", bound=messages.Callback)
_T = TypeVar("_T")


def encode(value: object) -> bytes:
    """JSON without characters that could control the terminal that shows it."""
    return escape_json(_encode(value))


def no_limit(size: int) -> None:
    """A `Spend` that never raises."""


class NotQuick(Exception):
    """Too slow or too large to answer in a batch, or on the loop that serves."""


class LookupCache:
    """Results of `lookup` on one index, encoded. It never holds more than `max_bytes`.

    A result is found by its parameters, or, since most events of a farm are asked for only once
    (the frame is in them), by the callbacks that fire. Each index has a new cache, so that no
    result outlives its index.
    """

    __slots__ = ("_index", "_max_bytes", "_results", "_size")

    def __init__(self, index: Index, max_bytes: int = MAX_CACHE_BYTES) -> None:
        self._index = index
        self._max_bytes = max_bytes
        #: By parameters; and by whether code is wanted and the identity of each callback.
        self._results: dict[LookupParams | tuple[int, ...], bytes] = {}
        self._size = 0

    def result(self, params: LookupParams, late: Callable[[], bool] = lambda: False) -> bytes:
        """The result of `lookup`. Raises BadText; and NotQuick if it takes long, or `late()` is
        true before it is computed."""
        known = self._results.get(params)
        return self._compute(params, late) if known is None else known

    def responses(self, requests: Sequence[Request], late: Callable[[], bool]) -> list[bytes]:
        """The response to each request. Raises NotQuick or BadText if any of them is not a lookup
        with a small result that is known, or computed before `late()` is true."""
        known = self._results
        responses = []
        for request in requests:
            if type(request) is not _LookupRequest:
                raise NotQuick
            encoded = known.get(request.params) or self._compute(request.params, late)
            if len(encoded) > MAX_BATCHED_RESULT:
                raise NotQuick
            identity = request.id
            # Not `jsonrpc.result` for usual ids: the call would cost every lookup.
            if type(identity) is int:
                responses.append(_LINE % (identity, encoded))
            else:
                responses.append(jsonrpc.result(identity, encoded))
        return responses

    def _compute(self, params: LookupParams, late: Callable[[], bool]) -> bytes:
        def check() -> None:
            if late():
                raise NotQuick

        check()
        if params.owners is not None or question.is_heavy(params):
            raise NotQuick
        one = question.of(params, check)
        found = self._index.lookup(one.event, one.occurred, check, one.pending)
        if not _is_quick(found, params.code):
            raise NotQuick
        if found.partial:
            encoded = _lookup(self._index, found, params.code, no_limit)
        else:
            fires = (params.code, *map(id, found.callbacks))
            known = self._results.get(fires)
            encoded = known or _lookup(self._index, found, params.code, no_limit)
            if known is None:
                self._store(fires, 8 * len(fires), encoded)
        self._store(params, _size(params), encoded)
        return encoded

    def _store(self, key: LookupParams | tuple[int, ...], size: int, encoded: bytes) -> None:
        """Store a result under a key of `size` bytes."""
        if size > MAX_CACHED_PARAMS:
            return
        size += len(encoded) + ENTRY_OVERHEAD
        if self._size + size > self._max_bytes:
            # Computing a result again is cheap; an order of use would cost every lookup.
            self._results.clear()
            self._size = 0
        self._results[key] = encoded
        self._size += size


def _size(params: LookupParams) -> int:
    """The bytes of parameters, about."""
    if type(params.event) is str and params.owner is None and not params.occurred:
        return len(params.event)
    return len(_encode(params))


def _is_quick(found: Match, code: bool) -> bool:
    """Whether a result is encoded within about a millisecond."""
    if len(found.callbacks) + len(found.partial) > QUICK_CALLBACKS:
        return False
    if not code:
        return True
    size = sum(len(c.implementation.code) for c in found.callbacks)
    size += sum(len(c.implementation.code) for c, _ in found.partial)
    return size <= QUICK_CODE_BYTES


def lookup(index: Index, params: LookupParams, spend: Spend = no_limit) -> bytes:
    """The result of `lookup`. Raises BadText, and what `spend` raises."""

    def check() -> None:
        spend(0)

    if params.owners is not None:
        return _for_owners(index, params, spend, check)
    one = question.of(params, check)
    found = index.lookup(one.event, one.occurred, check, one.pending)
    return _lookup(index, found, params.code, spend)


def _for_owners(
    index: Index, params: LookupParams, spend: Spend, check: Callable[[], None]
) -> bytes:
    found = owners.matches(index, params, check)
    unique = owners.callbacks(index, found)
    listed = (_callback(messages.Callback, c, params.code) for c in unique)
    return _result(
        index, spend, callbacks=map(encode, listed), owners=owners.encoded(found, unique)
    )


def _lookup(index: Index, found: Match, code: bool, spend: Spend) -> bytes:
    callbacks = (_callback(messages.Callback, c, code) for c in found.callbacks)
    partial = (
        _callback(messages.PartialCallback, c, code, missing=str(missing))
        for c, missing in found.partial
    )
    return _result(index, spend, callbacks=map(encode, callbacks), partial=map(encode, partial))


def explain(index: Index, params: ExplainParams, spend: Spend = no_limit) -> bytes:
    """The result of `explain`. Raises BadText, and what `spend` raises."""

    def check() -> None:
        spend(0)

    one = question.of(params, check)
    explained = (
        _callback(messages.ExplainedCallback, c, params.code, verdict=verdict, reason=reason)
        for c, verdict, reason in index.explain(one.event, one.occurred, check, one.pending)
    )
    return _result(index, spend, callbacks=map(encode, explained))


def code(index: Index, digests: Sequence[str], spend: Spend = no_limit) -> bytes:
    """The result of `code`. Raises what `spend` raises."""
    wanted = set(digests)
    pieces = []
    for callback in index.callbacks():
        digest = callback.implementation.digest
        if digest not in wanted:
            continue
        wanted.remove(digest)
        raw = callback.implementation.code
        try:
            content = messages.Content(text=raw.decode())
        except UnicodeDecodeError:
            content = messages.Content(base64=base64.b64encode(raw).decode())
        encoded = b'"%b":%b' % (digest.encode(), encode(content))
        spend(len(encoded) + 1)
        pieces.append(encoded)
    return b'{"code":{%b}}' % b",".join(pieces)


def callbacks(index: Index, code: bool, spend: Spend = no_limit) -> bytes:
    """The result of `list`. Raises what `spend` raises."""
    listed = (_callback(messages.Callback, c, code) for c in index.callbacks())
    return _result(index, spend, callbacks=map(encode, listed))


def _result(index: Index, spend: Spend, **lists: Iterable[bytes]) -> bytes:
    """The index's generation and digest, lists of encoded items, and the held directories if any.

    The iterators encode one item at a time: encoding holds the GIL, so lookups wait.
    """
    pieces = [_encode(_head(index))[:-1]]
    for name, items in lists.items():
        pieces.append(b',"%b":[' % name.encode())
        before = len(pieces)
        for encoded in items:
            spend(len(encoded) + 1)
            pieces += (encoded, b",")
        if len(pieces) > before:
            pieces.pop()
        pieces.append(b"]")
    if index.held:
        pieces.append(b',"held":' + encode(index.held))
    pieces.append(b"}")
    return b"".join(pieces)


def _callback(kind: type[_C], callback: Callback, code: bool, **more: str) -> _C:
    """A callback of a result; with its code as text, or in base64 if it is not UTF-8.

    Nothing is decoded with loss: Perl in Latin-1 is common.
    """
    if code:
        raw = callback.implementation.code
        try:
            more["code"] = raw.decode()
        except UnicodeDecodeError:
            more["code_base64"] = base64.b64encode(raw).decode()
    registration = callback.registration
    return kind(
        file=registration.file,
        path=callback.path,
        directory=callback.directory,
        language=callback.language,  # type: ignore[arg-type]
        trigger=registration.text,
        line=registration.line,
        digest=callback.implementation.digest,
        enabled=callback.enabled,
        **more,
    )


def diagnostic(found: Diagnostic, new: bool = False) -> messages.Diagnostic:
    """A diagnostic as records carry it. `new` is whether the record before did not have it."""
    return messages.Diagnostic(
        severity=found.severity.value,
        code=found.code,
        path=encodable(found.path),
        line=found.line,
        column=found.column,
        message=encodable(found.message),
        length=UNSET if found.length == 1 else found.length,
        hint=encodable(found.hint) if found.hint else UNSET,
        new=new or UNSET,
    )


def summary(record: messages.Record) -> bytes:
    """A record as `status` has it: without its changes and diffs, and with the first items of its
    other lists.

    `omitted` says how many of each are left out.
    """
    room = MAX_SUMMARY_BYTES

    def first(items: list[_T], ranks: Iterable[int]) -> list[_T]:
        """As many as there is room for: those of the lowest rank first, all in their order."""
        nonlocal room
        of = list(ranks)
        places = sorted(range(len(items)), key=of.__getitem__)
        shown = []
        for place in places[:MAX_SUMMARY_ITEMS]:
            room -= len(_encode(items[place]))
            if room < 0:
                break
            shown.append(place)
        return [items[place] for place in sorted(shown)]

    held = first(record.held, repeat(0, len(record.held)))
    # The first error of each directory first, then errors: a person asks because of them.
    diagnostics = first(record.diagnostics, _ranks(record))
    causes = first(record.causes, repeat(0, len(record.causes)))
    return encode(
        messages.RecordSummary(
            time=record.time,
            instance=record.instance,
            sequence=record.sequence,
            event=record.event,
            generation=record.generation,
            digest=record.digest,
            callbacks=record.callbacks,
            duration_ms=record.duration_ms,
            causes=causes,
            held=held,
            diagnostics=diagnostics,
            omitted=messages.Omitted(
                changes=len(record.changes),
                held=len(record.held) - len(held),
                diagnostics=len(record.diagnostics) - len(diagnostics),
                causes=len(record.causes) - len(causes),
            ),
        )
    )


def _ranks(record: messages.Record) -> Iterator[int]:
    """For each diagnostic how soon a summary leaves it out; the last is 0."""
    directories = {held.directory for held in record.held}
    seen = set()
    for found in record.diagnostics:
        if found.severity != "error":
            yield 2
            continue
        path = found.path
        directory = path if path in directories else path.rpartition("/")[0]
        yield 1 if directory in seen else 0
        seen.add(directory)


def subscribed(index: Index) -> bytes:
    """The result of `subscribe`."""
    return encode(_head(index))


def _head(index: Index) -> messages.SubscribeResult:
    return messages.SubscribeResult(generation=index.generation, digest=index.digest)
