# JSON-RPC 2.0 over lines, with no I/O in it: bytes to requests, answers to bytes.
#
# The rules that this file owns
# -----------------------------
#
# LINES. The stream is cut at every `\n`, and at nothing else: JSON has no bare line feed inside a
# value, so what stands between two of them is one message, whole or wrong. A line ends where it
# ends whatever is in it, so a bad one never takes the next one with it. Only a line that does not
# end in time (MAX_LINE) leaves nothing to go on with: that is the one error that closes.
#
# MESSAGES. What the JSON decoder refuses has no id to answer to: -32700 with a null id. A value
# that is no request (the envelope: jsonrpc, method, id, params) is -32600; it gets an answer even
# without an id, because nobody can say that it was meant as a notification. From then on the
# message is a request, or without `id` a notification; `"id": null` is a request. A notification
# gets no answer whatever becomes of it: -32601 and -32602 are then said to nobody. Here no answer
# is the empty `b""`, from whichever function would have made it, so that callers may send all that
# they are given and need not know this rule.
#
# BATCHES. An array is a batch: its elements are judged one by one, as if each had come alone, and
# their answers go into one array on one line. An empty batch, or one over MAX_BATCH, is one
# -32600. A batch of which nothing is to be answered gets no line at all.
#
# TWO WAYS, ONE LAW. The JSON Schemas in `agent/schemas` say which requests are good. Nearly every
# line takes the fast way: msgspec decodes it straight into the types below, which say the same as
# the schemas, refuse what they do not know, and so skip nothing unread. A line that the types
# refuse goes the slow way: decode whatever JSON it is, judge the envelope, and turn into the
# types what means the same in another form (positions for names, 12.0 for 12, members of the
# envelope that nobody asked for). What the types still refuse, the schema explains. The tests hold
# that types and schemas agree. One rule is left to others: the syntax of an event given as text,
# which `agent.core.trigger` judges, because only it can name the column.
#
# Of duplicate names in one object the last wins, on both ways.
#
# Sources: the JSON-RPC 2.0 specification (https://www.jsonrpc.org/specification), RFC 8259 (JSON).
# How it is made is learnt from h11.
"""JSON-RPC 2.0 over lines: bytes to requests, answers to bytes. No I/O.

    lines = Lines()
    for line in lines.feed(received):
        message = read(line)
        # a Refusal: send its `answer`
        # a Request: work out the result, send `result(message.id, encoded)` or `error(...)`
        # a Batch: do so for each of its `items`, send `batch(answers)`

Every answer ends with `\\n`, or is empty where nothing is to be sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from agent import schemas
from agent.core.quoting import escape_json
from agent.schemas import openrpc as openrpc  # A part of this module's face.

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603

#: Bytes of one line, its line feed not counted. Far above any honest request, and small enough
#: that every client may have one in memory.
MAX_LINE: Final = 1 << 20

#: Requests in one batch. They are answered as one, so this bounds how long others wait for it.
MAX_BATCH: Final = 1000

#: Arrays and objects inside each other. A good request has 6, in a batch; this leaves room for
#: what clients add to the envelope, and is far below what could exhaust the stack.
MAX_DEPTH: Final = 64

#: Bytes from which a result is a piece of its own in its line.
MIN_PIECE: Final = 1 << 16

#: The largest id that SQL, C and msgspec all hold in their 64 bits with sign.
MAX_INTEGER: Final = 2**63 - 1

Integer = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]

Id = int | str | float | None | UnsetType
"""A request's id as it came; `msgspec.UNSET` is none, which makes it a notification."""

NEEDS_EXTRA: Final = frozenset(
    ("subjob", "work", "host", "time", "repeat", "globaltime", "globalrepeat")
)
"""The types of event that make no sense without an extra."""

# ---------------------------------------------------------------------------------------------
# Parameters. They hold no cycles, so the garbage collector need not look at them (gc=False).


class Job(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A job, as far as the client gave it. None is not given, and equals nothing.

    An empty label counts as not given.
    """

    id: Integer | None = None
    label: str | None = None
    pid: Integer | None = None
    pgrp: Integer | None = None

    def __post_init__(self) -> None:
        if self.label == "":
            msgspec.structs.force_setattr(self, "label", None)


class EventObject(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """An event given as an object: of which job it is, so that its contexts can be worked out.

    An empty extra counts as not given. Some types need one.
    """

    name: Annotated[str, Meta(pattern=r"^[^-]+(?![\s\S])")]
    type: Literal[
        "job", "subjob", "work", "host", "time", "repeat", "global", "globaltime", "globalrepeat"
    ]
    job: Job
    extra: str | None = None

    def __post_init__(self) -> None:
        if self.extra == "":
            msgspec.structs.force_setattr(self, "extra", None)
        if self.extra is None and self.type in NEEDS_EXTRA:
            raise ValueError("this type needs an extra")


# These may be left out, but not given as null. msgspec takes the annotation as the law for what
# comes in and does not compare defaults with it.
if TYPE_CHECKING:
    JobIfGiven = Job | None
    LimitIfGiven = int | None
else:
    JobIfGiven = Job
    LimitIfGiven = Integer


class LookupParams(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Parameters of `lookup` and `explain`.

    event: text in the trigger's own syntax, which is not judged yet, or an object.
    owner: the job that the callbacks hang on; None is the event's own job. A `Job` without
        anything in it was given as `{}`, and nothing matches it.
    occurred: events that happened before. No objects among them if there is no owner and the
        event is text: their contexts could not be worked out.
    code: whether the files' text is wanted too.
    """

    event: str | EventObject
    owner: JobIfGiven = None
    occurred: tuple[str | EventObject, ...] = ()
    code: bool = False

    def __post_init__(self) -> None:
        if (
            self.occurred
            and self.owner is None
            and type(self.event) is str
            and EventObject in map(type, self.occurred)
        ):
            raise ValueError("an object in occurred needs an owner")


class ListParams(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Parameters of `list`. code: whether the files' text is wanted too."""

    code: bool = False


class HistoryParams(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Parameters of `history`. limit: how many records at most; None is all that are kept."""

    limit: LimitIfGiven = None


class NoParams(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Parameters of a method that has none."""


# ---------------------------------------------------------------------------------------------
# Requests: the decoded line itself. `method` tells them apart, in JSON and in Python.


class _Envelope(
    Struct, frozen=True, forbid_unknown_fields=True, gc=False, kw_only=True, tag_field="method"
):
    jsonrpc: Literal["2.0"]
    id: Id = UNSET


class LookupRequest(_Envelope, frozen=True, kw_only=True, tag="lookup"):
    """Which callbacks fire for an event?"""

    method: ClassVar[str] = "lookup"
    params: LookupParams


class ExplainRequest(_Envelope, frozen=True, kw_only=True, tag="explain"):
    """Why does each callback fire, or not?"""

    method: ClassVar[str] = "explain"
    params: LookupParams


class ListRequest(_Envelope, frozen=True, kw_only=True, tag="list"):
    """Which callbacks are served?"""

    method: ClassVar[str] = "list"
    params: ListParams = ListParams()


class StatusRequest(_Envelope, frozen=True, kw_only=True, tag="status"):
    """How is the agent?"""

    method: ClassVar[str] = "status"
    params: NoParams = NoParams()


class ReloadRequest(_Envelope, frozen=True, kw_only=True, tag="reload"):
    """Read everything again."""

    method: ClassVar[str] = "reload"
    params: NoParams = NoParams()


class HistoryRequest(_Envelope, frozen=True, kw_only=True, tag="history"):
    """What was reloaded lately?"""

    method: ClassVar[str] = "history"
    params: HistoryParams = HistoryParams()


class SubscribeRequest(_Envelope, frozen=True, kw_only=True, tag="subscribe"):
    """Send every record from now on."""

    method: ClassVar[str] = "subscribe"
    params: NoParams = NoParams()


class UnsubscribeRequest(_Envelope, frozen=True, kw_only=True, tag="unsubscribe"):
    """Send no more records."""

    method: ClassVar[str] = "unsubscribe"
    params: NoParams = NoParams()


class DiscoverRequest(_Envelope, frozen=True, kw_only=True, tag="rpc.discover"):
    """What can be asked?"""

    method: ClassVar[str] = "rpc.discover"
    params: NoParams = NoParams()


Request = (
    LookupRequest
    | ExplainRequest
    | ListRequest
    | StatusRequest
    | ReloadRequest
    | HistoryRequest
    | SubscribeRequest
    | UnsubscribeRequest
    | DiscoverRequest
)
"""A good request: its `method`, its `params` in that method's type, and its `id`."""

METHODS: Final[dict[str, type[Struct]]] = {
    "lookup": LookupParams,
    "explain": LookupParams,
    "list": ListParams,
    "status": NoParams,
    "reload": NoParams,
    "history": HistoryParams,
    "subscribe": NoParams,
    "unsubscribe": NoParams,
    "rpc.discover": NoParams,
}
"""Every method, with the type of its parameters."""


class Refusal(Struct, frozen=True, gc=False):
    """A message that is no request to carry out. Send `answer` and be done; it may be empty."""

    answer: bytes


class Batch(Struct, frozen=True):
    """Requests that came in one array, to be answered in one: see `batch`."""

    items: list[Request | Refusal]


Message = Request | Refusal | Batch
"""What one line says."""


# ---------------------------------------------------------------------------------------------
# Lines


class LineTooLong(Exception):
    """A line exceeds `MAX_LINE`. Treat `lines`, then send `answer` and close the connection."""

    def __init__(self, lines: list[bytes]) -> None:
        super().__init__(f"a line of more than {MAX_LINE} bytes")
        #: The whole lines that came before it.
        self.lines = lines
        self.answer = error(
            None,
            INVALID_REQUEST,
            "Invalid Request: the line is too long, the connection is closed",
            {"expected": f"a line of at most {MAX_LINE} bytes"},
        )


class Lines:
    """Cuts a stream of bytes into lines. Its cost is linear in the bytes, however they come."""

    def __init__(self) -> None:
        self._begun = bytearray()
        self._broken = False

    @property
    def pending(self) -> bool:
        """Whether the stream stands inside a line that has not ended."""
        return bool(self._begun)

    @property
    def size(self) -> int:
        """Bytes of the line that has not ended."""
        return len(self._begun)

    def clear(self) -> None:
        """Forget the line that has not ended."""
        self._begun = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes, give the lines that they end, without their `\\n`.

        Raises `LineTooLong` once, as soon as a line is known to be too long; all that is fed
        later is dropped.
        """
        if self._broken:
            return []
        begun = self._begun
        lines = data.split(b"\n")
        rest = lines.pop()
        # Only what came since the last line feed was ever searched for one.
        if lines and begun:
            lines[0] = bytes(begun) + lines[0]
            begun.clear()
        # No line can be too long if what this call has seen is not.
        if len(begun) + len(data) > MAX_LINE or (lines and len(lines[0]) > MAX_LINE):
            for number, line in enumerate(lines):
                if len(line) > MAX_LINE:
                    raise self._too_long(lines[:number])
            if len(begun) + len(rest) > MAX_LINE:
                raise self._too_long(lines)
        begun += rest
        return lines

    def _too_long(self, lines: list[bytes]) -> LineTooLong:
        self._broken = True
        self._begun.clear()
        return LineTooLong(lines)


# ---------------------------------------------------------------------------------------------
# Bytes to requests

_decode: Callable[[bytes], Request | list[Request]]
_decode = msgspec.json.Decoder(Request | list[Request]).decode
_decode_any = msgspec.json.Decoder().decode

# What msgspec raises for bytes that it refuses; its own errors and bad UTF-8 are ValueErrors.
_REFUSED = (ValueError, RecursionError)


class _CommonParams(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    event: str


class CommonLookup(
    Struct, frozen=True, forbid_unknown_fields=True, gc=False, tag_field="method", tag="lookup"
):
    """A `lookup` as nearly all are: an event as text and a whole number as id, nothing else."""

    jsonrpc: Literal["2.0"]
    id: int
    params: _CommonParams


_decode_common = msgspec.json.Decoder(CommonLookup).decode_lines
_decode_lookups = msgspec.json.Decoder(LookupRequest).decode_lines
_LINE_FEED = ord("\n")


def lookups(parts: list[bytes]) -> list[CommonLookup] | list[LookupRequest] | None:
    """Decode all at once what came in one or several reads, if each of them is whole lines and each
    line is a good lookup; else None, and `read` tells.

    msgspec takes the values where it finds them, lines or not. So it is counted: where each line
    feed but the last stands between a `}` and a `{`, none is inside a value, and as many values as
    lines are one on each.
    """
    for part in parts:
        if part[-1] != _LINE_FEED:
            return None
    data = b"".join(parts)
    found: list[CommonLookup] | list[LookupRequest]
    try:
        found = _decode_common(data)
    except _REFUSED:
        try:
            found = _decode_lookups(data)
        except _REFUSED:
            return None
    lines = data.count(b"\n")
    if len(found) != lines or (lines > 1 and data.count(b"}\n{") != lines - 1):
        return None
    return found


def read(line: bytes) -> Message:
    """Read one line: a request to carry out, a batch of them, or an answer to send at once.

    Takes any bytes, and raises nothing.
    """
    return read_quickly(line) or read_slowly(line)


def read_quickly(line: bytes) -> Message | None:
    """Read one line as `read` does; None where that takes long: something in it is refused.

    Takes some 2 ms for a MiB of text; for as much of events as objects, 40.
    """
    try:
        message = _decode(line)
    except _REFUSED:
        return None
    if type(message) is list:
        return _too_large(len(message)) or Batch(message)  # type: ignore[arg-type]
    return message  # type: ignore[return-value]


_NOTHING = Refusal(b"")


def _no_check() -> None:
    """Nobody waits in vain."""


def read_slowly(line: bytes, check: Callable[[], None] = _no_check) -> Message:
    """Read one line that `read_quickly` did not: say what is wrong with it.

    Takes about 1 ms for each request that is refused. `check` is called between them; what it
    raises is raised.
    """
    try:
        value = _decode_any(line)
    except RecursionError:
        return _too_deep()
    except ValueError as refused:
        if not line.strip(b" \t\r"):
            return _NOTHING
        data = {"expected": "one JSON value in UTF-8 on the line", "found": str(refused)}
        return Refusal(error(None, PARSE_ERROR, "Parse error", data))
    if _nests_too_deep(value):
        return _too_deep()
    if not isinstance(value, list):
        return _read_value(value)
    if (refused_whole := _too_large(len(value))) is not None:
        return refused_whole
    items: list[Request | Refusal] = []
    for item in value:
        check()
        items.append(_read_value(item))
    return Batch(items)


def _nests_too_deep(value: object) -> bool:
    """Walk down level by level: the walk itself must not recurse."""
    level = [value] if isinstance(value, (list, dict)) else []
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (list, dict))
        ]
        if not level:
            return False
    return True


def _too_deep() -> Refusal:
    message = f"Parse error: arrays and objects nest more than {MAX_DEPTH} deep"
    data = {"expected": f"at most {MAX_DEPTH} arrays and objects inside each other"}
    return Refusal(error(None, PARSE_ERROR, message, data))


def _too_large(size: int) -> Refusal | None:
    if 1 <= size <= MAX_BATCH:
        return None
    if size == 0:
        data = {"expected": "at least one request in a batch", "found": "[]"}
        return Refusal(error(None, INVALID_REQUEST, "Invalid Request", data))
    message = "Invalid Request: the batch is too large"
    data = {"expected": f"at most {MAX_BATCH} requests in a batch", "found": str(size)}
    return Refusal(error(None, INVALID_REQUEST, message, data))


def _read_value(value: object) -> Request | Refusal:
    """Judge one decoded message: the envelope, the method, and the parameters."""
    if not isinstance(value, dict):
        return _no_request(None, "", "an object with jsonrpc, method, params and id", value)
    identity: Id = value.get("id", UNSET)
    if isinstance(identity, bool | list | dict):
        return _no_request(None, "/id", "a string, a number or null", identity)
    if value.get("jsonrpc") != "2.0":
        return _no_request(identity, "/jsonrpc", 'the string "2.0"', value.get("jsonrpc", UNSET))
    method = value.get("method", UNSET)
    if not isinstance(method, str):
        return _no_request(identity, "/method", "the name of a method, a string", method)
    params = value.get("params", {})
    if not isinstance(params, dict | list):
        return _no_request(identity, "/params", "an object, an array, or no params", params)
    if method not in METHODS:
        expected = "one of " + ", ".join(METHODS)
        data = {"pointer": "/method", "expected": expected, "found": schemas.found(method)}
        return Refusal(error(identity, METHOD_NOT_FOUND, "Method not found", data))
    call = {"jsonrpc": "2.0", "method": method, "id": identity, "params": _named(method, params)}
    if identity is UNSET:
        del call["id"]
    try:
        return msgspec.convert(call, Request)  # type: ignore[no-any-return]
    except ValueError as refused:
        return Refusal(_bad_params(identity, method, params, refused))


def _no_request(identity: Id, pointer: str, expected: str, value: object) -> Refusal:
    data = {"pointer": pointer, "expected": expected}
    if value is not UNSET:
        data["found"] = schemas.found(value)
    # An envelope that is wrong gets an answer even without an id.
    return Refusal(
        error(None if identity is UNSET else identity, INVALID_REQUEST, "Invalid Request", data)
    )


def _named(method: str, params: dict[str, Any] | list[Any]) -> object:
    """Give parameters by name, and whole numbers as integers, as the types want them."""
    if isinstance(params, list):
        if not params:
            return {}
        if METHODS[method] is not LookupParams or len(params) != 1:
            return params
        params = {"event": params[0]}
    return _whole(params)


def _whole(value: Any) -> Any:
    """Turn every 12.0 into 12: JSON does not tell them apart. `MAX_DEPTH` bounds the recursion."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _whole(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return value


def _bad_params(identity: Id, method: str, params: Any, refused: ValueError) -> bytes:
    # A validator takes some 100 us for an event where the types take less than 1, and occurred
    # may hold tens of thousands: it is shown only those that matter.
    skipped = 0
    if isinstance(params, dict) and isinstance(params.get("occurred"), list):
        occurred = params["occurred"]
        skipped = next((i for i, event in enumerate(occurred) if not _is_event(event)), 0)
        events = occurred[skipped : skipped + 1]
        events += next(([event] for event in occurred if isinstance(event, dict)), [])
        params = {**params, "occurred": events}
    data = schemas.refusal(f"{method}.params", params) or {"pointer": "", "expected": str(refused)}
    pointer = data["pointer"]
    if pointer.startswith("/occurred/0"):
        pointer = f"/occurred/{skipped}" + pointer.removeprefix("/occurred/0")
    data["pointer"] = "/params" + pointer
    message = f"Invalid params: at {data['pointer']} expected {data['expected']}"
    return error(identity, INVALID_PARAMS, message, data)


def _is_event(value: object) -> bool:
    if isinstance(value, str):
        return True
    try:
        msgspec.convert(_whole(value), str | EventObject)
    except ValueError:
        return False
    return True


# ---------------------------------------------------------------------------------------------
# Answers to bytes


def result(id: Id, encoded: bytes) -> bytes:
    """Give the answer line of a request from its id and the JSON of its result, on one line."""
    if type(id) is int:
        return b'{"jsonrpc":"2.0","id":%d,"result":%b}\n' % (id, encoded)
    if id is UNSET:
        return b""
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}\n' % (msgspec.json.encode(id), encoded)


def result_line(id: Id, encoded: bytes) -> bytes | tuple[bytes, ...]:
    """As `result`; a long result is not copied: its line is in pieces, the last one short."""
    if len(encoded) < MIN_PIECE or id is UNSET:
        return result(id, encoded)
    return b'{"jsonrpc":"2.0","id":%b,"result":' % msgspec.json.encode(id), encoded, b"}\n"


def error(id: Id, code: int, message: str, data: object = None) -> bytes:
    """Give the answer line of a request that failed. `data` None is left out.

    `data` is what msgspec encodes; for bad parameters, `pointer` (RFC 6901, from the request),
    `expected`, and what else is known.
    """
    if id is UNSET:
        return b""
    what: dict[str, object] = {"code": code, "message": message}
    if data is not None:
        what["data"] = data
    return escape_json(msgspec.json.encode({"jsonrpc": "2.0", "id": id, "error": what})) + b"\n"


def batch(answers: list[bytes]) -> bytes:
    """Join the answers to a batch's items, each as the functions above give it, in one line."""
    lines = [answer[:-1] for answer in answers if answer]
    return b"[" + b",".join(lines) + b"]\n" if lines else b""


def notification(method: str, encoded_params: bytes) -> bytes:
    """Give the line of a notification from the agent, from the JSON of its parameters."""
    return b'{"jsonrpc":"2.0","method":%b,"params":%b}\n' % (
        msgspec.json.encode(method),
        encoded_params,
    )
