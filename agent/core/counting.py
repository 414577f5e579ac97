"""Numbers with their nouns."""

from __future__ import annotations


def count(number: int, one: str, many: str | None = None) -> str:
    """`1 callback`, `2 callbacks`."""
    return f"{number} {one if number == 1 else many or one + 's'}"
