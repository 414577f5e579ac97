"""JSON-RPC 2.0: one line to a request, a response to one line. No I/O.

    message = read(line)
    # a Refusal: send its `response`
    # a Batch: answer each of its `items`, send `batch(responses)`
    # else a Request: send `result(message.id, encoded)` or `error(message.id, ...)`

Every response ends with a line feed, or is empty where nothing is to be sent.

Messages. A line that the JSON decoder refuses is -32700 with a null id. A value that is not a
request (jsonrpc, method, id, params) is -32600, even without an id: it cannot be known to be a
notification. From then on the message is a request, or without `id` a notification; `"id": null`
is a request. A notification gets no response, not even -32601 or -32602. "No response" is `b""`
here, so that callers may send whatever they are given.

Batches. An array is a batch: each element is handled as if it had come alone, and the responses go
into one array on one line. An empty batch, or one over MAX_BATCH, is one -32600. A batch without
responses gets no line at all.

Two steps, one result. Nearly every line is decoded straight into the types of `agent.rpc.messages`,
which refuse unknown members. A line that they refuse is decoded as any JSON; the envelope is
checked; what means the same in another form is converted (positions to names, 12.0 to 12, unknown
members of the envelope dropped); and the types are tried again. The schema derived
from them explains what they still refuse. One rule is left to `agent.core.trigger`: the syntax of
an event given as text, because only it can name the column.

Of duplicate names in one object the last wins, in both steps.

Sources: the JSON-RPC 2.0 specification (https://www.jsonrpc.org/specification), RFC 8259 (JSON).
The design follows h11.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, Union

import msgspec
from msgspec import UNSET, Struct

from agent.core.quoting import escape_json
from agent.rpc import bad_params, not_json, openrpc
from agent.rpc.bad_params import whole_numbers
from agent.rpc.lines import MAX_LINE
from agent.rpc.messages import (
    ERRORS,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    METHODS,
    PARSE_ERROR,
    REQUEST_TYPES,
    Id,
    Request,
    UnreadLookup,
)

#: Requests in one batch. They are answered as one, so this bounds how long others wait for it.
MAX_BATCH: Final = 1000

#: Arrays and objects inside each other. A valid request has 6, in a batch. This leaves room for
#: what clients add to the envelope, and is far below what could exhaust the stack.
MAX_DEPTH: Final = 64

_NO_HEADERS: Final = "one JSON value on each line, ended by a line feed, without headers"

#: Bytes from which a result is not copied into its line.
MIN_PIECE: Final = 1 << 16


class Refusal(Struct, frozen=True, gc=False):
    """A message that is not a request to carry out. Send `response`, which may be empty."""

    response: bytes


class Batch(Struct, frozen=True):
    """Requests that came in one array and are answered in one; see `batch`."""

    items: list[Request | Refusal]


Message = Request | Refusal | Batch
"""What one line says."""


# ---------------------------------------------------------------------------------------------
# Bytes to requests


def _number(text: str) -> float:
    """A number with a fraction or an exponent. msgspec takes up to 15 us for one such as 1e300, and
    holds the GIL: a MiB of them would take seconds."""
    value = float(text)
    if math.isinf(value):
        raise ValueError("Number out of range")
    return value


_any_request: Any = Union[tuple(REQUEST_TYPES.values())]  # noqa: UP007
_decoder: msgspec.json.Decoder[Request] = msgspec.json.Decoder(_any_request)
# Values that are not looked into: it takes a millisecond for a MiB, whatever is in them.
_decode_batch = msgspec.json.Decoder(list[msgspec.Raw]).decode
_skip = msgspec.json.Decoder(msgspec.Raw).decode
# Of one type, so that `method` need not be found before the rest is read; and nearly all of these
# parameters were sent before.
_decode_lookups = msgspec.json.Decoder(UnreadLookup).decode_lines
_decode_any = msgspec.json.Decoder(float_hook=_number).decode

# What msgspec raises for bytes that it refuses; its own errors and bad UTF-8 are ValueErrors.
_REFUSED = (ValueError, RecursionError)

_LINE_FEED = ord("\n")


def read_together(parts: list[bytes]) -> list[UnreadLookup] | None:
    """Decode several reads at once; None if any of them is not whole lines with one lookup on each,
    and then `read` says what it is.

    msgspec takes the values where it finds them, lines or not. So they are counted: where each line
    feed but the last is between a `}` and a `{`, none is inside a value, and as many values as
    lines means one on each.
    """
    for part in parts:
        if part[-1] != _LINE_FEED:
            return None
    data = b"".join(parts)
    try:
        lookups = _decode_lookups(data)
    except _REFUSED:
        return None
    lines = data.count(b"\n")
    if len(lookups) != lines or (lines > 1 and data.count(b"}\n{") != lines - 1):
        return None
    return lookups


def read(line: bytes) -> Message:
    """Read one line. Takes any bytes, raises nothing."""
    return read_quickly(line) or read_slowly(line)


def read_quickly(line: bytes) -> Message | None:
    """Read one line as `read` does; None if something in it is refused: explaining takes long.

    Takes some 2 ms for a MiB of text, and 40 ms for a MiB of events as objects.
    """
    try:
        if not line.startswith(b"["):
            return _decoder.decode(line)
        items = _decode_batch(line)
        # One by one, and only if they are few: an id may be a number that takes long.
        return _check_size(len(items)) or Batch([_decoder.decode(item) for item in items])
    except _REFUSED:
        return None


_NOTHING = Refusal(b"")


def _no_checkpoint() -> None:
    """A checkpoint that never raises."""


def read_slowly(line: bytes, checkpoint: Callable[[], None] = _no_checkpoint) -> Message:
    """Read one line that `read_quickly` does not accept.

    Takes about 1 ms for each request that is refused. `checkpoint` is called between them; what it
    raises is raised.
    """
    try:
        value = _decode_any(line)
    except RecursionError:
        return _too_deep()
    except ValueError as refused:
        if not line.strip(b" \t\r"):
            return _NOTHING
        data = not_json.explain(line, refused)
        if line[:15].lower() == b"content-length:":
            data["expected"] = _NO_HEADERS
        return Refusal(error(None, PARSE_ERROR, ERRORS[PARSE_ERROR], data))
    if _nests_too_deep(value):
        return _too_deep()
    if not isinstance(value, list):
        return _read_value(value)
    if (too_large := _check_size(len(value))) is not None:
        return too_large
    items: list[Request | Refusal] = []
    for item in value:
        checkpoint()
        items.append(_read_value(item))
    return Batch(items)


def _nests_too_deep(value: object) -> bool:
    """Walks level by level: it must not recurse."""
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


def _check_size(size: int) -> Refusal | None:
    if 1 <= size <= MAX_BATCH:
        return None
    if size == 0:
        data = {"expected": "at least one request in a batch", "found": "[]"}
        return Refusal(error(None, INVALID_REQUEST, ERRORS[INVALID_REQUEST], data))
    message = "Invalid Request: the batch is too large"
    data = {"expected": f"at most {MAX_BATCH} requests in a batch", "found": str(size)}
    return Refusal(error(None, INVALID_REQUEST, message, data))


def _read_value(value: object) -> Request | Refusal:
    """Check one decoded message: the envelope, the method, and the parameters."""
    if not isinstance(value, dict):
        return _not_a_request(None, "", "an object with jsonrpc, method, params and id", value)
    identity: Id = value.get("id", UNSET)
    if isinstance(identity, bool | list | dict):
        return _not_a_request(None, "/id", "a string, a number or null", identity)
    if value.get("jsonrpc") != "2.0":
        return _not_a_request(identity, "/jsonrpc", 'the string "2.0"', value.get("jsonrpc", UNSET))
    method = value.get("method", UNSET)
    if not isinstance(method, str):
        return _not_a_request(identity, "/method", "the name of a method, a string", method)
    params = value.get("params", {})
    if not isinstance(params, dict | list):
        return _not_a_request(identity, "/params", "an object, an array, or no params", params)
    if method not in METHODS:
        expected = "one of " + ", ".join(METHODS)
        data = {"pointer": "/method", "expected": expected, "found": openrpc.cut_json(method)}
        return Refusal(error(identity, METHOD_NOT_FOUND, ERRORS[METHOD_NOT_FOUND], data))
    call = {"jsonrpc": "2.0", "method": method, "id": identity, "params": _named(method, params)}
    if identity is UNSET:
        del call["id"]
    try:
        return msgspec.convert(call, REQUEST_TYPES[method])
    except ValueError as refused:
        return Refusal(_bad_params(identity, method, params, refused))


def _not_a_request(identity: Id, pointer: str, expected: str, value: object) -> Refusal:
    data = {"pointer": pointer, "expected": expected}
    if value is not UNSET:
        data["found"] = openrpc.cut_json(value)
    # A wrong envelope gets a response even without an id.
    identity = None if identity is UNSET else identity
    return Refusal(error(identity, INVALID_REQUEST, ERRORS[INVALID_REQUEST], data))


def _named(method: str, params: dict[str, Any] | list[Any]) -> object:
    """Parameters by name, and whole numbers as integers, as the types require."""
    if isinstance(params, list):
        if not params:
            return {}
        positional = METHODS[method].positional
        if positional is None or len(params) != 1:
            return params
        params = {positional: params[0]}
    return whole_numbers(params)


def _bad_params(identity: Id, method: str, params: Any, refused: ValueError) -> bytes:
    data = bad_params.explain(method, params) or {"pointer": "", "expected": str(refused)}
    data["pointer"] = "/params" + data["pointer"]
    message = f"Invalid params: at {data['pointer']} expected {data['expected']}"
    return error(identity, INVALID_PARAMS, message, data)


# ---------------------------------------------------------------------------------------------
# Responses to bytes


def result(id: Id, encoded: bytes) -> bytes:
    """The response to a request, from its id and the JSON of its result."""
    if type(id) is int:
        return b'{"jsonrpc":"2.0","id":%d,"result":%b}\n' % (id, encoded)
    if id is UNSET:
        return b""
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}\n' % (msgspec.json.encode(id), encoded)


def result_line(id: Id, encoded: bytes) -> bytes | tuple[bytes, ...]:
    """As `result`. A long result is not copied: its line is in pieces, the last one short."""
    if len(encoded) < MIN_PIECE or id is UNSET:
        return result(id, encoded)
    return b'{"jsonrpc":"2.0","id":%b,"result":' % msgspec.json.encode(id), encoded, b"}\n"


def error(id: Id, code: int, message: str, data: object = None) -> bytes:
    """The response to a request that failed. `data` None is left out.

    `data` is what msgspec can encode; for bad parameters, `pointer` (RFC 6901, from the request),
    `expected`, and what else is known.
    """
    if id is UNSET:
        return b""
    what: dict[str, object] = {"code": code, "message": message}
    if data is not None:
        what["data"] = data
    return escape_json(msgspec.json.encode({"jsonrpc": "2.0", "id": id, "error": what})) + b"\n"


def line_too_long() -> bytes:
    """The response to a line of more than `MAX_LINE` bytes, after which the connection closes."""
    message = f"{ERRORS[INVALID_REQUEST]}: the line is too long, the connection is closed"
    data = {"expected": f"a line of at most {MAX_LINE} bytes"}
    return error(None, INVALID_REQUEST, message, data)


def is_whole(line: bytes) -> bool:
    """Whether bytes are a whole JSON value, so that no more of the line is to come."""
    try:
        _skip(line)
    except _REFUSED:
        return False
    return True


def no_line_feed() -> bytes:
    """The response to a request without a line feed, after which the connection closes."""
    message = f"{ERRORS[INVALID_REQUEST]}: no line feed came after a JSON value"
    return error(None, INVALID_REQUEST, message, {"expected": _NO_HEADERS})


def batch(responses: list[bytes]) -> bytes:
    """The line of a batch, from the responses to its items as the functions above return them."""
    lines = [response[:-1] for response in responses if response]
    return b"[" + b",".join(lines) + b"]\n" if lines else b""


def notification(method: str, encoded_params: bytes) -> bytes:
    """A notification from the agent, from the JSON of its parameters."""
    return b'{"jsonrpc":"2.0","method":%b,"params":%b}\n' % (
        msgspec.json.encode(method),
        encoded_params,
    )
