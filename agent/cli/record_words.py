"""What a record of the pipe or of the log is about, for a person."""

from __future__ import annotations

from collections.abc import Iterator

from agent.cli.rendering import JsonObject
from agent.core import record_event


def word(record: JsonObject) -> str:
    """The event of a record or of its summary as it is shown."""
    changes = record.get("changes") or record.get("omitted", {}).get("changes")
    return record_event.word(record["event"], bool(changes), _held(record), touched(record))


def is_held_again(record: JsonObject) -> bool:
    """Whether a record is about a directory that was held already, and stays so."""
    return record_event.is_held_again(record["event"], _held(record), touched(record))


def _held(record: JsonObject) -> set[str]:
    return {held["directory"] for held in record.get("held", ())}


def touched(record: JsonObject) -> Iterator[str]:
    """The paths of the causes and of the new findings."""
    yield from (cause["path"] for cause in record.get("causes", ()))
    yield from (found["path"] for found in record.get("diagnostics", ()) if found.get("new"))
