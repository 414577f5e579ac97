"""Finds the known word that is nearest to a misspelled one."""

from __future__ import annotations

from collections.abc import Iterable


def letters_away(word: str, known: str, most: int) -> bool:
    """Whether `known` is made of `word` by at most `most` steps: a letter added, removed or
    replaced, or two swapped. Takes time that grows with 4 to the power of `most`."""
    if abs(len(word) - len(known)) > most:
        return False
    start = next((i for i, (a, b) in enumerate(zip(word, known, strict=False)) if a != b), None)
    if start is None:
        return True
    if most == 0:
        return False
    a, b = word[start:], known[start:]
    rest = [(a[1:], b[1:]), (a[1:], b), (a, b[1:])]
    if a[:2] == b[1::-1]:
        rest.append((a[2:], b[2:]))
    return any(letters_away(x, y, most - 1) for x, y in rest)


def one_letter_away(word: str, known: str) -> bool:
    """Whether one letter added, removed or replaced, or two swapped, make `known` of `word`."""
    if abs(len(word) - len(known)) > 1:
        return False
    if len(known) > 2 and word[:1] != known[0] and word[-1:] != known[-1]:
        return False  # one change leaves one of the ends as it is
    return word != known and letters_away(word, known, 1)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The alphabetically first of the known words that is one letter away; None if none is."""
    return min((k for k in known if one_letter_away(word, k)), default=None)
