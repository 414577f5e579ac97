"""Answers lookups on one index from a cache of encoded results, and counts them. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from msgspec import Raw

from agent.core.index import Index, Match
from agent.rpc import jsonrpc, question
from agent.rpc.messages import LookupParams, UncheckedLookup, UnreadLookup
from agent.rpc.results import Counted, Found, encoded_match, no_limit
from agent.rpc.shared_results import SharedResults

_encode = msgspec.json.Encoder().encode

#: Bytes of the results that are cached, with their parameters: some 30,000 usual ones. A farm asks
#: for some hundred different events in a second.
MAX_CACHE_BYTES = 8 << 20
#: Bytes of an entry besides those of its key: measured, of objects and table.
ENTRY_BYTES = 128
#: The same of a result and its tally besides those of the text.
ANSWER_BYTES = 256
#: Bytes of parameters whose result is cached. Those of a real request have some hundred.
MAX_CACHED_PARAMS = 4096
#: Lookups that are remembered as answered once: those of some seconds of a farm.
MAX_SEEN_ONCE = 2048
#: Bytes of a result up to which it is answered in a batch of thousands of requests.
MAX_BATCHED_RESULT = 4096
#: Callbacks of a result, and bytes of code in it, up to which it is encoded on the loop. Each of
#: these takes about a millisecond.
QUICK_CALLBACKS = 500
QUICK_CODE_BYTES = 1 << 18

_LINE = b'{"jsonrpc":"2.0","id":%d,"result":%b}\n'

_decode_params = msgspec.json.Decoder(LookupParams).decode
_decode_unchecked = msgspec.json.Decoder(UncheckedLookup).decode


class NotQuick(Exception):
    """Too slow or too large to answer in a batch, or on the loop that serves."""


class Tally:
    """How many lookups found these callbacks, since the cache was last drained."""

    __slots__ = ("count", "found")

    def __init__(self, found: Found) -> None:
        self.found = found
        self.count = 0


#: Of no lookups.
_NO_TALLY = Tally([])

_Answer = tuple[bytes, Tally]
_Key = bytes | tuple[int, ...]


class LookupCache:
    """Results of `lookup` on one index, encoded. It never holds more than `max_bytes`.

    A result is found by its parameters, as they are or as the client wrote them; by an event like
    its own, since most events of a farm are asked for only once; or by the callbacks that fire.
    Each index has a new cache, so that no result outlives its index.

    It counts the lookups that it answers: one tally for each result that is encoded. `drain` says
    what was counted.
    """

    __slots__ = (
        *("_alike", "_index", "_large", "_max_bytes", "_results", "_retired"),
        *("_seen_once", "_size", "_tallies"),
    )

    def __init__(self, index: Index, max_bytes: int = MAX_CACHE_BYTES) -> None:
        self._index = index
        self._max_bytes = max_bytes
        #: By parameters, as the client wrote them or as they are encoded here; and by whether code
        #: is wanted and the identity of each callback.
        self._results: dict[_Key, _Answer] = {}
        #: The same for results that are too large for a batch.
        self._large: dict[_Key, _Answer] = {}
        #: Small results by events that are alike: those without code, and those with it.
        self._alike: tuple[SharedResults[_Answer], ...] = SharedResults(), SharedResults()
        #: The hashes of texts that were answered once, by events like theirs. A text that comes
        #: again is stored: then it is found sooner. Two texts with one hash do no harm.
        self._seen_once: set[int] = set()
        self._size = 0
        #: The tallies of all results since the cache was last emptied, and those from before.
        self._tallies: list[Tally] = []
        self._retired: list[Tally] = []

    @property
    def counted(self) -> int:
        """How many lookups were answered since the last `drain`."""
        return sum(t.count for t in self._tallies) + sum(t.count for t in self._retired)

    def drain(self) -> Counted:
        """Which callbacks fired in how many of the lookups that were answered since the last call.

        Must not be called while lookups are being answered.
        """
        tallies, self._retired = [*self._retired, *self._tallies], []
        counted = [(tally.found, tally.count) for tally in tallies if tally.count]
        for tally in tallies:
            tally.count = 0
        return counted

    def result(self, params: LookupParams, late: Callable[[], bool] = lambda: False) -> bytes:
        """The result of `lookup`. Raises BadText; and NotQuick if it takes long, or `late()` is
        true before it is computed."""
        key = _encode(params)
        answer = self._cached(key)
        if answer is None:
            answer = self._compute(params, late)
            self._store(key, len(key), answer)
        encoded, tally = answer
        tally.count += 1
        return encoded

    def responses(self, lookups: Sequence[UnreadLookup], late: Callable[[], bool]) -> list[bytes]:
        """The response to each lookup. Raises NotQuick, BadText or ValueError if any of them has no
        small result that is known, or computed before `late()` is true."""
        known = self._results
        responses: list[bytes] = []
        # Each tally, and how many of the lookups it counts: they count once all are answered.
        counted: list[tuple[Tally, int]] = []
        # From this lookup on, all have the same parameters.
        start = 0
        last: Raw | None = None
        encoded, tally = b"", _NO_TALLY
        # Each step here costs every lookup. Comparing parameters takes a fifth of finding them, and
        # what is sent together is often the same.
        for lookup in lookups:
            if lookup.params != last:
                counted.append((tally, len(responses) - start))
                start = len(responses)
                last = lookup.params
                text = bytes(last)
                encoded, tally = known.get(text) or self._small(text, late)
            identity = lookup.id
            # Not `jsonrpc.result` for usual ids: the call would cost every lookup.
            if type(identity) is int:
                responses.append(_LINE % (identity, encoded))
            else:
                responses.append(jsonrpc.result(identity, encoded))
        counted.append((tally, len(responses) - start))
        for tally, number in counted:
            tally.count += number
        return responses

    def _cached(self, key: _Key) -> _Answer | None:
        return self._results.get(key) or self._large.get(key)

    def _small(self, text: bytes, late: Callable[[], bool]) -> _Answer:
        """The answer to a lookup whose text is not known. Raises ValueError if it is refused, and
        NotQuick or BadText as `_compute`, or if the result is not small."""
        answer = self._of_alike(text)
        if answer is None:
            params = _decode_params(text)
            key = _encode(params)
            if key in self._large:
                raise NotQuick
            answer = self._compute(params, late)
            if len(answer[0]) > MAX_BATCHED_RESULT:
                # It is answered alone, where its parameters are known and not their text.
                self._store(key, len(key), answer)
                raise NotQuick
            self._store(text, len(text), answer)
        elif (digest := hash(text)) in self._seen_once:
            self._store(text, len(text), answer)
        else:
            if len(self._seen_once) == MAX_SEEN_ONCE:
                self._seen_once.clear()
            self._seen_once.add(digest)
        return answer

    def _of_alike(self, text: bytes) -> _Answer | None:
        """The answer to a lookup by an event like its own."""
        try:
            asked = _decode_unchecked(text)
        except ValueError:
            return None
        alike = self._alike[asked.code]
        if not isinstance(asked.event, str):
            return alike.of_object(asked.event, asked.owner)
        return alike.of_text(asked.event) if asked.owner is None else None

    def _compute(self, params: LookupParams, late: Callable[[], bool]) -> _Answer:
        def checkpoint() -> None:
            if late():
                raise NotQuick

        checkpoint()
        if params.owners is not None or question.is_heavy(params):
            raise NotQuick
        one = question.of(params, checkpoint)
        found = self._index.lookup(one.event, one.occurred, checkpoint, one.pending)
        if not _is_quick(found, params.code):
            raise NotQuick
        if found.partial:
            answer = self._encoded(found, params.code)
        else:
            fires = (params.code, *map(id, found.callbacks))
            cached = self._cached(fires)
            answer = cached or self._encoded(found, params.code)
            if cached is None:
                self._store(fires, 8 * len(fires), answer)
        if not (one.occurred or one.pending) and len(answer[0]) <= MAX_BATCHED_RESULT:
            alike = self._alike[params.code]
            size = alike.keep(self._index, params.event, params.owner, one.event, answer)
            # If this empties the cache, what was just kept goes with the rest.
            self._make_room(size, answer[1])
        return answer

    def _encoded(self, found: Match, code: bool) -> _Answer:
        """A new result, and its tally, which counts even if the result is not stored."""
        encoded = encoded_match(self._index, found, code, no_limit)
        tally = Tally(found.callbacks)
        self._tallies.append(tally)
        self._make_room(ANSWER_BYTES + len(encoded) + 8 * len(found.callbacks), tally)
        return encoded, tally

    def _store(self, key: _Key, size: int, answer: _Answer) -> None:
        """Store a result under a key of `size` bytes."""
        if size > MAX_CACHED_PARAMS:
            return
        self._make_room(ENTRY_BYTES + size, answer[1])
        results = self._results if len(answer[0]) <= MAX_BATCHED_RESULT else self._large
        results[key] = answer

    def _make_room(self, size: int, tally: Tally) -> None:
        """Count bytes that are about to be held for a result with this tally; empty the cache if
        they are too many."""
        if self._size + size > self._max_bytes:
            # Computing a result again is cheap; an order of use would cost every lookup.
            self._results.clear()
            self._large.clear()
            for alike in self._alike:
                alike.clear()
            self._seen_once.clear()
            self._size = 0
            # Some of them may be counted yet, for lookups that are being answered.
            self._retired += [one for one in self._tallies if one is not tally]
            self._tallies = [tally]
        self._size += size


def _is_quick(found: Match, code: bool) -> bool:
    """Whether a result is encoded within about a millisecond."""
    if len(found.callbacks) + len(found.partial) > QUICK_CALLBACKS:
        return False
    if not code:
        return True
    size = sum(len(c.implementation.code) for c in found.callbacks)
    size += sum(len(c.implementation.code) for c, _ in found.partial)
    return size <= QUICK_CODE_BYTES
