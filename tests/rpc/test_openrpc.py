"""The derived schemas: decoder, trigger texts and schemas accept and refuse the same."""

import itertools
import json
import random
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from msgspec import Struct

from agent.core.event import TYPES, Event, EventError
from agent.rpc import jsonrpc, messages, openrpc
from agent.rpc.messages import (
    EVENT_TEXT_PATTERN,
    METHODS,
    Callback,
    ExplainResult,
    HistoryResult,
    ListResult,
    LookupResult,
    Record,
    StatusResult,
    SubscribeResult,
)
from support.agents import summary
from support.valid import check, check_params, check_result, request_validator, validator

REQUEST = request_validator()


# The schemas -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(openrpc.schemas()))
def test_every_schema_is_valid_and_described(name: str) -> None:
    schema = openrpc.schemas()[name]
    Draft202012Validator.check_schema(schema)
    assert schema["description"]
    for reference in _references(schema):
        assert reference.removeprefix("#/components/schemas/") in openrpc.schemas()


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            yield from _references(inner)


@pytest.mark.parametrize("method", METHODS)
def test_the_example_of_every_method_is_valid(method: str) -> None:
    params, result = METHODS[method].example
    check_params(method, json.loads(msgspec.json.encode(params)))
    check_result(method, msgspec.to_builtins(result))


# Event texts -------------------------------------------------------------------------------------

FIELDS = [
    *(
        "",
        "done",
        "job",
        "work",
        "globalrepeat",
        "Job",
        "self",
        "parent",
        "12",
        "007",
        "\u0663",
        "*",
    ),
    *("label", "my label", "self\n", "\n", "selfish", "12a", " self", "&&", "\U0001f600", "(x)"),
]


def is_event(text: str) -> bool:
    try:
        Event.from_text(text)
    except EventError:
        return False
    return True


def test_schema_and_trigger_agree_on_all_short_texts() -> None:
    verdicts = set()
    for count in range(1, 5):
        for fields in itertools.product(FIELDS, repeat=count):
            text = "-".join(fields)
            verdict = is_event(text)
            assert (re.search(EVENT_TEXT_PATTERN, text) is not None) is verdict, text
            verdicts.add((count, verdict))
    # Of all lengths something is refused, and from three fields on something is accepted.
    assert verdicts == {(1, False), (2, False), (3, False), (3, True), (4, False), (4, True)}


@given(
    st.text()
    | st.lists(st.sampled_from(FIELDS) | st.text(max_size=3), max_size=8).map("-".join)
    | st.builds("done-{}-{}".format, st.sampled_from(list(TYPES)), st.text("self12-\n*a"))
)
def test_schema_and_trigger_agree_on_any_text(text: str) -> None:
    assert (re.search(EVENT_TEXT_PATTERN, text) is not None) is is_event(text)


@pytest.mark.parametrize("text", ["-" * 500_000, "a" * 500_000, "a-work-" + "1" * 500_000 + "x"])
def test_long_texts_are_judged_in_linear_time(text: str) -> None:
    # Backtracking over these would outlast the test's time limit by far.
    assert not is_event(text)
    assert not re.search(EVENT_TEXT_PATTERN, text)


# Requests ----------------------------------------------------------------------------------------

JUNK: list[Any] = [
    *(None, True, False, 0, 1, -1, 7.0, -0.0, 1.5, 1e300, 2**63 - 1, 2**63, float(2**63), 10**30),
    *(
        "",
        "-",
        "self",
        "job",
        "work",
        "2.0",
        "lookup",
        "nothing",
        "done-job-self",
        "done-work-self",
    ),
    *([], [1], ["done-job-self"], {}, {"id": 1}, {"name": "a", "type": "job", "job": {}}),
]
KEYS = [
    *("owners", "pending", "path", "trigger", "missing"),
    *("since", "heartbeat", "instance", "sequence"),
    *("event", "owner", "occurred", "code", "limit", "id", "label", "pid", "pgrp", "name", "type"),
    *("extra", "job", "params", "method", "jsonrpc", "ocurred", ""),
]
SECONDS = [0.1, 1, 2.5, 3600, 3600.0]
TEXTS = ["done-job-self", "failed-work-self-7", "a-work-my-label", "done-work-self", "x-Job-1", "a"]


class Requests:
    """Makes requests, good ones and damaged ones, from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def some(self, **fields: Any) -> dict[str, Any]:
        return {name: value for name, value in fields.items() if self.random.random() < 0.5}

    def number(self) -> Any:
        return self.random.choice((0, 1, 1234, 1.0, 2**63 - 1, None))

    def job(self) -> Any:
        label = self.random.choice(("render", "", None, "my-label", "self"))
        return self.some(id=self.number(), label=label, pid=self.number(), pgrp=self.number())

    def event(self) -> Any:
        if self.random.random() < 0.5:
            return self.random.choice(TEXTS[:3])
        kind = self.random.choice(list(TYPES))
        event = {"name": self.random.choice(("done", "a b", "*")), "type": kind, "job": self.job()}
        if TYPES[kind].extra or self.random.random() < 0.3:
            event["extra"] = self.random.choice(("7", "1-10"))
        return event

    def pending(self) -> list[Any]:
        entry = {"path": "/d/a.py", "trigger": "a-job-1 && b-job-1", "missing": "a-job-1"}
        return [dict(entry) for _ in range(self.random.randrange(3))]

    def owners(self) -> list[Any]:
        count = self.random.randrange(3)
        return [{**self.job(), **self.some(pending=self.pending())} for _ in range(count)]

    def good(self) -> dict[str, Any]:
        """A request which is good, but for what the rules between members have to say."""
        method = self.random.choice([*METHODS, *["lookup"] * 3, "explain", "subscribe"])
        call: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
        call |= self.some(id=self.random.choice((0, "x", None, 1.5, 10**25)))
        if method in ("lookup", "explain"):
            if self.random.random() < 0.1:
                return {**call, "params": [self.event()]}
            occurred = [self.event() for _ in range(self.random.randrange(3))]
            rest = self.some(owner=self.job(), occurred=occurred, code=True)
            if self.random.random() < 0.3:
                rest |= self.some(pending=self.pending())
            if self.random.random() < 0.3:
                rest |= self.some(owners=self.owners())
            return {**call, "params": {"event": self.event(), **rest}}
        params = {
            "list": self.some(code=False),
            "history": self.some(limit=5),
            "subscribe": self.some(since=self.since(), heartbeat=self.random.choice(SECONDS)),
        }.get(method, {})
        return call | self.some(params=params)

    def since(self) -> dict[str, Any]:
        return {"instance": self.random.choice(("", "9f")), "sequence": self.random.choice((0, 7))}

    def damaged(self) -> dict[str, Any]:
        call: dict[str, Any] = json.loads(json.dumps(self.good()))
        for _ in range(self.random.choice((1, 1, 1, 2))):
            self.damage(call)
        return call

    def damage(self, call: dict[str, Any]) -> None:
        parts = [call, *_containers(call)]
        # Deep parts are rarer but matter as much: prefer them.
        part = self.random.choice(parts[len(parts) // 2 :] + parts)
        keys = list(range(len(part)) if isinstance(part, list) else part)
        if not keys or self.random.random() < 0.15:
            if isinstance(part, list):
                part.append(self.junk())
            else:
                part[self.random.choice(KEYS)] = self.junk()
            return
        key = self.random.choice(keys)
        if self.random.random() < 0.3:
            value = part.pop(key)
            if isinstance(part, dict) and self.random.random() < 0.3:
                part[self.random.choice(KEYS)] = value
        else:
            part[key] = self.junk()

    def junk(self) -> Any:
        one = self.random.choice((*JUNK, *TEXTS))
        return json.loads(json.dumps(one))


def _containers(value: Any) -> list[Any]:
    inner = list(value.values()) if isinstance(value, dict) else value
    found = [part for part in inner if isinstance(part, dict | list)]
    return [*found, *(deeper for part in found for deeper in _containers(part))]


def agent_accepts(message: object) -> bool:
    """Whether the agent would carry a message out: types first, then the texts of its events."""
    if isinstance(message, jsonrpc.Refusal | jsonrpc.Batch):
        return False
    params = getattr(message, "params", None)
    if isinstance(params, messages.ExplainParams):
        events = (params.event, *(params.occurred or ()))
        return all(is_event(e) for e in events if isinstance(e, str))
    return True


def check_agreement(call: Any) -> bool:
    text = json.dumps(call)
    lawful = bool(REQUEST.is_valid(call))
    message = jsonrpc.read(text.encode())
    assert agent_accepts(message) is lawful, text
    if isinstance(call, dict):
        # A member that nobody knows sends it the slow way, with the same outcome.
        slowly = jsonrpc.read(json.dumps({**call, "": 0}).encode())
        assert slowly == message, text
    return lawful


# In parts, so that processes can share the work.
@pytest.mark.parametrize("seed", range(2))
def test_agent_and_schemas_accept_and_refuse_the_same(seed: int) -> None:
    requests = Requests(seed)
    verdicts = [check_agreement(requests.good()) for _ in range(500)]
    assert sum(verdicts) > 330
    verdicts = [check_agreement(requests.damaged()) for _ in range(1_300)]
    assert 130 < sum(verdicts) < 1_170


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text() | st.sampled_from(TEXTS) | st.sampled_from(JUNK),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=2), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("params", [{}, {"params": []}, {"params": {}}, {"params": [1]}])
def test_agent_and_schemas_agree_on_empty_parameters(method: str, params: dict[str, Any]) -> None:
    check_agreement({"jsonrpc": "2.0", "method": method, **params})


@given(
    VALUES
    | st.fixed_dictionaries(
        {"jsonrpc": st.just("2.0"), "method": st.sampled_from(list(METHODS))},
        optional={"id": VALUES, "params": VALUES},
    )
    | st.builds(
        lambda event, rest: {
            "jsonrpc": "2.0", "id": 1, "method": "lookup", "params": {**rest, "event": event}
        },
        VALUES | st.sampled_from(TEXTS[:3]),
        st.dictionaries(
            st.sampled_from(["owner", "owners", "occurred", "pending", "code"]), VALUES
        ),
    )
    | st.builds(
        lambda params: {"jsonrpc": "2.0", "id": 1, "method": "subscribe", "params": params},
        st.fixed_dictionaries(
            {},
            optional={
                "heartbeat": VALUES | st.floats(-1, 4000) | st.integers(-1, 4000),
                "since": VALUES | st.fixed_dictionaries(
                    {"instance": VALUES | st.text(), "sequence": VALUES | st.integers()},
                    optional={"time": VALUES},
                ),
            },
        ),
    )
)  # fmt: skip
def test_agent_and_schemas_agree_on_any_value(call: Any) -> None:
    if not isinstance(call, list):
        check_agreement(call)


# Results and records -----------------------------------------------------------------------------

SHA = "sha256:" + "0" * 64
CALLBACK = {
    "file": "a.py",
    "path": "/cb/a.py",
    "directory": "/cb",
    "language": "python",
    "trigger": "done-job-self",
    "line": 1,
    "digest": SHA,
    "enabled": True,
}
RECORD = {
    "time": "2024-02-29T23:59:59.001Z",
    "instance": "0123456789abcdef",
    "sequence": 1,
    "event": "held",
    "generation": 3,
    "digest": SHA,
    "callbacks": 1,
    "duration_ms": 1.5,
    "causes": [{"path": "/cb/callbacks.conf", "change": "modified"}],
    "changes": [
        {
            "change": "added",
            "path": "/cb/a.py",
            "trigger": "done-job-self",
            "line": 1,
            "digest": SHA,
        }
    ],
    "held": [{"directory": "/cb", "reason": "fault"}],
    "newly_held": [],
    "restored": [],
    "conf_diff": [],
    "diagnostics": [
        {
            "severity": "error",
            "code": "x",
            "path": "/cb",
            "line": None,
            "column": None,
            "message": "m",
        }
    ],
}
INDEX = {"generation": 1, "digest": SHA}
SUBSCRIBED = {**INDEX, "instance": "0123456789abcdef", "sequence": 0}
STATUS = {
    "version": "1",
    "pid": 1,
    "uptime": 0.5,
    "instance": "0123456789abcdef",
    "sequence": 1,
    "state": "ok",
    **INDEX,
    "callbacks": 0,
    "disabled": 0,
    "warnings": 3,
    "last_change": 0.25,
    "directories": [{"path": "/cb", "callbacks": 0, "held": None, "watch": "scan", "digest": SHA}],
    "settings": {"pipe": {"value": "/p", "source": "default"}},
    "last_reload": summary(RECORD),
    "clients": 1,
    "lookups": {"total": 7, "per_second": 0.5},
    "notes": ["n"],
}
GOOD: list[tuple[type[Struct], Any]] = [
    (Callback, CALLBACK),
    (Callback, {**CALLBACK, "code": ""}),
    (Callback, {**CALLBACK, "code_base64": "AA=="}),
    (Record, RECORD),
    (HistoryResult, {"records": [RECORD, RECORD]}),
    (LookupResult, {**INDEX, "callbacks": [CALLBACK], "partial": [{**CALLBACK, "missing": "x"}]}),
    (
        LookupResult,
        {
            **INDEX,
            "callbacks": [CALLBACK],
            "owners": [{"fires": [0], "partial": [{"callback": 0, "missing": "x"}]}],
        },
    ),
    (LookupResult, {**INDEX, "callbacks": [], "partial": [], "held": ["/cb"]}),
    (ListResult, {**INDEX, "callbacks": [], "held": ["/cb", "/other"]}),
    (ExplainResult, {**INDEX, "callbacks": [{**CALLBACK, "verdict": "no", "reason": "r"}]}),
    (ListResult, {**INDEX, "callbacks": [CALLBACK]}),
    (StatusResult, STATUS),
    (SubscribeResult, SUBSCRIBED),
    (SubscribeResult, {**SUBSCRIBED, "missed": None}),
    (SubscribeResult, {**SUBSCRIBED, "missed": [RECORD, RECORD]}),
    (messages.Heartbeat, INDEX),
    (messages.EmptyResult, {}),
]


def decodes(kind: type[Struct], value: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


@pytest.mark.parametrize(("kind", "value"), GOOD)
def test_results_and_records_are_accepted(kind: type[Struct], value: Any) -> None:
    check(kind, value)


@pytest.mark.parametrize(("kind", "value"), GOOD)
def test_each_member_is_required_and_no_other_is_known(kind: type[Struct], value: Any) -> None:
    valid = validator(kind.__name__).is_valid
    for member in value.keys() - {"code", "code_base64", "held", "missed"}:
        # No member of any result may hold a list in a list.
        for wrong in ({k: v for k, v in value.items() if k != member}, {**value, member: [[]]}):
            assert not valid(wrong), member
            assert not decodes(kind, wrong), member
    assert not valid({**value, "surprise": 1})
    assert not decodes(kind, {**value, "surprise": 1})


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Callback, {**CALLBACK, "code": "", "code_base64": ""}),
        (Callback, {**CALLBACK, "missing": "x"}),
        (Callback, {**CALLBACK, "digest": SHA + "\n"}),
        (Callback, {**CALLBACK, "language": "ruby"}),
        (LookupResult, {**INDEX, "callbacks": [], "partial": [CALLBACK]}),
        (ExplainResult, {**INDEX, "callbacks": [CALLBACK]}),
        (Record, {**RECORD, "time": "2024-02-29T23:59:59Z"}),
        (Record, {**RECORD, "event": "changed"}),
        (Record, {**RECORD, "diagnostics": [{"severity": "error"}]}),
        (StatusResult, {**STATUS, "settings": {"pipe": "/p"}}),
        (SubscribeResult, {**SUBSCRIBED, "missed": [{**RECORD, "sequence": "1"}]}),
    ],
)
def test_wrong_results_and_records_are_refused(kind: type[Struct], value: Any) -> None:
    assert not validator(kind.__name__).is_valid(value)


# The OpenRPC document ----------------------------------------------------------------------------


def test_the_openrpc_document_describes_every_method() -> None:
    document = json.loads(json.dumps(openrpc.document("1.2.3")))
    check_result("rpc.discover", document)
    assert document["info"]["version"] == "1.2.3"
    methods = {method["name"]: method for method in document["methods"]}
    assert list(methods) == list(METHODS)
    for name, row in METHODS.items():
        described = [param["name"] for param in methods[name]["params"]]
        assert described == list(row.params.__struct_fields__), name
        (example,) = methods[name]["examples"]
        assert {param["name"] for param in example["params"]} <= set(described)
    assert [p["name"] for p in methods["lookup"]["params"] if p["required"]] == ["event"]
    codes = {error["code"] for error in document["components"]["errors"].values()}
    assert codes == {-32700, -32600, -32601, -32602, -32603, -32000, -32001}


def test_the_references_of_the_openrpc_document_lead_somewhere_in_it() -> None:
    document = openrpc.document("1")
    references = set(_references(document))
    assert "#/components/schemas/EventObject" in references
    for reference in references:
        assert reference.startswith("#/")
        target: Any = document
        for step in reference.split("/")[1:]:
            target = target[step]


def test_the_schemas_in_the_openrpc_document_accept_what_the_agent_does() -> None:
    document = openrpc.document("1")
    requests = Requests(99)
    published = Draft202012Validator({**document, "$ref": "#/components/schemas/Request"})
    verdicts = []
    for _ in range(300):
        call = requests.damaged()
        verdicts.append(published.is_valid(call))
        assert verdicts[-1] is REQUEST.is_valid(call)
    assert set(verdicts) == {True, False}


def _parts(part: Any, at: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of a document, with its place."""
    if isinstance(part, dict):
        yield at, part
        for name, inner in part.items():
            yield from _parts(inner, f"{at}/{name}")
    elif isinstance(part, list):
        for number, inner in enumerate(part):
            yield from _parts(inner, f"{at}/{number}")


def test_the_document_has_nothing_that_public_tools_stumble_over() -> None:
    document = json.loads(msgspec.json.encode(openrpc.document("1")))
    assert document["openrpc"] == "1.2.6"
    for place, part in _parts(document):
        if place.endswith(("/properties", "/value")):
            continue
        assert not part.keys() & {"if", "then", "else", "unevaluatedProperties", "$defs"}, place
        assert "$ref" not in part or len(part) == 1, place
        assert part.get("type") != "array" or "items" in part, place
    assert not [name for name in document["components"]["schemas"] if "." in name]
    for method in document["methods"]:
        assert method["errors"], method["name"]
        assert method["examples"], method["name"]
