"""The JSON Schemas (2020-12) of requests, results and records: read, applied, and published.

The files beside this one are the law of the pipe. `METHOD.params` and `METHOD.result` are a
method's parameters and result, `request` a whole request, the others what these share. They
refer to each other by file name, so that any validator that knows the folder can use them.

A `description` says what the value ought to be, in words that can follow "expected": it is
what a client reads when his value is refused.
"""

import importlib.resources
import json
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator, ValidationError
    from referencing import Registry

#: Characters of a refused value that an error shows: enough to know it again, and a client
#: that sends a megabyte does not get it back.
FOUND_LENGTH = 80


@cache
def names() -> tuple[str, ...]:
    """Give the names of all schemas, sorted: `lookup.params`, `record`, ..."""
    folder = importlib.resources.files(__name__)
    files = (entry.name for entry in folder.iterdir())
    return tuple(sorted(name.removesuffix(".json") for name in files if name.endswith(".json")))


@cache
def schema(name: str) -> dict[str, Any]:
    """Give one schema as it is in its file. It is shared: do not change it."""
    text = importlib.resources.files(__name__).joinpath(f"{name}.json").read_text("utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


@cache
def _registry() -> "Registry[Any]":
    # Imported here: a client that makes no mistake never pays for jsonschema.
    from referencing import Registry, Resource

    return Registry().with_resources(
        (f"{name}.json", Resource.from_contents(schema(name))) for name in names()
    )


@cache
def validator(name: str) -> "Draft202012Validator":
    """Give the validator of one schema. All references are found in the package."""
    from jsonschema import Draft202012Validator

    return Draft202012Validator({"$ref": f"{name}.json"}, registry=_registry())


#: Whether `prepare` is done.
_prepared = False


def prepare() -> None:
    """Load all that `refusal` needs: half a second of work that no request should wait for.

    Meant for a thread.
    """
    global _prepared
    for name in names():
        if name.endswith(".params"):
            # Compiles the patterns, and finds what the schema refers to.
            refusal(name, {"event": {}, "occurred": [0]})
    _prepared = True


def prepared() -> bool:
    """Whether `refusal` can be called where nothing may wait for it."""
    return _prepared


def refusal(name: str, value: object) -> dict[str, str] | None:
    """Say why a schema refuses a value, or None where it does not.

    The answer has `pointer`, an RFC 6901 pointer from the value to what is wrong in it ("" is
    the value itself), `expected`, and mostly `found`, the beginning of its JSON.

    The syntax of an event's text is passed over: `agent.core.trigger` judges it, and can name the
    column. So None means that the value is well but, perhaps, for the text of an event.
    """
    text_of_an_event = schema("event")["$defs"]["text"]["pattern"]
    for error in validator(name).iter_errors(value):
        if error.validator != "pattern" or error.validator_value != text_of_an_event:
            return _explained(error)
    return None


def found(value: object) -> str:
    """Give a value's JSON, cut to `FOUND_LENGTH` characters."""
    # A string is cut before it is encoded, which may lengthen it six-fold.
    text = json.dumps(value[:FOUND_LENGTH] if isinstance(value, str) else value, ensure_ascii=False)
    longer = len(text) > FOUND_LENGTH or (isinstance(value, str) and len(value) > FOUND_LENGTH)
    return text[: FOUND_LENGTH - 3] + "..." if longer else text


def _explained(error: "ValidationError") -> dict[str, str]:
    path = list(error.absolute_path)
    rule: Any = error.schema
    instance: Any = error.instance
    known = rule.get("properties", {})
    if error.validator == "required":
        required: Any = error.validator_value
        missing = next(name for name in required if name not in instance)
        return {
            "pointer": _pointer(path),
            "expected": f"the member {missing}, {known[missing]['description']}",
        }
    if error.validator == "additionalProperties":
        unknown = next(name for name in instance if name not in known)
        expected = "no other members than " + ", ".join(known) if known else rule["description"]
        pointer = _pointer([*path, unknown])
        return {"pointer": pointer, "expected": expected, "found": found(unknown)}
    return {
        "pointer": _pointer(path),
        "expected": rule["description"],
        "found": found(instance),
    }


def _pointer(path: list[str | int]) -> str:
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)


#: Every method, and what it is for, in the order in which a newcomer wants to read of them.
SUMMARIES = {
    "lookup": "Which callbacks fire for an event, and which are waiting for more.",
    "explain": "Why each callback of the event's name and type fires, is partial, or does not.",
    "list": "Every callback that is served.",
    "status": "Health, directories, settings, and the last reload.",
    "reload": "Read everything again now. When it returns, every change made to the files before "
    "the call is served, or held with a finding.",
    "history": "The newest records, newest last.",
    "subscribe": "From now on send, on this connection, the notification `reload` with every "
    "record.",
    "unsubscribe": "Send no more of those notifications.",
    "rpc.discover": "This document.",
}

#: The errors of JSON-RPC 2.0 with the words that it has for them.
ERRORS = {
    -32700: "Parse error",
    -32600: "Invalid Request",
    -32601: "Method not found",
    -32602: "Invalid params",
    -32603: "Internal error",
}


@cache
def openrpc(version: str) -> dict[str, Any]:
    """Give the OpenRPC 1.3 document of the pipe, made of the schema files.

    `version` is the agent's. Rules between parameters have no place in a list of parameters:
    each method has the schema of all its parameters as `x-params` too. The document is shared:
    do not change it.

    Source: the OpenRPC specification 1.3.2, https://spec.open-rpc.org
    """
    return {
        "openrpc": "1.3.2",
        "info": {
            "title": "callback-agent",
            "version": version,
            "description": "JSON-RPC 2.0 on a Unix domain stream socket, one JSON value a line. "
            "Parameters by name; lookup and explain also take [event] by position.",
        },
        "methods": [_method(name, summary) for name, summary in SUMMARIES.items()],
        "x-notifications": [
            {"name": "reload", "summary": "Sent to subscribers.", "x-params": _component("record")}
        ],
        "components": {
            "schemas": {name: _relinked(schema(name), name) for name in names()},
            "errors": {str(code): {"code": code, "message": text} for code, text in ERRORS.items()},
        },
    }


def _method(name: str, summary: str) -> dict[str, Any]:
    by_name = _by_name(f"{name}.params")
    return {
        "name": name,
        "summary": summary,
        "paramStructure": "by-name",
        "params": [
            {
                "name": parameter,
                "required": parameter in by_name.get("required", ()),
                "schema": rule,
            }
            for parameter, rule in by_name.get("properties", {}).items()
        ],
        "x-params": _component(f"{name}.params"),
        "result": {"name": "result", "schema": _component(f"{name}.result")},
        "errors": [{"$ref": f"#/components/errors/{code}"} for code in ERRORS],
    }


def _by_name(name: str) -> dict[str, Any]:
    """Find, in a schema of parameters, the part that lists them by name."""
    part = schema(name)
    if "$ref" in part:
        return _by_name(part["$ref"].removesuffix(".json"))
    part = part.get("else", part)
    if "$ref" in part:
        part = schema(name)["$defs"][part["$ref"].rpartition("/")[2]]
    copy: dict[str, Any] = _relinked(part, name)
    return copy


def _component(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _relinked(part: Any, name: str) -> Any:
    """Copy a part of the schema `name` with its references turned to the document's components."""
    if isinstance(part, list):
        return [_relinked(item, name) for item in part]
    if not isinstance(part, dict):
        return part
    copy = {key: _relinked(value, name) for key, value in part.items() if key != "$schema"}
    if isinstance(part.get("$ref"), str):
        file, _, inside = part["$ref"].partition("#")
        copy["$ref"] = f"#/components/schemas/{file.removesuffix('.json') or name}{inside}"
    return copy
