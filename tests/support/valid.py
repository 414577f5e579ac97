"""Whether what passes through the pipe is valid under the schemas derived from its types."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from jsonschema import Draft202012Validator

from agent.rpc import openrpc
from agent.rpc.messages import METHODS

#: Items of the lists of a result up to which it is held against its schema, at 0.1 ms an item.
MAX_ITEMS = 50


@cache
def validator(name: str) -> Draft202012Validator:
    """The validator of one type, by its name."""
    return openrpc.validator({"$ref": f"#/components/schemas/{name}"})


@cache
def request_validator() -> Draft202012Validator:
    """The validator of whole requests."""
    return openrpc.validator(openrpc.request_schema())


def check(kind: type[msgspec.Struct], value: Any) -> None:
    """Raise if a value is not valid under the schema of a type, or cannot be decoded as it."""
    validator(kind.__name__).validate(value)
    msgspec.convert(value, kind)


def check_result(method: str, result: Any) -> None:
    """Raise if a method's result is not valid."""
    kind = METHODS[method].result
    msgspec.convert(result, kind)
    if all(len(part) <= MAX_ITEMS for part in result.values() if isinstance(part, list)):
        validator(kind.__name__).validate(result)


def check_params(method: str, params: Any) -> None:
    """Raise if parameters are not valid for a method."""
    openrpc.validator(openrpc.params_schema(method)).validate(params)
