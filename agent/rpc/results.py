"""Results of the pipe's methods, from parameters and an index, as encoded JSON. No I/O."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from typing import TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from agent.core.diagnostic import Diagnostic
from agent.core.index import Callback, Index, Match
from agent.core.quoting import encodable, escape_json
from agent.rpc import messages, owners, question
from agent.rpc.messages import ExplainParams, LookupParams

_encode = msgspec.json.Encoder().encode

#: Bytes of a record in `status`, and items of each of its lists: as much as a person reads.
MAX_SUMMARY_BYTES = 32 << 10
MAX_SUMMARY_ITEMS = 100

Spend = Callable[[int], None]
"""Called between two steps of long work with the bytes of result that were made, which may be 0. It
raises to end the work."""

_C = TypeVar("_C", bound=messages.Callback)
_T = TypeVar("_T")

Found = Sequence[Callback]
"""The callbacks that fire for one event."""
Counted = Sequence[tuple[Found, int]]
"""Callbacks that fire, and how often."""


def encode(value: object) -> bytes:
    """JSON without characters that could control the terminal that shows it."""
    return escape_json(_encode(value))


def no_limit(size: int) -> None:
    """A `Spend` that never raises."""


def _nothing(counted: Counted) -> None:
    """Counts nothing."""


def lookup(
    index: Index,
    params: LookupParams,
    spend: Spend = no_limit,
    done: Callable[[Counted], None] = _nothing,
) -> bytes:
    """The result of `lookup`. Raises BadText, and what `spend` raises.

    `done` is called with the callbacks that fire when the result is made, with the number of owners
    for whom they do.
    """

    def checkpoint() -> None:
        spend(0)

    if params.owners is not None:
        return _for_owners(index, params, spend, checkpoint, done)
    one = question.of(params, checkpoint)
    found = index.lookup(one.event, one.occurred, checkpoint, one.pending)
    encoded = encoded_match(index, found, params.code, spend)
    done([(found.callbacks, 1)])
    return encoded


def _for_owners(
    index: Index,
    params: LookupParams,
    spend: Spend,
    checkpoint: Callable[[], None],
    done: Callable[[Counted], None],
) -> bytes:
    found = owners.matches(index, params, checkpoint)
    # Owners to whom the event looks the same share one match.
    numbers = Counter(map(id, found))
    once = dict(zip(map(id, found), found, strict=True)).values()
    unique = owners.callbacks(index, once)
    listed = (_callback(messages.Callback, c, params.code) for c in unique)
    encoded = _result(
        index, spend, callbacks=map(encode, listed), owners=owners.encoded(found, unique)
    )
    done([(match.callbacks, numbers[id(match)]) for match in once])
    return encoded


def encoded_match(index: Index, found: Match, with_code: bool, spend: Spend) -> bytes:
    """The result of a lookup that found this. Raises what `spend` raises."""
    callbacks = (_callback(messages.Callback, c, with_code) for c in found.callbacks)
    partial = (
        _callback(messages.PartialCallback, c, with_code, missing=str(missing))
        for c, missing in found.partial
    )
    return _result(index, spend, callbacks=map(encode, callbacks), partial=map(encode, partial))


def explain(index: Index, params: ExplainParams, spend: Spend = no_limit) -> bytes:
    """The result of `explain`. Raises BadText, and what `spend` raises."""

    def checkpoint() -> None:
        spend(0)

    one = question.of(params, checkpoint)
    explained = (
        _callback(messages.ExplainedCallback, c, params.code, verdict=verdict, reason=reason)
        for c, verdict, reason in index.explain(one.event, one.occurred, checkpoint, one.pending)
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


def callbacks(index: Index, with_code: bool, spend: Spend = no_limit) -> bytes:
    """The result of `list`. Raises what `spend` raises."""
    listed = (_callback(messages.Callback, c, with_code) for c in index.callbacks())
    return _result(index, spend, callbacks=map(encode, listed))


def text(pieces: Iterable[bytes], spend: Spend) -> bytes:
    """A result that is a text, from its pieces in UTF-8. Raises what `spend` raises."""
    encoded = [b'{"text":"']
    for piece in pieces:
        encoded.append(encode(piece.decode())[1:-1])
        spend(len(encoded[-1]))
    return b"".join((*encoded, b'"}'))


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


def _callback(kind: type[_C], callback: Callback, with_code: bool, **more: str) -> _C:
    """A callback of a result; with its code as text, or in base64 if it is not UTF-8.

    Nothing is decoded with loss: Perl in Latin-1 is common.
    """
    if with_code:
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


def history(records: Iterable[bytes]) -> bytes:
    """The result of `history`, from encoded records."""
    # `join` releases the GIL where there is much to copy.
    return b"".join((b'{"records":[', b",".join(records), b"]}"))


def subscribed(
    index: Index,
    instance: str,
    sequence: int,
    missed: Iterable[bytes] | UnsetType | None,
) -> bytes:
    """The result of `subscribe`.

    `missed` are encoded records, None if they are not known, UNSET if they are not wanted.
    """
    head = encode(
        messages.SubscribeResult(
            generation=index.generation,
            digest=index.digest,
            instance=instance,
            sequence=sequence,
            missed=None if missed is None else UNSET,
            held=list(index.held) or UNSET,
        )
    )
    if missed is None or missed is UNSET:
        return head
    return b"".join((head[:-1], b',"missed":[', b",".join(missed), b"]}"))


def heartbeat(index: Index) -> bytes:
    """The parameters of the notification `heartbeat`."""
    return encode(_head(index))


def _head(index: Index) -> messages.Heartbeat:
    return messages.Heartbeat(generation=index.generation, digest=index.digest)
