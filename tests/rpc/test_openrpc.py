"""The schemas are the law: types, trigger texts and schemas accept and refuse the same."""

import itertools
import json
import random
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from agent import schemas
from agent.core.event import TYPES, Event, EventError
from agent.rpc import jsonrpc as protocol
from support.agents import summary

TEXT = schemas.schema("event")["$defs"]["text"]["pattern"]
REQUEST = schemas.validator("request")


# The files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", schemas.names())
def test_every_file_is_a_schema_whose_references_lead_somewhere(name: str) -> None:
    schema = schemas.schema(name)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(schema)
    for reference in _references(schema):
        file, _, inside = reference.partition("#")
        target: Any = schemas.schema(file.removesuffix(".json")) if file else schema
        for step in inside.split("/")[1:]:
            target = target[step]


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if "$ref" in part:
            yield part["$ref"]
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            yield from _references(inner)


def test_every_method_has_its_schemas() -> None:
    methods = set(protocol.METHODS)
    assert set(schemas.SUMMARIES) == methods
    for kind in ("params", "result"):
        files = {name for name in schemas.names() if name.endswith(kind) and name != "no.params"}
        assert files == {f"{method}.{kind}" for method in methods}
    assert set(schemas.schema("request")["properties"]["method"]["enum"]) == methods
    rules = {
        rule["if"]["properties"]["method"]["const"]: rule["then"]["properties"]["params"]["$ref"]
        for rule in schemas.schema("request")["allOf"]
    }
    assert rules == {method: f"{method}.params.json" for method in methods}


def test_the_types_of_events_are_the_triggers() -> None:
    needing = {kind for kind, row in TYPES.items() if row.extra is not None}
    assert needing == protocol.NEEDS_EXTRA
    event = schemas.schema("event")["$defs"]["object"]
    assert event["properties"]["type"]["enum"] == list(TYPES)
    assert set(event["if"]["properties"]["type"]["enum"]) == needing


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
            assert (re.search(TEXT, text) is not None) is verdict, text
            verdicts.add((count, verdict))
    # Of all lengths something is refused, and from three fields on something is accepted.
    assert verdicts == {(1, False), (2, False), (3, False), (3, True), (4, False), (4, True)}


@given(
    st.text()
    | st.lists(st.sampled_from(FIELDS) | st.text(max_size=3), max_size=8).map("-".join)
    | st.builds("done-{}-{}".format, st.sampled_from(list(TYPES)), st.text("self12-\n*a"))
)
def test_schema_and_trigger_agree_on_any_text(text: str) -> None:
    assert (re.search(TEXT, text) is not None) is is_event(text)


@pytest.mark.parametrize("text", ["-" * 500_000, "a" * 500_000, "a-work-" + "1" * 500_000 + "x"])
def test_long_texts_are_judged_in_linear_time(text: str) -> None:
    # Backtracking over these would outlast the test's time limit by far.
    assert not is_event(text)
    assert not re.search(TEXT, text)


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
    *("event", "owner", "occurred", "code", "limit", "id", "label", "pid", "pgrp", "name", "type"),
    *("extra", "job", "params", "method", "jsonrpc", "ocurred", ""),
]
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

    def good(self) -> dict[str, Any]:
        """A request which is good, but for what the rule about owners has to say."""
        method = self.random.choice([*protocol.METHODS, "lookup", "lookup", "lookup", "explain"])
        call: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
        call |= self.some(id=self.random.choice((0, "x", None, 1.5, 10**25)))
        if method in ("lookup", "explain"):
            if self.random.random() < 0.1:
                return {**call, "params": [self.event()]}
            occurred = [self.event() for _ in range(self.random.randrange(3))]
            rest = self.some(owner=self.job(), occurred=occurred, code=True)
            return {**call, "params": {"event": self.event(), **rest}}
        params = {"list": self.some(code=False), "history": self.some(limit=5)}.get(method, {})
        return call | self.some(params=params)

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
    if isinstance(message, protocol.Refusal | protocol.Batch):
        return False
    params = getattr(message, "params", None)
    if isinstance(params, protocol.LookupParams):
        return all(is_event(e) for e in (params.event, *params.occurred) if isinstance(e, str))
    return True


def check_agreement(call: Any) -> bool:
    text = json.dumps(call)
    lawful = bool(REQUEST.is_valid(call))
    message = protocol.read(text.encode())
    assert agent_accepts(message) is lawful, text
    if isinstance(call, dict):
        # A member that nobody knows sends it the slow way, with the same outcome.
        slowly = protocol.read(json.dumps({**call, "": 0}).encode())
        assert slowly == message, text
    return lawful


# In four parts, so that processes can share the work.
@pytest.mark.parametrize("seed", range(4))
def test_agent_and_schemas_accept_and_refuse_the_same(seed: int) -> None:
    requests = Requests(seed)
    verdicts = [check_agreement(requests.good()) for _ in range(1_500)]
    assert sum(verdicts) > 1_000
    verdicts = [check_agreement(requests.damaged()) for _ in range(4_000)]
    assert 400 < sum(verdicts) < 3_600


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text() | st.sampled_from(TEXTS) | st.sampled_from(JUNK),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=2), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


@given(
    VALUES
    | st.fixed_dictionaries(
        {"jsonrpc": st.just("2.0"), "method": st.sampled_from(list(protocol.METHODS))},
        optional={"id": VALUES, "params": VALUES},
    )
    | st.builds(
        lambda event, rest: {
            "jsonrpc": "2.0", "id": 1, "method": "lookup", "params": {**rest, "event": event}
        },
        VALUES | st.sampled_from(TEXTS[:3]),
        st.dictionaries(st.sampled_from(["owner", "occurred", "code"]), VALUES),
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
STATUS = {
    "version": "1",
    "pid": 1,
    "uptime": 0.5,
    "state": "ok",
    **INDEX,
    "callbacks": 0,
    "directories": [{"path": "/cb", "callbacks": 0, "held": None, "watch": "scan", "digest": SHA}],
    "settings": {"pipe": {"value": "/p", "source": "default"}},
    "last_reload": summary(RECORD),
}
GOOD: list[tuple[str, Any]] = [
    ("callback", CALLBACK),
    ("callback", {**CALLBACK, "code": ""}),
    ("callback", {**CALLBACK, "code_base64": "AA=="}),
    ("record", RECORD),
    ("reload.result", RECORD),
    ("history.result", {"records": [RECORD, RECORD]}),
    (
        "lookup.result",
        {**INDEX, "callbacks": [CALLBACK], "partial": [{**CALLBACK, "missing": "x"}]},
    ),
    ("explain.result", {**INDEX, "callbacks": [{**CALLBACK, "verdict": "no", "reason": "r"}]}),
    ("list.result", {**INDEX, "callbacks": [CALLBACK]}),
    ("status.result", STATUS),
    ("status.result", {**STATUS, "clients": 1, "notes": ["n"]}),
    ("subscribe.result", INDEX),
    ("unsubscribe.result", {}),
]


@pytest.mark.parametrize(("name", "value"), GOOD)
def test_results_and_records_are_accepted(name: str, value: Any) -> None:
    schemas.validator(name).validate(value)


@pytest.mark.parametrize(("name", "value"), GOOD)
def test_each_member_is_needed_and_no_other_is_known(name: str, value: Any) -> None:
    validator = schemas.validator(name)
    optional = {"code", "code_base64", "clients", "notes"}
    for member in value.keys() - optional:
        assert not validator.is_valid({k: v for k, v in value.items() if k != member}), member
        # No member of any result may hold a list in a list.
        assert not validator.is_valid({**value, member: [[]]}), member
    assert not validator.is_valid({**value, "surprise": 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("callback", {**CALLBACK, "code": "", "code_base64": ""}),
        ("callback", {**CALLBACK, "missing": "x"}),
        ("callback", {**CALLBACK, "digest": SHA + "\n"}),
        ("callback", {**CALLBACK, "language": "ruby"}),
        ("lookup.result", {**INDEX, "callbacks": [], "partial": [CALLBACK]}),
        ("explain.result", {**INDEX, "callbacks": [CALLBACK]}),
        ("record", {**RECORD, "time": "2024-02-29T23:59:59Z"}),
        ("record", {**RECORD, "event": "changed"}),
        ("record", {**RECORD, "diagnostics": [{"severity": "error"}]}),
        ("status.result", {**STATUS, "settings": {"pipe": "/p"}}),
    ],
)
def test_wrong_results_and_records_are_refused(name: str, value: Any) -> None:
    assert not schemas.validator(name).is_valid(value)


# The OpenRPC document ----------------------------------------------------------------------------


def test_the_openrpc_document_tells_of_every_method() -> None:
    document = json.loads(json.dumps(protocol.openrpc("1.2.3")))
    schemas.validator("rpc.discover.result").validate(document)
    assert document["info"]["version"] == "1.2.3"
    methods = {method["name"]: method for method in document["methods"]}
    assert list(methods) == list(protocol.METHODS)
    for name, params in protocol.METHODS.items():
        told = [param["name"] for param in methods[name]["params"]]
        assert told == list(params.__struct_fields__), name
    assert [p["name"] for p in methods["lookup"]["params"] if p["required"]] == ["event"]
    codes = {error["code"] for error in document["components"]["errors"].values()}
    assert codes == {-32700, -32600, -32601, -32602, -32603}


def test_the_openrpc_documents_references_lead_somewhere_in_it() -> None:
    document = protocol.openrpc("1")
    references = set(_references(document))
    assert "#/components/schemas/event/$defs/object" in references
    for reference in references:
        assert reference.startswith("#/")
        target: Any = document
        for step in reference.split("/")[1:]:
            target = target[step]


def test_the_openrpc_documents_schemas_judge_as_the_files_do() -> None:
    document = protocol.openrpc("1")
    requests = Requests(99)
    judge = Draft202012Validator({**document, "$ref": "#/components/schemas/request"})
    verdicts = []
    for _ in range(300):
        call = requests.damaged()
        verdicts.append(judge.is_valid(call))
        assert verdicts[-1] is REQUEST.is_valid(call)
    assert set(verdicts) == {True, False}
