"""Finds an existing file whose name looks like that of a missing one.

Names can look the same and differ in bytes: `ü` is one code point or two (macOS and some archives
write two). Others differ in case or in one letter. The diagnostic about a missing file
names such a file.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from itertools import islice

from agent.core.languages import EXTENSIONS, language_of
from agent.core.quoting import shorten, shown
from agent.core.spelling import one_letter_away

#: The most missing files of one directory for which a similar name is looked for.
MAX_SOUGHT = 20

_NUMBER = re.compile(r"[0-9]+")

#: Suffixes that people, or editors on other systems, append to the name of a text file.
_SUFFIXES = ("txt", "text", "bak", "old", "orig", "new", "off", "disabled", "save")


def similar(missing: Iterable[str], conf: str | None, names: Iterable[str]) -> dict[str, str]:
    """By missing name, the name most like it, for those of the first MAX_SOUGHT that have one.

    `names` are the names in the directory. `conf` is the name of the configuration file if it is
    missing, else None.
    """
    listed = [name for name in names if not name.startswith((".", "#")) and not name.endswith("~")]
    found: dict[str, str] = {}
    code = [name for name in listed if name.lower().endswith(tuple(EXTENSIONS))]
    for wanted in islice(missing, MAX_SOUGHT):
        # Names with other numbers are those of other files: `notify2.py` is not `notify1.py`.
        series = _NUMBER.sub("0", wanted)
        others = [n for n in code if _NUMBER.sub("0", n) != series] if "0" in series else code
        near = _with_suffix(wanted, listed) or nearest(wanted, others)
        if near is not None:
            found[wanted] = near
    if conf is not None:
        near = _with_suffix(conf, listed) or nearest(conf, listed)
        if near is not None:
            found[conf] = near
    return found


def _with_suffix(wanted: str, names: list[str]) -> str | None:
    """The first of the names that is the wanted one with a suffix."""
    longer = {f"{wanted}.{suffix}".lower() for suffix in _SUFFIXES}
    return next((name for name in names if name.lower() in longer), None)


def nearest(wanted: str, names: list[str]) -> str | None:
    """The name most like the wanted one: in another normal form, in another case, or one letter
    away. The first of several."""
    folded = _folded(wanted)
    best: tuple[int, str] | None = None
    for name in names:
        if name == wanted:
            continue
        if _normal(name) == _normal(wanted):
            return name
        if _folded(name) == folded:
            rank = 1
        elif one_letter_away(_folded(name), folded):
            rank = 2
        else:
            continue
        if best is None or rank < best[0]:
            best = rank, name
    return best[1] if best else None


def hint(wanted: str, near: str) -> str:
    """What to do about a missing name, given the name of a file that is there."""
    if looks_the_same(wanted, near):
        return (
            f"there is a file whose name looks the same but is written with other code points:"
            f" {shorten(ascii(near))} instead of {shorten(ascii(wanted))}; rename it"
        )
    if language_of(near) is None:
        return f"rename the file {shown(near)} to {shown(wanted)}"
    return f"did you mean {shown(near)}? Correct the name, or rename the file"


def looks_the_same(wanted: str, near: str) -> bool:
    """Whether two names differ in code points only, and not in what is seen."""
    return _normal(near) == _normal(wanted)


def _normal(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return _normal(name).casefold()
