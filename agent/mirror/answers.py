"""What one index answers, and until when it may.

An answer is computed by the functions that compute the agent's own. Each is kept by its arguments,
and by what was found, so that all that find the same share it.
"""

from __future__ import annotations

import contextlib
import marshal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NoReturn

import msgspec

from agent import client
from agent.core.event import Event
from agent.core.index import Index, Match
from agent.mirror.frozen import frozen
from agent.rpc import jsonrpc, question, results
from agent.rpc.lines import MAX_LINE
from agent.rpc.question import BadText
from agent.rpc.results import Spend
from agent.rpc.shared_results import SharedResults

#: Bytes of the answers that are kept, encoded. Decoded they take about four times as much.
MAX_KEPT_BYTES: Final = 8 << 20
#: Bytes of one kept answer besides its own: measured, of objects and table.
ENTRY_OVERHEAD: Final = 128
#: Bytes of arguments whose answer is kept. Those of a real call have some hundred.
MAX_KEPT_ARGUMENTS: Final = 4096

#: The version of `marshal` without references: equal values of equal types give equal bytes.
_MARSHAL_VERSION: Final = 2

Key = str | bytes | tuple[object, ...]


class Answers:
    """One index, and its answers. For any thread."""

    __slots__ = (
        *("_alike", "_kept", "_lock", "_max_kept_bytes", "_size"),
        *("coded", "current_at", "events", "index", "replaced", "until"),
    )

    def __init__(
        self, index: Index, current_at: float, max_kept_bytes: int = MAX_KEPT_BYTES
    ) -> None:
        """`current_at` is when it was known to be current, in seconds of `time.monotonic`."""
        self.index = index
        #: The index with the code of its callbacks, once that is there.
        self.coded: Index | None = None
        self.current_at = current_at
        #: When its answers must no longer be taken for current ones, in the same seconds.
        self.until = 0.0
        #: Whether another index is known to have taken its place. Then it never answers again.
        self.replaced = False
        #: Answers to lookups of an event alone, by its text.
        self.events: dict[str, Any] = {}
        #: The same for events like one that was asked for.
        self._alike: SharedResults[Any] = SharedResults()
        #: Other answers, by arguments, and by the callbacks that fire.
        self._kept: dict[Key, Any] = {}
        self._size = 0
        self._max_kept_bytes = max_kept_bytes
        self._lock = threading.RLock()

    @property
    def served(self) -> tuple[int, str, frozenset[str]]:
        """What identifies an index among those of one agent: generation, digest, what is held."""
        return self.index.generation, self.index.digest, frozenset(self.index.held)

    def is_current(self) -> bool:
        """Whether an answer that was computed before this call was current."""
        return time.monotonic() < self.until

    def confirm(self, when: float, seconds: float) -> bool:
        """Note that the agent served this index at `when`: its answers may be given for `seconds`
        after that. False if it is known that another has taken its place."""
        with self._lock:
            if not self.replaced:
                self.current_at = max(self.current_at, when)
                self.until = self.current_at + seconds
            return not self.replaced

    def doubt(self) -> None:
        """Give no answers until the next `confirm`: it is not known what is served."""
        with self._lock:
            self.until = 0.0

    def replace(self) -> None:
        """Note that another index has taken its place."""
        with self._lock:
            self.replaced = True
            self.until = 0.0

    def forked(self) -> None:
        """Note that this is the child of a fork: no other thread is left, and it is not known what
        is served."""
        self._lock = threading.RLock()
        self.until = 0.0

    def to_event(self, event: str) -> Any:
        """The answer to a lookup of an event alone, a text in ASCII of at most QUICK_CHARACTERS.
        Raises Refused."""
        answer = self._alike.of_text(event)
        if answer is not None:
            return answer
        try:
            asked = Event.from_text(event)
        except ValueError:
            # Explained as the agent does.
            return self.to_call("lookup", {"event": event}, results.no_limit)
        answer = self._to_match(self.index.lookup(asked))
        with self._lock:
            self._make_room(self._alike.keep(self.index, event, None, asked, answer))
        self._keep(self.events, event, answer, len(event))
        return answer

    def to_call(self, method: str, params: Mapping[str, Any], spend: Spend) -> Any:
        """The answer to any call; None if the agent must give it: code is wanted that is not here,
        or the request is longer than the agent reads.

        Raises Refused, BadArgument, and what `spend` raises.
        """
        key = _key(method, params)
        answer = None if key is None else self._kept.get(key)
        if answer is not None:
            return answer
        line = client._request(0, method, params)
        index = self.coded if params.get("code") else self.index
        if index is None or len(line) > MAX_LINE:
            return None
        request = _read(line)
        with _refusing(request):
            if method == "lookup" and request.params.owners is None and not request.params.code:
                one = question.of(request.params, lambda: spend(0))
                found = index.lookup(one.event, one.occurred, lambda: spend(0), one.pending)
                answer, size = self._to_match(found), 0
            else:
                encoded = _COMPUTE[method](index, request.params, spend)
                answer, size = frozen(msgspec.json.decode(encoded)), len(encoded)
        if key is not None:
            self._keep(self._kept, key, answer, len(key) + size)
        return answer

    def _to_match(self, found: Match) -> Any:
        """The answer to a lookup that found this."""
        key = (tuple(map(id, found.callbacks)), tuple((id(c), m) for c, m in found.partial))
        answer = self._kept.get(key)
        if answer is None:
            encoded = results.encoded_match(self.index, found, False, results.no_limit)
            answer = frozen(msgspec.json.decode(encoded))
            places = len(found.callbacks) + 2 * len(found.partial)
            self._keep(self._kept, key, answer, len(encoded) + 8 * places)
        return answer

    def _keep(self, kept: dict[Any, Any], key: Key, answer: Any, size: int) -> None:
        size += ENTRY_OVERHEAD
        with self._lock:
            self._make_room(size)
            if size <= self._max_kept_bytes:
                kept[key] = answer

    def _make_room(self, size: int) -> None:
        """Count bytes that are kept; forget all answers if they are too many. With the lock."""
        self._size += size
        if self._size > self._max_kept_bytes:
            # Computing an answer again is cheap; an order of use would cost every lookup.
            self.events.clear()
            self._alike.clear()
            self._kept.clear()
            self._size = size


def _key(method: str, params: Any) -> bytes | None:
    """Names a call by its arguments; None if they are long, or of types that are converted."""
    try:
        key = marshal.dumps((method, params), _MARSHAL_VERSION)
    except ValueError:
        return None
    return key if len(key) <= MAX_KEPT_ARGUMENTS else None


_COMPUTE: Final[Mapping[str, Callable[[Index, Any, Spend], bytes]]] = {
    "lookup": results.lookup,
    "explain": results.explain,
    "list": lambda index, params, spend: results.callbacks(index, params.code, spend),
}


def _read(line: bytes) -> Any:
    """The request on a line. Raises Refused as the client does."""
    request = jsonrpc.read(line)
    if isinstance(request, jsonrpc.Refusal):
        _refuse(request.response)
    return request


@contextlib.contextmanager
def _refusing(request: Any) -> Iterator[None]:
    """Raises Refused as the client does for text that is not an event."""
    try:
        yield
    except BadText as wrong:
        _refuse(question.refusal(request.id, wrong))


def _refuse(response: bytes) -> NoReturn:
    client._is_result("", msgspec.json.decode(response), 0)
    raise AssertionError(response)
