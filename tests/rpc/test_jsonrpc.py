"""JSON-RPC 2.0 over lines: what every line of bytes gets for an answer."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.rpc import jsonrpc, openrpc
from agent.rpc.jsonrpc import Batch, Refusal, read
from agent.rpc.lines import MAX_LINE, Lines, LineTooLong
from agent.rpc.messages import METHODS, EventObject, Job, LookupParams, Request


def answered(line: bytes) -> Any:
    """What a server sends for a line if every request's result is its method's name."""
    sent = _answer(read(line))
    if not sent:
        return None
    assert sent.endswith(b"\n")
    assert sent.count(b"\n") == 1
    return json.loads(sent)


def _answer(message: Request | Refusal | Batch) -> bytes:
    if isinstance(message, Refusal):
        return message.response
    if isinstance(message, Batch):
        return jsonrpc.batch([_answer(item) for item in message.items])
    return jsonrpc.result(message.id, json.dumps(message.method).encode())


def accepted(text: str) -> Request:
    message = read(text.encode())
    assert not isinstance(message, Refusal | Batch), message
    return message


def looked_up(params: object) -> LookupParams:
    message = accepted(
        json.dumps({"jsonrpc": "2.0", "id": 1, "method": "lookup", "params": params})
    )
    assert isinstance(message.params, LookupParams)
    return message.params


def code_and_id(answer: Any) -> tuple[int, object]:
    assert answer["jsonrpc"] == "2.0"
    assert set(answer) == {"jsonrpc", "id", "error"}
    assert set(answer["error"]) <= {"code", "message", "data"}
    return answer["error"]["code"], answer["id"]


# Lines -------------------------------------------------------------------------------------------


def test_lines_come_whole_however_the_bytes_come() -> None:
    lines = Lines()
    assert lines.feed(b"one\ntw") == [b"one"]
    assert lines.pending
    assert lines.feed(b"o") == []
    assert lines.feed(b"\n\nthree\n") == [b"two", b"", b"three"]
    assert not lines.pending
    assert lines.feed(b"") == []


@given(st.lists(st.binary(max_size=20) | st.just(b"\n") | st.just(b"a\n\nb")))
def test_cutting_the_stream_elsewhere_gives_the_same_lines(chunks: list[bytes]) -> None:
    whole, bytewise, chunked = Lines(), Lines(), Lines()
    stream = b"".join(chunks)
    want = whole.feed(stream)
    assert want == stream.split(b"\n")[:-1]
    assert [line for byte in stream for line in bytewise.feed(bytes([byte]))] == want
    assert [line for chunk in chunks for line in chunked.feed(chunk)] == want
    assert whole.pending is bytewise.pending is chunked.pending is (stream[-1:] not in (b"", b"\n"))


def test_the_longest_line_byte_by_byte_costs_by_its_length() -> None:
    # Copying what has come with every byte would move half a terabyte here, and time out.
    lines = Lines()
    byte = b"x"
    for _ in range(MAX_LINE):
        assert not lines.feed(byte)
    assert lines.feed(b"\n") == [byte * MAX_LINE]


@pytest.mark.parametrize("ended", [b"", b"\n", b"\n{}\n"])
@pytest.mark.parametrize("pieces", [1, 2, 7])
def test_a_line_too_long_is_told_of_once_and_ends_it(ended: bytes, pieces: int) -> None:
    lines = Lines()
    stream = b"before\n" + b"x" * (MAX_LINE + 1) + ended
    size = -(-len(stream) // pieces)
    got: list[bytes] = []
    raised: list[LineTooLong] = []
    for at in range(0, len(stream), size):
        try:
            got += lines.feed(stream[at : at + size])
        except LineTooLong as too_long:
            got += too_long.lines
            raised.append(too_long)
    assert got == [b"before"]
    assert len(raised) == 1
    assert code_and_id(json.loads(jsonrpc.line_too_long())) == (-32600, None)
    assert lines.feed(b"{}\n") == []
    assert not lines.pending


def test_a_line_of_just_the_limit_is_no_error() -> None:
    lines = Lines()
    longest = b"x" * MAX_LINE
    assert lines.feed(longest + b"\n" + longest + b"\na\n") == [longest, longest, b"a"]
    assert lines.feed(longest) == []
    assert lines.feed(b"\n") == [longest]


# The specification's own examples ----------------------------------------------------------------

# Its methods are not ours, so they are not found; what is not about methods stays as it is there.
SPECIFICATION = [
    ('{"jsonrpc":"2.0","method":"subtract","params":[42,23],"id":1}', (-32601, 1)),
    ('{"jsonrpc":"2.0","method":"subtract","params":{"subtrahend":23},"id":3}', (-32601, 3)),
    ('{"jsonrpc":"2.0","method":"update","params":[1,2,3,4,5]}', None),
    ('{"jsonrpc":"2.0","method":"foobar"}', None),
    ('{"jsonrpc":"2.0","method":"foobar","id":"1"}', (-32601, "1")),
    ('{"jsonrpc":"2.0","method":"foobar,"params":"bar","baz]', (-32700, None)),
    ('{"jsonrpc":"2.0","method":1,"params":"bar"}', (-32600, None)),
    (
        '[{"jsonrpc":"2.0","method":"sum","params":[1,2,4],"id":"1"},{"jsonrpc":"2.0","method"]',
        (-32700, None),
    ),
    ("[]", (-32600, None)),
    ("[1]", [(-32600, None)]),
    ("[1,2,3]", [(-32600, None)] * 3),
    (
        '[{"jsonrpc":"2.0","method":"notify_sum","params":[1,2,4]},'
        '{"jsonrpc":"2.0","method":"notify_hello","params":[7]}]',
        None,
    ),
]


@pytest.mark.parametrize(("line", "want"), SPECIFICATION)
def test_the_specifications_examples(line: str, want: object) -> None:
    answer = answered(line.encode())
    if isinstance(answer, list):
        assert [code_and_id(one) for one in answer] == want
    else:
        assert (answer and code_and_id(answer)) == want


def test_the_specifications_mixed_batch() -> None:
    line = (
        '[{"jsonrpc":"2.0","method":"list","id":"1"},'
        '{"jsonrpc":"2.0","method":"notify_hello","params":[7]},'
        '{"jsonrpc":"2.0","method":"status","params":[],"id":"2"},'
        '{"foo":"boo"},'
        '{"jsonrpc":"2.0","method":"foo.get","params":{"name":"myself"},"id":"5"},'
        '{"jsonrpc":"2.0","method":"reload","id":"9"}]'
    )
    answers = answered(line.encode())
    assert [one.get("result") for one in answers] == ["list", "status", None, None, "reload"]
    assert [one["id"] for one in answers] == ["1", "2", None, "5", "9"]
    assert code_and_id(answers[2]) == (-32600, None)
    assert code_and_id(answers[3]) == (-32601, "5")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "Parse error"),
        (b"5", "Invalid Request"),
        (b'{"jsonrpc":"2.0","id":1,"method":"x"}', "Method not found"),
    ],
)
def test_the_messages_are_the_specifications(line: bytes, message: str) -> None:
    assert answered(line)["error"]["message"] == message


# The envelope ------------------------------------------------------------------------------------

IDS = [
    "0",
    "null",
    '""',
    '"\\u00e9\\n"',
    "-1",
    "1.5",
    "1.0",
    "-0.0",
    "1e300",
    "9" * 40,
    "-" + "9" * 40,
]


@pytest.mark.parametrize("identity", IDS)
def test_every_good_id_comes_back_as_it_was(identity: str) -> None:
    want = json.loads(identity)
    for rest in ('"jsonrpc":"2.0","method":"status"', '"jsonrpc":"2.0","method":"status","x":[]'):
        answer = answered(f'{{"id":{identity},{rest}}}'.encode())
        assert answer == {"jsonrpc": "2.0", "id": want, "result": "status"}
        assert type(answer["id"]) is type(want)
    for wrong, code in (
        ('"jsonrpc":"2.0","method":"nothing"', -32601),
        ('"jsonrpc":"2.0","method":"lookup"', -32602),
        ('"jsonrpc":"2.0","method":"status","params":null', -32600),
        ('"jsonrpc":"2.0","method":7', -32600),
        ('"jsonrpc":"1.0","method":"status"', -32600),
        ('"method":"status"', -32600),
        ('"jsonrpc":"2.0"', -32600),
    ):
        answer = answered(f'{{"id":{identity},{wrong}}}'.encode())
        assert code_and_id(answer) == (code, want)
        assert type(answer["id"]) is type(want)


@pytest.mark.parametrize("identity", ["true", "false", "[]", "{}", "[1]", '{"id":1}'])
def test_a_bad_id_is_no_request_and_does_not_come_back(identity: str) -> None:
    line = f'{{"jsonrpc":"2.0","id":{identity},"method":"status"}}'
    assert code_and_id(answered(line.encode())) == (-32600, None)


@pytest.mark.parametrize("params", ["null", "1", "0.5", '"x"', "true", '""', "false"])
def test_params_that_are_no_array_and_no_object_are_no_request(params: str) -> None:
    for method in ("lookup", "status", "nothing"):
        line = f'{{"jsonrpc":"2.0","id":7,"method":"{method}","params":{params}}}'
        assert code_and_id(answered(line.encode())) == (-32600, 7)


@pytest.mark.parametrize(
    "rest",
    [
        '"method":"status"',
        '"method":"nothing"',
        '"method":"lookup"',
        '"method":"lookup","params":{"event":5}',
        '"method":"status","params":[1]',
        '"method":"lookup","params":["done-job-self"]',
    ],
)
def test_a_notification_gets_no_answer_whatever_it_is(rest: str) -> None:
    call = f'{{"jsonrpc":"2.0",{rest}}}'
    assert answered(call.encode()) is None
    assert answered(f"[{call},{call}]".encode()) is None


@pytest.mark.parametrize("rest", ['"method":"status","params":5', '"method":[]', '"id":true'])
def test_a_bad_envelope_gets_an_answer_even_without_an_id(rest: str) -> None:
    assert code_and_id(answered(f'{{"jsonrpc":"2.0",{rest}}}'.encode())) == (-32600, None)


def test_a_request_without_id_is_known_as_a_notification() -> None:
    assert accepted('{"jsonrpc":"2.0","method":"reload"}').id is msgspec.UNSET
    assert accepted('{"jsonrpc":"2.0","method":"reload","x":0}').id is msgspec.UNSET
    assert jsonrpc.result(msgspec.UNSET, b"1") == b""
    assert jsonrpc.error(msgspec.UNSET, -32603, "Internal error") == b""


@pytest.mark.parametrize("line", [b"", b" ", b"\t", b"\r", b" \t\r "])
def test_blank_lines_get_nothing(line: bytes) -> None:
    assert read(line) == Refusal(b"")


@pytest.mark.parametrize(
    "line",
    [
        *(
            b"\x0b",
            b"\x00",
            b"\xa0",
            b"\xef\xbb\xbf5",
            b"{",
            b"nul",
            b"NaN",
            b"Infinity",
            b"01",
            b"1 2",
        ),
        *(b'"\xff"', b'"\xed\xa0\x80"', b'"\\ud800"', b'"\\udc00"', b'"\x00"', b"'a'", b"[1,]"),
        *(b"1e400", b"9" * 5000, b"{}{}", b'{"a" 1}', b"{a:1}", b"[" * 100_000, b'{"a":' * 100_000),
    ],
)
def test_what_is_no_json_is_a_parse_error(line: bytes) -> None:
    assert code_and_id(answered(line)) == (-32700, None)


def test_white_space_around_a_request_is_nothing() -> None:
    assert accepted(' \t{ "jsonrpc" : "2.0", "method":"reload", "id":1 } \r').method == "reload"


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_nesting_has_a_limit(opening: str, closing: str) -> None:
    def nested(depth: int) -> bytes:
        value = opening * depth + "0" + closing * depth
        return f'{{"jsonrpc":"2.0","id":1,"method":"status","x":{value}}}'.encode()

    assert answered(nested(jsonrpc.MAX_DEPTH - 1))["result"] == "status"
    for depth in (jsonrpc.MAX_DEPTH, jsonrpc.MAX_DEPTH + 1, 500, 5000):
        answer = answered(nested(depth))
        assert code_and_id(answer) == (-32700, None)
        assert str(jsonrpc.MAX_DEPTH) in answer["error"]["message"]
    empty = b"[" * jsonrpc.MAX_DEPTH + b"]" * jsonrpc.MAX_DEPTH
    assert code_and_id(answered(empty)[0]) == (-32600, None)
    assert code_and_id(answered(b"[" + empty + b"]")) == (-32700, None)


def test_of_duplicate_names_the_last_wins() -> None:
    event = '"params":{"event":"a","event":"b"}'
    method = '"method":"status","method":"lookup"'
    good = f'{{"jsonrpc":"1.0","jsonrpc":"2.0","id":1,"id":2,{method},{event}}}'
    message = accepted(good)
    assert (message.id, message.method) == (2, "lookup")
    assert isinstance(message.params, LookupParams)
    assert message.params.event == "b"
    assert looked_up({"event": "a"}).event == "a"
    bad = '{"jsonrpc":"2.0","jsonrpc":"1.0","id":1,"method":"status"}'
    assert code_and_id(answered(bad.encode())) == (-32600, 1)
    bad = '{"jsonrpc":"2.0","id":1,"method":"lookup","params":{"event":"a","event":5}}'
    assert code_and_id(answered(bad.encode())) == (-32602, 1)
    good = '{"jsonrpc":"2.0","id":1,"method":"lookup","params":{"event":5,"event":"a"}}'
    assert accepted(good).method == "lookup"


# Batches -----------------------------------------------------------------------------------------


def test_the_largest_batch_and_one_more() -> None:
    call = {"jsonrpc": "2.0", "id": 1, "method": "status"}
    for one in (call, {**call, "x": 1}, 5):
        largest = json.dumps([one] * jsonrpc.MAX_BATCH).encode()
        assert len(answered(largest)) == jsonrpc.MAX_BATCH
        larger = json.dumps([one] * (jsonrpc.MAX_BATCH + 1)).encode()
        answer = answered(larger)
        assert code_and_id(answer) == (-32600, None)
        assert str(jsonrpc.MAX_BATCH) in answer["error"]["data"]["expected"]


def test_a_batch_inside_a_batch_is_no_request() -> None:
    assert [code_and_id(one) for one in answered(b"[[],[1]]")] == [(-32600, None)] * 2


def test_one_bad_request_leaves_the_rest_of_its_batch_alone() -> None:
    call = '{"jsonrpc":"2.0","id":%d,"method":"%s"}'
    line = f"[{call % (1, 'list')},{call % (2, 'nothing')},{call % (3, 'list')}]"
    answers = answered(line.encode())
    assert [one["id"] for one in answers] == [1, 2, 3]
    assert ["result" in one for one in answers] == [True, False, True]


# Parameters --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", sorted(METHODS))
def test_no_parameters_can_be_said_in_three_ways(method: str) -> None:
    needs = {"lookup": "event", "explain": "event", "code": "digests"}.get(method)
    for params in ("", ',"params":[]', ',"params":{}'):
        answer = answered(f'{{"jsonrpc":"2.0","id":1,"method":"{method}"{params}}}'.encode())
        if needs:
            assert code_and_id(answer) == (-32602, 1)
            assert needs in answer["error"]["data"]["expected"]
        else:
            assert answer["result"] == method


def test_lookup_and_explain_take_the_event_by_position() -> None:
    for event in ("done-job-self", {"name": "done", "type": "job", "job": {"id": 4.0}}):
        by_position = looked_up([event])
        assert by_position == looked_up({"event": event})
        assert (by_position.owner, by_position.occurred, by_position.code) == (None, None, False)
    line = b'{"jsonrpc":"2.0","id":1,"method":"explain","params":["done-job-self"]}'
    assert answered(line)["result"] == "explain"


def test_an_owner_may_be_missing_or_empty_but_not_null() -> None:
    assert looked_up({"event": "done-job-self"}).owner is None
    assert looked_up({"event": "done-job-self", "owner": {}}).owner == Job()
    answer = answered(
        b'{"jsonrpc":"2.0","id":1,"method":"lookup","params":{"event":"a-job-self","owner":null}}'
    )
    assert code_and_id(answer) == (-32602, 1)


def test_what_is_empty_or_null_in_an_object_is_not_given() -> None:
    for empty in ("", None):
        event = {"name": "a", "type": "job", "extra": empty, "job": {"label": empty, "id": None}}
        params = looked_up({"event": event, "owner": {"label": empty, "pid": None}})
        assert isinstance(params.event, EventObject)
        assert params.event.extra is None
        assert params.event.job == params.owner == Job()


def test_whole_numbers_may_be_written_with_a_point() -> None:
    params = looked_up({"event": "a-job-self", "owner": {"id": 12.0, "pid": 1e3}})
    assert params.owner == Job(id=12, pid=1000)
    assert type(params.owner.id) is type(params.owner.pid) is int


EVENT = {"name": "done", "type": "job", "job": {}}
WORK = {"name": "done", "type": "work", "job": {}}


@pytest.mark.parametrize(
    ("method", "params", "pointer", "expected"),
    [
        ("lookup", {"event": "a-job-self", "ocurred": []}, "/ocurred", "occurred"),
        ("lookup", {"event": 5}, "/event", "an event"),
        ("lookup", {"owner": {}}, "", "event"),
        ("lookup", ["a-job-self", {}], "", "by position"),
        ("lookup", [5], "/0", "an event"),
        ("lookup", {"event": {**EVENT, "name": ""}}, "/event/name", "not empty"),
        ("lookup", {"event": {**EVENT, "name": "a-b"}}, "/event/name", "no hyphen"),
        ("lookup", {"event": {**EVENT, "type": "Job"}}, "/event/type", "job subjob work"),
        ("lookup", {"event": {**EVENT, "x/y~": 1}}, "/event/x~1y~0", "job"),
        ("lookup", {"event": {"name": "a", "type": "job"}}, "/event", "job"),
        ("lookup", {"event": WORK}, "/event", "extra"),
        ("lookup", {"event": {**WORK, "extra": ""}}, "/event/extra", "needs one"),
        ("lookup", {"event": {**EVENT, "job": {"id": -1}}}, "/event/job/id", "from 0 to"),
        ("lookup", {"event": {**EVENT, "job": {"id": 2**63}}}, "/event/job/id", "from 0 to"),
        ("lookup", {"event": {**EVENT, "job": {"id": "7"}}}, "/event/job/id", "integer"),
        ("lookup", {"event": "a-job-self", "owner": {"ID": 1}}, "/owner/ID", "pgrp"),
        ("lookup", {"event": "a-job-self", "owner": {"pid": True}}, "/owner/pid", "integer"),
        ("lookup", {"event": "a-job-self", "occurred": "x"}, "/occurred", "array"),
        ("lookup", {"event": EVENT, "occurred": ["a-job-1", EVENT, 7]}, "/occurred/2", "an event"),
        ("lookup", {"event": EVENT, "occurred": [EVENT] * 20 + [WORK]}, "/occurred/20", "extra"),
        ("lookup", {"event": "a-job-1", "occurred": ["a-job-1", EVENT]}, "", "owner"),
        ("lookup", {"event": "a-job-self", "code": 1}, "/code", "true or false"),
        ("explain", {"event": "a-job-self", "code": None}, "/code", "true or false"),
        ("list", {"event": "a-job-self"}, "/event", "code"),
        ("list", [True], "", "by name"),
        ("history", {"limit": -1}, "/limit", "from 0 to"),
        ("history", {"limit": 1.5}, "/limit", "integer"),
        ("history", {"limit": None}, "/limit", "integer"),
        ("status", {"verbose": True}, "/verbose", "no parameters"),
        ("rpc.discover", [1], "", "no parameters"),
    ],
)
def test_bad_parameters_are_told_where_and_what_was_expected(
    method: str, params: object, pointer: str, expected: str
) -> None:
    call = {"jsonrpc": "2.0", "id": "x", "method": method, "params": params}
    answer = answered(json.dumps(call).encode())
    assert code_and_id(answer) == (-32602, "x")
    data = answer["error"]["data"]
    assert data["pointer"] == "/params" + pointer
    assert expected in data["expected"]
    assert data["expected"] in answer["error"]["message"]


def test_an_answer_does_not_send_a_megabyte_back() -> None:
    for params in ({"event": ["x" * 500_000]}, {"event": "a-job-1", "owner": "\u0007" * 80_000}):
        call = {"jsonrpc": "2.0", "id": 1, "method": "lookup", "params": params}
        message = read(json.dumps(call).encode())
        assert isinstance(message, Refusal)
        assert len(message.response) < 2000


def test_the_validator_is_not_shown_what_it_need_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    refusal = openrpc.refusal

    def watched(name: str, value: object) -> dict[str, str] | None:
        shown.append(value)
        return refusal(name, value)

    monkeypatch.setattr(openrpc, "refusal", watched)
    many: list[Any] = [{**EVENT, "job": {"id": 1.0}}] * 10_000
    for occurred, event, pointer in (
        ([*many, 5], EVENT, "/params/occurred/10000"),
        (["a-job-1"] * 10_000 + many, "a-job-1", "/params"),
        (many, 5, "/params/event"),
    ):
        params = {"event": event, "occurred": occurred}
        call = {"jsonrpc": "2.0", "id": 1, "method": "lookup", "params": params}
        assert answered(json.dumps(call).encode())["error"]["data"]["pointer"] == pointer
        assert len(shown.pop()["occurred"]) <= 2


# Answers -----------------------------------------------------------------------------------------


def test_answers_are_put_together_from_their_parts() -> None:
    assert jsonrpc.result(7, b'{"a":1}') == b'{"jsonrpc":"2.0","id":7,"result":{"a":1}}\n'
    assert jsonrpc.result('"', b"1") == b'{"jsonrpc":"2.0","id":"\\"","result":1}\n'
    assert jsonrpc.result(None, b"1") == b'{"jsonrpc":"2.0","id":null,"result":1}\n'
    assert json.loads(jsonrpc.error(0, -32603, "Internal error")) == {
        "jsonrpc": "2.0",
        "id": 0,
        "error": {"code": -32603, "message": "Internal error"},
    }
    assert json.loads(jsonrpc.error(1, -32602, "m", {"column": 3}))["error"]["data"] == {
        "column": 3
    }
    line = jsonrpc.notification("reload", b'{"a":1}')
    assert line == b'{"jsonrpc":"2.0","method":"reload","params":{"a":1}}\n'
    assert jsonrpc.batch([b"1\n", b"", b"2\n"]) == b"[1,2]\n"
    assert jsonrpc.batch([b"", b""]) == jsonrpc.batch([]) == b""


# Hostile bytes -----------------------------------------------------------------------------------

PIECES = [
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b'"',
        b"\\",
        b"\\u",
        b"d800",
        b"\x00",
        b"\xff",
        b"\r",
        b" ",
    ),
    *(b'"jsonrpc"', b'"2.0"', b'"id"', b'"method"', b'"params"', b'"event"', b'"lookup"', b"null"),
    *(
        b"1",
        b"-",
        b"1e999",
        b"0.5",
        b"true",
        b'{"jsonrpc":"2.0","id":1,"method":"status"}',
        b"\xed\xa0",
    ),
]
ALMOST = (
    b'{"jsonrpc":"2.0","id":1,"method":"lookup","params":{"event":"a-job-self","owner":{"id":1}}}'
)


@given(st.binary() | st.lists(st.sampled_from(PIECES)).map(b"".join))
@example(b"[" * 5000)
def test_any_bytes_get_an_answer_or_nothing(line: bytes) -> None:
    for one in Lines().feed(line + b"\n"):
        answered(one)


@given(st.integers(0, len(ALMOST) - 1), st.integers(0, len(ALMOST)), st.binary(max_size=3))
def test_a_damaged_request_gets_an_answer_or_nothing(start: int, end: int, put: bytes) -> None:
    for one in Lines().feed(ALMOST[:start] + put + ALMOST[max(start, end) :] + b"\n"):
        answered(one)


# Many reads at once ------------------------------------------------------------------------------

_A = b'{"jsonrpc":"2.0","id":1,"method":"lookup","params":{"event":"done-job-self"}}'
_B = b'{"jsonrpc":"2.0","id":2,"method":"lookup","params":{"event":"done-job-x","owner":{"id":3}}}'
_OF_LOOKUPS = st.sampled_from(
    [
        _A, _A, _B, _A + b"\n", _B + b"\n", b"\n", b"\r", b" ", b"{", b"}", b",",
        _A[:17], _A[17:], _A[:17] + b"\n", _A[17:] + b"\n", _A[:-1], _A[:-1] + b"\n", b"}\n",
        _A[:56] + b"\n", _A[56:] + b"\n", b"[" + _A + b"]\n", _A.replace(b"_", b"\n"),
    ]
)  # fmt: skip


@given(
    st.lists(st.lists(_OF_LOOKUPS, min_size=1, max_size=4).map(b"".join), min_size=1, max_size=4)
)
@example([_A + _A + b"\n", b"\n"])
@example([_A[:17], _A[17:] + b"\n" + _A + b"\n"])
@example([_A[:56] + b"\n", _A[56:] + b"\n", _A + _A + b"\n"])
@example([_A + b"\n" + _A[:17], _A[17:] + b"\n"])
@example([_A[:56] + b"\n" + _A[56:] + b"\n"])
@example([_A + b"\n", _B + b"\n" + _A + b"\n"])
def test_what_came_in_many_reads_is_read_at_once_only_as_each_would_be_alone(
    parts: list[bytes],
) -> None:
    together = jsonrpc.read_together(parts)
    if together is None:
        return
    assert all(part.endswith(b"\n") for part in parts)
    alone = [read(line) for part in parts for line in part.split(b"\n")[:-1]]
    # The text of parameters that are refused is found to be so where they are read.
    for unread, request in zip(together, alone, strict=True):
        if isinstance(request, Request):
            assert isinstance(request.params, LookupParams)
            assert unread.id == request.id
            assert msgspec.json.decode(unread.params, type=LookupParams) == request.params
        else:
            with pytest.raises(ValueError, match=r"."):
                msgspec.json.decode(unread.params, type=LookupParams)


def test_good_lookups_are_read_at_once() -> None:
    line, other = _A + b"\n", _B + b"\n"
    for parts in ([line], [line, line], [line + line, line], [other], [line + other, line]):
        found = jsonrpc.read_together(parts)
        assert found is not None
        assert [one.id for one in found] == [
            json.loads(one)["id"] for one in b"".join(parts).splitlines()
        ]
