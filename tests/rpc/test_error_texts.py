"""Errors of bad lines and bad parameters say what was found and what was expected."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.rpc import jsonrpc


def refused(line: bytes) -> dict[str, Any]:
    """The error that answers a line."""
    message = jsonrpc.read(line)
    assert isinstance(message, jsonrpc.Refusal)
    error: dict[str, Any] = json.loads(message.response)["error"]
    return error


def bad_params(method: str, params: Any) -> dict[str, Any]:
    call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    error = refused(json.dumps(call).encode())
    assert error["code"] == -32602
    return error


@pytest.mark.parametrize(
    ("line", "found", "expected"),
    [
        (rb'{"event":"\ud800-job-self"}', "half of a surrogate pair (byte 16)", r"\ud83d\ude00"),
        (rb'{"event":"\ud800"}', "half of a surrogate pair (byte 16)", "both halves"),
        (rb'{"event":"\\ud800"', "a line that ends inside a JSON value", "one JSON value"),
        (rb'{"event":"\udc00"}', "one half of a surrogate pair", "both halves"),
        (rb'{"event":"\ud800\ud800"}', "one half of a surrogate pair", "both halves"),
        (b'{"event":"a-job-\xed\xa0\x80"}', "not UTF-8 (byte 16)", "in UTF-8"),
        (b'\xef\xbb\xbf{"a":1}', "a byte order mark", "without a byte order mark"),
        (b'{"a":1', "a line that ends inside a JSON value", "one JSON value"),
        (b"[1,]", "trailing comma in array (byte 3)", "one JSON value"),
    ],
)  # fmt: skip
def test_a_line_that_is_not_json(line: bytes, found: str, expected: str) -> None:
    error = refused(line)
    assert error["code"] == -32700
    assert found in error["data"]["found"]
    assert expected in error["data"]["expected"]


@pytest.mark.parametrize("params", [["a-job-self", "b"], ["b", "c"], ["a-job-self", {}], [1, 2]])
def test_more_than_the_event_by_position(params: Any) -> None:
    data = bad_params("lookup", params)["data"]
    assert data["pointer"] == "/params"
    assert data["expected"].startswith("the event alone by position")
    assert data["found"].startswith("[")


@pytest.mark.parametrize(
    ("params", "pointer"),
    [
        ({"event": "b", "owner": 7}, "/params/owner"),
        ({"event": "b", "cod": True}, "/params/cod"),
        ({"event": "b", "occurred": ["c", 7]}, "/params/occurred/1"),
    ],
)
def test_a_bad_event_does_not_hide_what_else_is_wrong(params: Any, pointer: str) -> None:
    assert bad_params("lookup", params)["data"]["pointer"] == pointer


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["b", "a-job-self", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["event", "owner", "occurred", "code", "id"]), inner)
    ),
    max_leaves=6,
)


@given(st.sampled_from(["lookup", "explain", "list", "history", "status"]), _values)
def test_no_error_has_the_words_of_the_decoder(method: str, params: Any) -> None:
    call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    message = jsonrpc.read(json.dumps(call).encode())
    if isinstance(message, jsonrpc.Refusal):
        text = message.response.decode()
        assert "Expected `" not in text
        assert "$." not in text
