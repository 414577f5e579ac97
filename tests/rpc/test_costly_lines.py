"""No line takes long because of what its numbers and escapes are: the decoder holds the GIL.

A line that is made to be costly and a usual one of the same size are read in the same run.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.rpc import jsonrpc, not_json, openrpc

#: How much more processor time than a usual line a costly one may take. The numbers below would
#: take 20 to 200 times as much.
MAX_RATIO = 8
TRIES = 5
NUMBERS = 5000


def _line(number: str) -> bytes:
    numbers = b",".join([number.encode()] * NUMBERS)
    return b'{"numbers":[%s]}' % numbers


def _batch(number: str) -> bytes:
    item = b'{"jsonrpc":"2.0","id":%s,"method":"status"}' % number.encode()
    return b"[%s]" % b",".join([item] * NUMBERS)


def _seconds(read: Callable[[bytes], object], line: bytes) -> float:
    found = []
    for _ in range(TRIES):
        began = time.thread_time()
        read(line)
        found.append(time.thread_time() - began)
    return min(found)


@pytest.mark.parametrize("costly", ["1e300", "5e-324"])
@pytest.mark.parametrize(
    ("read", "line", "usual"),
    [
        (jsonrpc.read, _line, "1.5"),
        (jsonrpc.read, _batch, "1"),
        (jsonrpc.is_whole, _line, "1.5"),
    ],
)
def test_numbers(
    read: Callable[[bytes], object], line: Callable[[str], bytes], usual: str, costly: str
) -> None:
    ratio = _seconds(read, line(costly)) / _seconds(read, line(usual))
    assert ratio < MAX_RATIO


def test_a_number_that_is_too_large_is_refused() -> None:
    found = jsonrpc.read(b'{"jsonrpc":"2.0","id":1,"method":"lookup","params":[1e400]}')
    assert isinstance(found, jsonrpc.Refusal)
    assert b"Number out of range" in found.response


@pytest.mark.parametrize(
    ("method", "params"),
    [("lookup", b"[%s]"), ("status", b"[%s]"), ("code", b"[%s]"), ("code", b'{"digests":[%s]}')],
)
def test_the_validator_gets_few_of_many_bad_parameters(
    method: str, params: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them would take seconds, and gigabytes."""
    seen: list[object] = []
    refusal = openrpc.refusal

    def noted(method: str, params: object) -> dict[str, str] | None:
        seen.append(params)
        return refusal(method, params)

    def answer(number: int) -> jsonrpc.Message:
        head = b'{"jsonrpc":"2.0","id":1,"method":"%s","params":' % method.encode()
        return jsonrpc.read(head + params % b",".join([b"1"] * number) + b"}")

    few = answer(200)
    monkeypatch.setattr(openrpc, "refusal", noted)
    assert answer(5000) == few
    assert 0 < len(json.dumps(seen)) < 200


@given(st.lists(st.sampled_from([b"\\", b"\\u", b"d8", b"dC", b"00", b"x"])).map(b"".join))
def test_the_first_half_of_a_surrogate_pair(text: bytes) -> None:
    half = re.search(
        rb"(?<!\\)(?:\\\\)*(\\u[dD][89abAB][0-9a-fA-F]{2})(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})", text
    )
    assert not_json._first_half(text) == (half.end(1) if half else None)


def test_escapes_are_searched_as_fast_as_text_is() -> None:
    size = 1 << 18
    usual = _seconds(jsonrpc.read, b'"' + b"\\u00e9" * (size // 6))
    for costly in (b"x", b"\\\\"):
        ratio = _seconds(jsonrpc.read, b'"' + costly * (size // len(costly))) / usual
        assert ratio < MAX_RATIO
