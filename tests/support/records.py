"""What a record says, in short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from agent.rpc.messages import Record


def held(record: dict[str, Any]) -> list[tuple[str, str]]:
    """The directories that are held, by name, and why."""
    return [(Path(h["directory"]).name, h["reason"]) for h in record["held"]]


def changes(record: dict[str, Any]) -> list[tuple[str, str, str, int]]:
    """The changes: what, file, trigger, line."""
    return [(c["change"], Path(c["path"]).name, c["trigger"], c["line"]) for c in record["changes"]]


def found(record: dict[str, Any]) -> list[tuple[str, str]]:
    """The diagnostics: severity and code."""
    return [(d["severity"], d["code"]) for d in record["diagnostics"]]


def findings(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The diagnostics, new or not."""
    return [{k: v for k, v in d.items() if k != "new"} for d in record["diagnostics"]]


def as_json(**fields: Any) -> dict[str, Any]:
    """A record that says nothing but what is given, in its JSON form."""
    return {
        "time": "2026-11-27T03:12:09.123Z",
        "instance": "0123456789abcdef",
        "sequence": 5,
        "event": "reloaded",
        "generation": 7,
        "digest": "sha256:x",
        "callbacks": 41,
        "duration_ms": 3.4,
        "causes": [],
        "changes": [],
        "held": [],
        "newly_held": [],
        "restored": [],
        "diagnostics": [],
        "conf_diff": [],
        **fields,
    }


def record(**fields: Any) -> Record:
    """The same as an object. `fields` are in their JSON form."""
    return msgspec.convert(as_json(**fields), Record)
