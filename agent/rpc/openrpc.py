"""JSON Schemas (2020-12) and the OpenRPC document, derived from `agent.rpc.messages`.

The schemas accept and refuse exactly the requests that the decoder does; a property test holds
this. The agent itself uses them only to say where a refused request is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from agent.rpc.messages import (
    ERRORS,
    EVENT_TEXT_PATTERN,
    METHODS,
    NOTIFICATIONS,
    REFUSED,
    Method,
)

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator, ValidationError

#: Characters of a refused value that an error shows. A client that sends a megabyte does not get
#: it back.
FOUND_LENGTH = 80

#: The newest version that all public tools know: @open-rpc/test-coverage 2.2 refuses 1.3.
OPENRPC_VERSION = "1.2.6"

_REF = "#/components/schemas/{name}"


@cache
def schemas() -> dict[str, dict[str, Any]]:
    """The schema of every parameter, result and record type, by the type's name.

    They refer to each other as `#/components/schemas/NAME`. The result is shared: do not change it.
    """
    types = {method.params for method in METHODS.values()}
    types |= {method.result for method in METHODS.values()}
    types |= {params for _, params in NOTIFICATIONS.values()}
    ordered = sorted(types, key=lambda struct: struct.__name__)
    _, components = msgspec.json.schema_components(ordered, ref_template=_REF)
    known = dict(_structs(ordered))
    return {name: _finished(schema, known[name]) for name, schema in sorted(components.items())}


def _structs(types: Iterable[type[Struct]]) -> Iterator[tuple[str, type[Struct]]]:
    """Every struct that these types hold, by name."""
    pending = [msgspec.inspect.type_info(struct) for struct in types]
    while pending:
        info: Any = pending.pop()
        if isinstance(info, msgspec.inspect.StructType):
            yield info.cls.__name__, info.cls
            pending += [field.type for field in info.fields]
        for part in ("type", "item_type", "value_type"):
            inner = getattr(info, part, None)
            if isinstance(inner, msgspec.inspect.Type):
                pending.append(inner)
        pending += [*getattr(info, "types", ()), *getattr(info, "item_types", ())]


def _finished(schema: dict[str, Any], struct: type[Struct]) -> dict[str, Any]:
    """One schema with what only the class says: its description, and rules between members."""
    described = getattr(struct, "EXPECTED", None) or (struct.__doc__ or "").split("\n")[0]
    rule: dict[str, Any] = getattr(struct, "SCHEMA_RULE", {})
    finished: dict[str, Any] = _for_tools({**schema, "description": described, **rule})
    return finished


def _for_tools(part: Any) -> Any:
    """A schema without what tools stumble over: members beside `$ref`, and defaults that the
    schema itself does not accept."""
    if isinstance(part, list):
        return [_for_tools(item) for item in part]
    if not isinstance(part, dict):
        return part
    simple = {key: _for_tools(value) for key, value in part.items()}
    if "default" in simple and simple["default"] is None:
        del simple["default"]
    if "$ref" in simple and len(simple) > 1:
        reference = simple.pop("$ref")
        simple["allOf"] = [{"$ref": reference}]
    return simple


@cache
def params_schema(method: str) -> dict[str, Any]:
    """The schema of everything that may be `params` of a method: by name, or by position."""
    row = METHODS[method]
    name = row.params.__name__
    by_name = {"$ref": _REF.format(name=name)}
    if row.positional is None and schemas()[name]["required"]:
        return {"description": schemas()[name]["description"], "anyOf": [by_name]}
    by_position: dict[str, Any] = {
        "description": "no parameters by position, only by name",
        "type": "array",
        "items": {},
        "maxItems": 0,
    }
    if not row.params.__struct_fields__:
        by_position["description"] = schemas()[name]["description"]
    if row.positional is not None:
        by_position = {
            "description": f"the {row.positional} alone by position: [{row.positional}];"
            " the others by name",
            "type": "array",
            "items": schemas()[name]["properties"][row.positional],
            "minItems": 1,
            "maxItems": 1,
        }
    return {"description": schemas()[name]["description"], "anyOf": [by_name, by_position]}


@cache
def request_schema() -> dict[str, Any]:
    """The schema of a whole request or notification."""
    return {"anyOf": [_request_schema(name, method) for name, method in METHODS.items()]}


def _request_schema(name: str, method: Method) -> dict[str, Any]:
    required = ["jsonrpc", "method"]
    if schemas()[method.params.__name__]["required"]:
        required.append("params")
    return {
        "type": "object",
        "required": required,
        "properties": {
            "jsonrpc": {"type": "string", "const": "2.0"},
            "id": {"type": ["string", "number", "null"]},
            "method": {"type": "string", "const": name},
            "params": params_schema(name),
        },
    }


def validator(schema: Mapping[str, Any]) -> Draft202012Validator:
    """A validator of one schema, whose references are looked up among `schemas()`."""
    # Imported late: it takes 100 ms, and commands do not need it. See `build_validators`.
    from jsonschema import Draft202012Validator

    return Draft202012Validator({**schema, "components": {"schemas": schemas()}})


@cache
def _params_validator(method: str) -> Draft202012Validator:
    return validator(params_schema(method))


def build_validators() -> None:
    """Import jsonschema and build what `refusal` needs: some 100 ms that no request waits for."""
    for method in METHODS:
        refusal(method, 0)
        refusal(method, {"": 0})


def refusal(method: str, params: object) -> dict[str, str] | None:
    """Why a method's schema refuses these parameters, or None where it does not.

    The result has `pointer`, an RFC 6901 pointer from the parameters to what is wrong in them (""
    is the parameters themselves), `expected`, and mostly `found`, the beginning of its JSON.

    The syntax of an event's text is not checked: `agent.core.trigger` does that, and can name the
    column. So None means that all but the text of an event is valid.
    """
    for error in _params_validator(method).iter_errors(params):
        cause = _cause(error)
        explained = None if cause is None else _explained(*cause)
        _separate(error)
        if explained is not None:
            return explained
    return None


def _separate(error: ValidationError) -> None:
    """Take apart errors that hold each other, which the garbage collector alone would free."""
    for inner in error.context:
        _separate(inner)
        inner.parent = None


def _cause(error: ValidationError) -> tuple[ValidationError, str] | None:
    """The innermost error that says what is wrong, with the description of what was expected.

    None where the only thing wrong is the text of an event.
    """
    expected = error.schema.get("description", "") if isinstance(error.schema, dict) else ""
    if error.validator == "pattern" and error.validator_value == EVENT_TEXT_PATTERN:
        return None
    if error.validator != "anyOf" or not error.context:
        return error, expected
    # Of a union, the alternative of the value's own type was meant. Of a rule between members, the
    # last alternative says what is missing; those before it say when the rule does not apply.
    branches: dict[Any, list[ValidationError]] = {}
    for inner in error.context:
        branches.setdefault(inner.schema_path[0], []).append(inner)
    meant = [
        errors
        for errors in branches.values()
        if not any(e.validator == "type" and not e.relative_path for e in errors)
    ]
    if not meant:
        return error, expected
    # What is wrong with the value itself comes before what is wrong inside it.
    for inner in sorted(meant[-1], key=_is_inside):
        if (cause := _cause(inner)) is not None:
            found, inside = cause
            return found, inside or expected
    return None


def _is_inside(error: ValidationError) -> bool:
    return error.validator == "anyOf" or bool(error.relative_path)


def _explained(error: ValidationError, expected: str) -> dict[str, str]:
    path = list(error.absolute_path)
    rule: Any = error.schema
    instance: Any = error.instance
    known = rule.get("properties", {})
    if error.validator == "required":
        required: Any = error.validator_value
        missing = next(name for name in required if name not in instance)
        described = known.get(missing, {}).get("description", expected)
        return {"pointer": _pointer(path), "expected": f"the member {missing}, {described}"}
    if error.validator == "additionalProperties":
        unknown = next(name for name in instance if name not in known)
        if known:
            expected = "no other members than " + ", ".join(known)
        pointer = _pointer([*path, unknown])
        return {"pointer": pointer, "expected": expected, "found": cut_json(unknown)}
    return {"pointer": _pointer(path), "expected": expected, "found": cut_json(instance)}


def _pointer(path: Iterable[str | int]) -> str:
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)


def cut_json(value: object) -> str:
    """A value's JSON, cut to `FOUND_LENGTH` characters."""
    # A string is cut before it is encoded, which may make it six times as long.
    text = json.dumps(value[:FOUND_LENGTH] if isinstance(value, str) else value, ensure_ascii=False)
    longer = len(text) > FOUND_LENGTH or (isinstance(value, str) and len(value) > FOUND_LENGTH)
    return text[: FOUND_LENGTH - 3] + "..." if longer else text


@cache
def document(version: str) -> dict[str, Any]:
    """The OpenRPC document of the pipe. `version` is the agent's.

    Rules between parameters have no place in a list of parameters: each method has the schema of
    all its parameters as `x-params` too. The result is shared: do not change it.

    Source: the OpenRPC specification, https://spec.open-rpc.org
    """
    return {
        "openrpc": OPENRPC_VERSION,
        "info": {
            "title": "callback-agent",
            "version": version,
            "description": "JSON-RPC 2.0 on a Unix domain stream socket, one JSON value a line. "
            "Parameters by name; lookup and explain also take [event] by position.",
        },
        "methods": [_method(name, method) for name, method in METHODS.items()],
        "x-notifications": [
            {"name": name, "summary": summary, "x-params": _component(params)}
            for name, (summary, params) in NOTIFICATIONS.items()
        ],
        "components": {
            "schemas": {**schemas(), "Request": request_schema()},
            "errors": {
                str(code): {"code": code, "message": message} for code, message in ERRORS.items()
            },
        },
    }


def _method(name: str, method: Method) -> dict[str, Any]:
    params = schemas()[method.params.__name__]
    usual = [code for code in ERRORS if code != REFUSED]
    given, result = (msgspec.to_builtins(value) for value in method.example)
    return {
        "name": name,
        "summary": method.summary,
        "paramStructure": "by-name",
        "params": [
            {"name": parameter, "required": parameter in params["required"], "schema": rule}
            for parameter, rule in params["properties"].items()
        ],
        "x-params": params_schema(name),
        "result": {"name": "result", "schema": _component(method.result)},
        "errors": [{"$ref": f"#/components/errors/{code}"} for code in (*usual, *method.errors)],
        "examples": [
            {
                "name": name,
                "params": [{"name": key, "value": value} for key, value in given.items()],
                "result": {"name": "result", "value": result},
            }
        ],
    }


def _component(struct: type[Struct]) -> dict[str, str]:
    return {"$ref": _REF.format(name=struct.__name__)}
