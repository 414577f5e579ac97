"""One lookup for many owners, and what callers remember of partial callbacks in `pending`."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.core.index import Index
from agent.rpc import jsonrpc, results
from agent.rpc.messages import INVALID_PARAMS, MAX_OWNERS, LookupParams
from agent.rpc.owners import matches
from agent.rpc.question import BadText
from support.cases import Case, cases, event, owner
from support.indexes import served

COMPOUND = "complete-job-self && complete-job-parent"
INDEX = Index.of(1, [served(["failed-job-self", COMPOUND]), served(["done-job-*"], "/e")])


def looked_up(index: Index, **params: Any) -> dict[str, Any]:
    """The result of a lookup. Raises BadText, and ValidationError."""
    result: dict[str, Any] = json.loads(
        results.lookup(index, msgspec.convert(params, LookupParams))
    )
    return result


def identity(callback: dict[str, Any]) -> tuple[str, str]:
    return callback["path"], callback["trigger"]


def of_one(result: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """What a result says of its owner."""
    partial = [(identity(c), c["missing"]) for c in result["partial"]]
    return [identity(c) for c in result["callbacks"]], partial


def of_each(result: dict[str, Any]) -> list[tuple[list[Any], list[Any]]]:
    """What a result says of each of its owners."""
    known = [identity(c) for c in result["callbacks"]]
    return [
        (
            [known[i] for i in one["fires"]],
            [(known[p["callback"]], p["missing"]) for p in one["partial"]],
        )
        for one in result["owners"]
    ]


@given(cases(), st.randoms(use_true_random=False))
def test_many_owners_get_what_each_gets_alone(one: Case, r: random.Random) -> None:
    index = Index.of(1, [served(one.triggers[::2]), served(one.triggers[1::2], "/e")])
    owners: list[dict[str, Any]] = [owner(r) for _ in range(r.randint(0, 6))]
    params: dict[str, Any] = {"event": one.event}
    if r.random() < 0.5:
        params["occurred"] = one.occurred
    try:
        alone = [looked_up(index, **params, owner=o) for o in (owners or [{}])]
    except (BadText, msgspec.ValidationError):
        with pytest.raises((BadText, msgspec.ValidationError)):
            looked_up(index, **params, owners=owners or [{}])
        return
    together = looked_up(index, **params, owners=owners)
    assert of_each(together) == [of_one(result) for result in alone[: len(owners)]]
    order = [identity(c) for c in json.loads(results.callbacks(index, False))["callbacks"]]
    named = [identity(c) for c in together["callbacks"]]
    assert named == [i for i in order if i in named]
    used = {i for each in of_each(together) for i in (*each[0], *(p[0] for p in each[1]))}
    assert set(named) == used


#: Ids of which some count as not given, some are named below, and one is neither.
IDS = st.sampled_from([None, 0, 1, 7, 8, 9])
NAMING = [
    *(
        "done-job-self",
        "done-job-parent",
        "done-job-7",
        "done-job-1",
        "done-job-0",
        "done-work-8-x",
    ),
    *("done-job-parent && done-job-7", "done-job-self && done-job-parent"),
]


@given(
    st.lists(st.sampled_from(NAMING), min_size=1, unique=True),
    st.sampled_from(["self", "parent", "0", "1", "7", "007", "9", "comp"]),
    st.lists(st.builds(dict, id=IDS, pid=IDS), max_size=8),
    st.sampled_from([{}, {"occurred": ["done-job-parent", "done-job-8"]}]),
)
@example(["done-job-parent"], "self", [{"id": 1, "pid": 1}, {"id": 9, "pid": 9}], {})
@example(["done-job-parent"], "self", [{}, {"id": 9, "pid": 9}], {})
@example(["done-job-7"], "self", [{"id": 7, "pid": 1}, {"id": 9, "pid": 1}], {})
@example(["done-job-self"], "007", [{"id": 7, "pid": 1}, {"id": 9, "pid": 1}], {})
def test_an_event_as_text_looks_to_each_owner_as_it_does_alone(
    triggers: list[str], context: str, ids: list[dict[str, Any]], before: dict[str, Any]
) -> None:
    index = Index.of(1, [served(triggers)])
    owners = [{k: v for k, v in one.items() if v is not None} for one in ids]
    asked: dict[str, Any] = {"event": f"done-job-{context}", **before}
    together = of_each(looked_up(index, **asked, owners=owners))
    assert together == [of_one(looked_up(index, **asked, owner=owner)) for owner in owners]


def test_thousands_of_owners_are_in_order_and_share_their_matches() -> None:
    owners = [{"id": i, "pid": 5} for i in range(3000)]
    index = Index.of(1, [served(["failed-job-self", COMPOUND])])
    params = msgspec.convert({"event": "failed-job-2345", "owners": owners}, LookupParams)
    found = matches(index, params, lambda: None)
    assert [i for i, match in enumerate(found) if match.callbacks] == [2345]
    assert len({id(match) for match in found}) < 5
    whole = of_each(looked_up(index, event="failed-job-2345", owners=owners))
    assert [i for i, (fires, _) in enumerate(whole) if fires] == [2345]
    assert len(whole) == 3000


@given(st.randoms(use_true_random=False), cases())
def test_pending_gives_the_same_answers_as_all_that_occurred(r: random.Random, one: Case) -> None:
    job = one.owner or owner(r)
    some = [one.event, *one.occurred, event(r)]
    happening = [r.choice(some) for _ in range(r.randint(2, 7))]
    for trigger in one.triggers:
        index = Index.of(1, [served([trigger])])
        occurred: list[Any] = []
        memory: list[dict[str, str]] = []
        try:
            for now in happening:
                whole = looked_up(index, event=now, owner=job, occurred=occurred)
                short = looked_up(index, event=now, owner=job, pending=memory)
                many = looked_up(index, event=now, owners=[{**job, "pending": memory}, job])
                assert of_each(many)[0] == of_one(short)
                assert of_one(whole)[0] == of_one(short)[0]
                occurred.append(now)
                for callback in short["partial"]:
                    memory = [{key: callback[key] for key in ("path", "trigger", "missing")}]
                assert [p["missing"] for p in whole["partial"]] in (
                    [],
                    [m["missing"] for m in memory],
                )
                if whole["callbacks"]:
                    occurred, memory = [], []
        except (BadText, msgspec.ValidationError):
            return


def test_pending_of_the_request_is_that_of_owners_without_their_own() -> None:
    waits = [{"path": "/d/2.py", "trigger": COMPOUND, "missing": "complete-job-self"}]
    found = of_each(
        looked_up(
            INDEX,
            event="complete-job-self",
            owners=[{}, {"pending": []}, {"pending": None} | {"pending": waits}],
            pending=waits,
        )
    )
    compound = ("/d/2.py", COMPOUND)
    assert [compound in fires for fires, _ in found] == [True, False, True]
    assert [identity for identity, _ in found[1][1]] == [compound]


def test_pending_of_what_is_not_served_is_ignored() -> None:
    waits = [
        {"path": "/d/gone.py", "trigger": COMPOUND, "missing": "complete-job-self"},
        {"path": "/d/2.py", "trigger": "complete-job-self", "missing": "failed-job-self"},
    ]
    with_it = looked_up(INDEX, event="complete-job-self", pending=waits)
    assert with_it == looked_up(INDEX, event="complete-job-self")


def test_what_was_met_before_is_left_out() -> None:
    waits = [{"path": "/d/2.py", "trigger": COMPOUND, "missing": "complete-job-parent"}]
    found = looked_up(INDEX, event="complete-job-self", pending=waits)
    assert of_one(found) == ([("/e/1.py", "done-job-*")], [])
    explained = json.loads(
        results.explain(
            INDEX,
            msgspec.convert({"event": "complete-job-self", "pending": waits}, LookupParams),
        )
    )
    verdicts = {c["path"]: (c["verdict"], c["reason"]) for c in explained["callbacks"]}
    assert verdicts["/d/2.py"] == (
        "no",
        "complete-job-self was satisfied before; still missing: complete-job-parent",
    )


WAITS = {"path": "/d/2.py", "trigger": COMPOUND, "missing": "complete-job-self"}


@pytest.mark.parametrize(
    ("params", "pointer", "expected"),
    [
        ({"owner": {}, "owners": []}, "", "owner or owners, not both"),
        ({"occurred": [], "pending": []}, "", "occurred or pending, not both"),
        (
            {"occurred": [], "owners": [{}] * 50 + [{"pending": []}]},
            "/owners/50",
            "occurred, or owners with pending, not both",
        ),
        ({"owners": [{}] * (MAX_OWNERS + 1)}, "/owners", "at most 10000 owners in one request"),
        ({"owners": None}, "/owners", "the jobs that have the callbacks"),
        ({"owners": [{"id": 1}, {"id": "2"}]}, "/owners/1/id", "the job's id"),
        (
            {"owners": [{}, {"pending": [WAITS, {"path": "x"}]}]},
            "/owners/1/pending/1",
            "the member",
        ),
        ({"pending": [WAITS, {**WAITS, "missing": 7}]}, "/pending/1/missing", "what the callback"),
        ({"pending": [WAITS] * 20_000 + [7]}, "/pending/20000", "a pending callback"),
    ],
)
def test_a_refusal_says_where(params: dict[str, Any], pointer: str, expected: str) -> None:
    request = {"jsonrpc": "2.0", "id": 1, "method": "lookup"}
    line = json.dumps({**request, "params": {"event": "done-job-self", **params}}).encode()
    refused = jsonrpc.read_slowly(line)
    assert isinstance(refused, jsonrpc.Refusal)
    error = json.loads(refused.response)["error"]
    assert (error["code"], error["data"]["pointer"]) == (INVALID_PARAMS, f"/params{pointer}")
    assert error["data"]["expected"].startswith(expected)


@pytest.mark.parametrize(
    ("params", "pointer"),
    [
        ({"pending": [WAITS, {**WAITS, "missing": "a &&"}]}, "/params/pending/1/missing"),
        (
            {"owners": [{}, {"pending": [{**WAITS, "missing": ""}]}]},
            "/params/owners/1/pending/0/missing",
        ),
    ],
)
def test_what_is_missing_must_be_a_trigger(params: dict[str, Any], pointer: str) -> None:
    with pytest.raises(BadText) as wrong:
        looked_up(INDEX, event="done-job-self", **params)
    assert wrong.value.data["pointer"] == pointer


def test_an_object_that_occurred_is_seen_from_each_owner() -> None:
    done = {"name": "complete", "type": "job", "job": {"id": 4}}
    found = looked_up(
        INDEX, event="complete-job-self", occurred=[done], owners=[{"id": 5, "pid": 4}, {"id": 5}]
    )
    compound = ("/d/2.py", COMPOUND)
    assert [compound in fires for fires, _ in of_each(found)] == [True, False]
