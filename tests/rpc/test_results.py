"""What is remembered of lookups changes no answer, and stays small."""

from __future__ import annotations

import gc
import random
import sys

import pytest

from agent.core.index import Index
from agent.rpc import jsonrpc as protocol
from agent.rpc import results as answer
from agent.rpc.jsonrpc import CommonLookup, LookupParams, LookupRequest
from agent.rpc.results import BadEvent, Lookups, NotQuick
from support.indexes import served


def never() -> bool:
    return False


INDEX = Index.of(3, [served(["done-job-*", "done-job-x && done-job-y", "*-work-self-*"])])
EVENTS = ["done-job-x", "done-job-self", "done-work-self-1", "submit-job-7", "done-job-3"]


def common(*events: str) -> list[CommonLookup]:
    line = b'{"jsonrpc":"2.0","id":%d,"method":"lookup","params":{"event":"%b"}}\n'
    found = protocol.lookups([line % (n, event.encode()) for n, event in enumerate(events)])
    assert found is not None
    return [one for one in found if isinstance(one, CommonLookup)]


def in_full(*events: str) -> list[LookupRequest]:
    return [
        LookupRequest(jsonrpc="2.0", id=number, params=LookupParams(event, code=True))
        for number, event in enumerate(events)
    ]


def lines(*events: str, code: bool = False) -> list[bytes]:
    return [
        protocol.result(number, answer.lookup(INDEX, LookupParams(event, code=code)))
        for number, event in enumerate(events)
    ]


def test_what_is_remembered_changes_no_answer() -> None:
    chance = random.Random(5)
    lookups = Lookups(INDEX)
    for _ in range(200):
        events = chance.choices(EVENTS, k=chance.randrange(1, 9))
        if chance.random() < 0.5:
            assert lookups.lines(common(*events), never) == lines(*events)
        else:
            assert lookups.lines(in_full(*events), never) == lines(*events, code=True)


@pytest.mark.parametrize("limit", ["MAX_ANSWERS", "MAX_ANSWER_BYTES"])
def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    """By number and by bytes, of both kinds of lookups together; here 50 answers, or 20,000 bytes,
    of 2,000 different events."""
    monkeypatch.setattr(answer, limit, {"MAX_ANSWERS": 50, "MAX_ANSWER_BYTES": 20_000}[limit])
    lookups = Lookups(INDEX)

    def held() -> list[bytes]:
        dictionaries = [d for d in gc.get_referents(lookups) if isinstance(d, dict)]
        return [known for d in dictionaries for known in d.values()]

    most = 0
    for number in range(1000):
        events = f"done-job-{number}", f"done-work-self-{number}"
        assert lookups.lines(common(*events), never) == lines(*events)
        assert lookups.lines(in_full(*events), never) == lines(*events, code=True)
        found = held()
        most = max(most, len(found))
        assert len(found) <= (50 if limit == "MAX_ANSWERS" else 20_000)
        assert sum(map(sys.getsizeof, found)) < 60_000
    assert most > 20, "something is remembered"


@pytest.mark.parametrize("wrong", ["x", "done-job-" + "y" * answer.QUICK_CHARACTERS])
def test_one_that_is_no_event_or_takes_long_is_told_of_and_not_remembered(wrong: str) -> None:
    lookups = Lookups(INDEX)
    for _ in range(2):
        for asked in (common("done-job-x", wrong), in_full("done-job-x", wrong)):
            with pytest.raises((BadEvent, NotQuick)):
                lookups.lines(asked, never)


def test_a_long_answer_goes_by_itself() -> None:
    index = Index.of(1, [served([f"done-job-{'x' * number}*" for number in range(100)])])
    lookups = Lookups(index)
    event = "done-job-" + "x" * 100
    for asked in (common(event), in_full(event)):
        with pytest.raises(NotQuick):
            lookups.lines(asked, never)
    assert len(lookups.result(LookupParams(event))) > answer.MAX_QUICK_BYTES
