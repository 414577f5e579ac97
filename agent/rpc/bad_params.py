"""Says what is wrong with parameters that the types refuse.

The validator of the JSON Schema knows where and why. It takes some 100 us for an item, the types
less than 1, and a request may hold tens of thousands. So the validator gets one item of each list.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from agent.rpc import openrpc
from agent.rpc.messages import MAX_OWNERS, EventObject, Owner, Pending

#: The most parameters by position that the validator gets. A method takes at most one. The message
#: shows FOUND_LENGTH characters of them, and each one takes at least 3, with its comma and space.
MAX_POSITIONAL: Final = openrpc.FOUND_LENGTH // 3 + 1


def explain(method: str, params: object) -> dict[str, str] | None:
    """Where and why these parameters are refused, as `openrpc.refusal` says it; None where the
    schema accepts them."""
    if isinstance(params, list):
        return openrpc.refusal(method, params[:MAX_POSITIONAL])
    if not isinstance(params, dict):
        return openrpc.refusal(method, params)
    if _count(params.get("owners")) > MAX_OWNERS:
        expected = f"at most {MAX_OWNERS} owners in one request"
        return {"pointer": "/owners", "expected": expected, "found": str(len(params["owners"]))}
    params, places = _first_bad_items(params)
    data = openrpc.refusal(method, params)
    if data is None:
        return None
    for short, long in places:
        if data["pointer"].startswith(short):
            data["pointer"] = long + data["pointer"].removeprefix(short)
    return data


def whole_numbers(value: Any) -> Any:
    """Convert every 12.0 to 12: JSON does not tell them apart. `MAX_DEPTH` bounds the recursion."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: whole_numbers(item) for name, item in value.items()}
    if isinstance(value, list):
        return [whole_numbers(item) for item in value]
    return value


def _count(value: object) -> int:
    return len(value) if isinstance(value, list) else 0


def _first_bad_items(params: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Parameters with one item of each list: the first that is bad.

    Where all are good, a rule between members is broken: then the first that such a rule is about.
    Also returns, for each item that was kept, the pointer to its new place and to its old one, the
    deepest first.
    """
    short = dict(params)
    places = []
    for name, (kind, is_ruled) in _LISTS.items():
        items = params.get(name)
        if not isinstance(items, list) or not items:
            continue
        at = next((i for i, item in enumerate(items) if not _is_valid(item, kind)), None)
        if at is None:
            at = next((i for i, item in enumerate(items) if is_ruled(item)), 0)
        kept = items[at]
        if name == "owners" and isinstance(kept, dict):
            kept, inner = _first_bad_items(kept)
            places += [(f"/owners/0{new}", f"/owners/{at}{old}") for new, old in inner]
        short[name] = [kept]
        places.append((f"/{name}/0", f"/{name}/{at}"))
    return short, places


#: The members that may be long lists: the type of an item, and which items rules are about.
_LISTS: Final[dict[str, tuple[Any, Callable[[Any], bool]]]] = {
    "digests": (str, lambda _: False),
    "occurred": (str | EventObject, lambda event: isinstance(event, dict)),
    "owners": (Owner, lambda owner: "pending" in owner),
    "pending": (Pending, lambda _: False),
}


def _is_valid(value: object, kind: Any) -> bool:
    try:
        msgspec.convert(whole_numbers(value), kind)
    except ValueError:
        return False
    return True
