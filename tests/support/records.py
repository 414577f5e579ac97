"""What a record says, in short."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def held(record: dict[str, Any]) -> list[tuple[str, str]]:
    """The directories that are held, by name, and why."""
    return [(Path(h["directory"]).name, h["reason"]) for h in record["held"]]


def changes(record: dict[str, Any]) -> list[tuple[str, str, str, int]]:
    """The changes: what, file, trigger, line."""
    return [(c["change"], Path(c["path"]).name, c["trigger"], c["line"]) for c in record["changes"]]


def found(record: dict[str, Any]) -> list[tuple[str, str]]:
    """The diagnostics: severity and code."""
    return [(d["severity"], d["code"]) for d in record["diagnostics"]]
