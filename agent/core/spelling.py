"""Finds the known word that was probably meant by a misspelled one."""

from __future__ import annotations

from collections.abc import Iterable


def one_letter_away(word: str, known: str) -> bool:
    """Whether one letter added, removed or replaced, or two swapped, make `known` of `word`."""
    if word == known or abs(len(word) - len(known)) > 1:
        return False
    start = next((i for i, (a, b) in enumerate(zip(word, known, strict=False)) if a != b), None)
    if start is None:
        return True
    a, b = word[start:], known[start:]
    return a[1:] == b[1:] or a[1:] == b or a == b[1:] or (a[:2] == b[1::-1] and a[2:] == b[2:])


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The alphabetically first of the known words that is one letter away; None if none is."""
    return min((k for k in known if one_letter_away(word, k)), default=None)
