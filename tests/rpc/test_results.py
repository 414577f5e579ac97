"""The cache of results changes no response, and stays small."""

from __future__ import annotations

import base64
import contextlib
import gc
import json
import random
import sys
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.index import Callback, Index, ServedDirectory
from agent.core.unit import Implementation
from agent.rpc import jsonrpc, lookup_cache, messages, results
from agent.rpc.lookup_cache import LookupCache, NotQuick
from agent.rpc.messages import LookupParams, UnreadLookup
from agent.rpc.question import QUICK_CHARACTERS, BadText
from support.cases import EXTRAS, IDS, LABELS, case
from support.indexes import served, unit


def never() -> bool:
    return False


INDEX = Index.of(3, [served(["done-job-*", "done-job-x && done-job-y", "*-work-self-*"])])
EVENTS = ["done-job-x", "done-job-self", "done-work-self-1", "submit-job-7", "done-job-3"]


def requests(*events: str, code: bool = False) -> list[UnreadLookup]:
    line = b'{"jsonrpc":"2.0","id":%d,"method":"lookup","params":{"event":"%b","code":%b}}\n'
    flag = b"true" if code else b"false"
    found = jsonrpc.read_together([line % (n, e.encode(), flag) for n, e in enumerate(events)])
    assert found is not None
    return found


def responses(*events: str, code: bool = False) -> list[bytes]:
    return [
        jsonrpc.result(number, results.lookup(INDEX, LookupParams(event, code=code)))
        for number, event in enumerate(events)
    ]


def test_the_cache_changes_no_response() -> None:
    chance = random.Random(5)
    cache = LookupCache(INDEX)
    for _ in range(200):
        events = chance.choices(EVENTS, k=chance.randrange(1, 9))
        code = chance.random() < 0.5
        found = cache.responses(requests(*events, code=code), never)
        assert found == responses(*events, code=code)


@pytest.mark.parametrize("held", [(), ("/d",), ("/d", "/a b/\u00e9\x9b")])
def test_every_result_says_what_is_held(held: tuple[str, ...]) -> None:
    index = INDEX.with_held(held)
    assert (index is INDEX) == (not held)
    assert index.with_held(held) is index
    assert (index.generation, index.digest) == (INDEX.generation, INDEX.digest)
    cache = LookupCache(index)
    for event in [*EVENTS, *EVENTS]:
        params = LookupParams(event)
        encoded = [results.lookup(index, params), results.explain(index, params)]
        encoded += [results.callbacks(index, code) for code in (False, True)]
        assert cache.result(params) == encoded[0]
        [together] = cache.responses(requests(event), never)
        assert together == jsonrpc.result(0, encoded[0])
        for one in encoded:
            assert json.loads(one).get("held", []) == sorted(held)
            assert (b'"held"' in one) == bool(held)
            assert "\x9b" not in one.decode()


def test_events_that_were_never_asked_get_their_own_result() -> None:
    """A result that is found by the callbacks that fire is that of exactly these."""
    chance = random.Random(7)
    cache = LookupCache(INDEX)
    names = ("done", "submit", "complete")
    for number in range(300):
        place = chance.choice(("job-x", "job-y", f"job-{number}", f"work-self-{number}"))
        event, code = f"{chance.choice(names)}-{place}", chance.random() < 0.5
        [found] = cache.responses(requests(event, code=code), never)
        assert found == responses(event, code=code)[0], event


def varied(chance: random.Random, event: Any) -> Any:
    """The same event with another extra, or another job."""
    if isinstance(event, str):
        head, hyphen, _ = event.rpartition("-")
        return head + hyphen + chance.choice(EXTRAS)
    if not isinstance(event.get("job"), dict):
        return event
    field = chance.choice(["extra", "id", "label", "pid", "pgrp"])
    if field == "extra":
        return {**event, "extra": chance.choice([*EXTRAS, None])}
    value = chance.choice(LABELS if field == "label" else IDS)
    return {**event, "job": {**event["job"], field: value}}


@settings(max_examples=300)
@given(st.integers())
def test_any_lookup_after_any_others_gets_its_own_result(seed: int) -> None:
    """Events that differ in extra, job id, label or owner alone, text and objects, good and bad."""
    chance = random.Random(seed)
    pool = [case(chance) for _ in range(3)]
    index = Index.of(3, [served([text for one in pool for text in one.triggers])])
    cache = LookupCache(index, chance.choice([2_000, 1 << 20]))
    found = 0
    for _ in range(chance.randrange(60)):
        one = chance.choice(pool)
        params: dict[str, Any] = {"event": one.event}
        for _ in range(chance.randrange(3)):
            params["event"] = varied(chance, params["event"])
        if one.owner is not None and chance.random() < 0.8:
            params["owner"] = one.owner
        if chance.random() < 0.1:
            params["occurred"] = one.occurred
        if chance.random() < 0.1:
            params["code"] = True
        text = msgspec.json.encode(params)
        for _ in range(chance.choice([1, 1, 3])):
            asked = [UnreadLookup(jsonrpc="2.0", id=1, params=msgspec.Raw(text))]
            try:
                expected = results.lookup(index, msgspec.json.decode(text, type=LookupParams))
            except (BadText, msgspec.ValidationError):
                with pytest.raises((BadText, msgspec.ValidationError)):
                    cache.responses(asked, never)
                continue
            with contextlib.suppress(NotQuick):
                assert cache.responses(asked, never) == [jsonrpc.result(1, expected)]
                found += 1
    assert cache.counted == found


def test_an_owner_sees_more_in_an_event_given_as_text() -> None:
    cache = LookupCache(Index.of(1, [served(["done-work-7-*"])]))
    for number in range(3):
        for owner, fires in ((b"", 0), (b',"owner":{"id":7}', 1), (b',"owner":{"id":8}', 0)):
            text = b'{"event":"done-work-self-%d"%b}' % (number, owner)
            asked = UnreadLookup(jsonrpc="2.0", id=1, params=msgspec.Raw(text))
            [line] = cache.responses([asked], never)
            assert len(json.loads(line)["result"]["callbacks"]) == fires


def test_the_cache_is_bounded_by_bytes() -> None:
    """Here 20,000 bytes, of the results of 3,000 different lookups."""
    chance = random.Random(3)
    cache = LookupCache(INDEX, 20_000)

    def held() -> list[object]:
        """All objects that the cache keeps, each once."""
        found: dict[int, object] = {}
        left = [cache._results, cache._large, cache._tallies, *cache._alike]
        while left:
            one = left.pop()
            if id(one) not in found and not isinstance(one, Callback | type):
                found[id(one)] = one
                left += gc.get_referents(one)
        return list(found.values())

    most = 0
    for number in range(1000):
        events = f"done-job-{number}", f"done-work-self-{number}"
        assert cache.responses(requests(*events), never) == responses(*events)
        # Other names each time, long ones too.
        name = f"{number}" * chance.choice([1, 50, 500])
        event = messages.EventObject(name, "job", messages.Job(id=number))
        with contextlib.suppress(NotQuick):
            cache.result(LookupParams(event))
        found = held()
        most = max(most, len(found))
        assert sum(map(sys.getsizeof, found)) <= 20_000
    assert most > 100, "results are cached"


@pytest.mark.parametrize(
    "params",
    [
        *(b'{"event":"done-job-x","code":7}', b'{"event":"done-job-x","x":1}', b"{}", b"[]"),
        b'{"event":"done-job-x","owner":{},"owners":[]}',
        b'{"event":"done-job-\xff"}',
    ],
)
def test_parameters_that_are_refused_alone_are_refused_together(params: bytes) -> None:
    line = b'{"jsonrpc":"2.0","id":1,"method":"lookup","params":%b}' % params
    assert isinstance(jsonrpc.read(line), jsonrpc.Refusal)
    cache = LookupCache(INDEX)
    lookups = jsonrpc.read_together([line + b"\n"])
    for _ in range(2):
        if lookups is not None:
            with pytest.raises(ValueError, match=r"."):
                cache.responses([*requests("done-job-x"), *lookups], never)
    assert cache.counted == 0


@pytest.mark.parametrize("wrong", ["x", "done-job-" + "y" * QUICK_CHARACTERS])
def test_an_event_that_is_not_valid_or_takes_long_is_not_cached(wrong: str) -> None:
    cache = LookupCache(INDEX)
    for _ in range(2):
        for code in (False, True):
            with pytest.raises((BadText, NotQuick)):
                cache.responses(requests("done-job-x", wrong, code=code), never)


def test_a_large_result_is_not_answered_in_a_batch() -> None:
    index = Index.of(1, [served([f"done-job-{'x' * number}*" for number in range(100)])])
    cache = LookupCache(index)
    event = "done-job-" + "x" * 100
    for code in (False, True):
        with pytest.raises(NotQuick):
            cache.responses(requests(event, code=code), never)
    assert len(cache.result(LookupParams(event))) > lookup_cache.MAX_BATCHED_RESULT
    # Asking again takes no more room: nothing is forgotten because of it.
    small = LookupCache(index, 100_000)
    small.result(LookupParams("submit-job-x"))
    for _ in range(50):
        with pytest.raises(NotQuick):
            small.responses(requests(event), never)
    assert small._cached(msgspec.json.encode(LookupParams("submit-job-x"))) is not None


def test_code_is_what_is_served_and_nothing_else() -> None:
    latin = Implementation.of("# \u00e9\n".encode("latin-1"))
    one = unit(["done-job-self", "failed-job-self", "killed-job-self"])
    one = replace(one, implementations={**one.implementations, "3.py": latin})
    index = Index.of(1, [ServedDirectory.of("/d", one, frozenset({"python"}))])
    text = one.implementations["1.py"].digest
    unknown = "sha256:" + "0" * 64
    found = json.loads(results.code(index, [latin.digest, unknown, text, text, "x"]))
    assert found == {
        "code": {
            text: {"text": "pass\n"},
            latin.digest: {"base64": base64.b64encode(latin.code).decode()},
        }
    }
    assert json.loads(results.code(index, [])) == {"code": {}}


def test_code_ends_when_it_costs_too_much() -> None:
    def spend(size: int) -> None:
        raise MemoryError

    digest = next(INDEX.callbacks()).implementation.digest
    with pytest.raises(MemoryError):
        results.code(INDEX, [digest], spend)
