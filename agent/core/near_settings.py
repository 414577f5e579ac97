"""Lines of qb.conf that are meant to set a parameter and do not, so that Qube ignores them.

qb.conf has hundreds of parameters that are not the agent's, and the agent does not know them. So
only what looks like a parameter that it reads is reported.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from agent.core.correction import as_hint
from agent.core.diagnostic import Problem
from agent.core.quoting import shown
from agent.core.spelling import letters_away

#: How many letters of a parameter's name may be wrong. No other parameter of Qube is so near.
MAX_WRONG = 2

_SPACES = re.compile(r"[\s.-]")
#: What begins a comment in other files. In qb.conf it becomes a part of the parameter's name.
_COMMENT = re.compile(r"\s*(//+|--+|;+|%+)\s*")
#: What a shell has before a name that is set.
_COMMAND = re.compile(r"(?:export|set|setenv)\s+")
_FIRST_WORD = re.compile(r"\s*([^\s:=]+)\s*:?\s*(.*?)\s*")


def problem_of(line: str, wanted: Collection[str]) -> Problem | None:
    """What is wrong with a line that sets none of the `wanted` parameters; None if nothing is.

    Takes a line outside braces, with its comment. The problem has a column, no line.
    """
    text = line.partition("#")[0]
    name, equals, _ = text.partition("=")
    comment = _COMMENT.match(name)
    if equals and comment and _nearest(name[comment.end() :].strip(), wanted):
        message = f"`{comment[1]}` does not begin a comment; the line sets nothing"
        commented = as_hint(f"# {line[comment.end() :]}") or "begin the comment with #"
        return Problem("unknown-setting", message, commented, column=comment.start(1) + 1)
    if equals:
        return _misspelt(line, name.strip(), wanted)
    match = _FIRST_WORD.fullmatch(text)
    known = _nearest(match[1], wanted) if match else None
    if match is None or known is None:
        return None
    message = f"this line is ignored: there is no `=` after {shown(match[1])}"
    hint = None
    if match[2]:
        hint = as_hint(f"{known} = {match[2]}{line[len(text.rstrip()) :]}")
    hint = hint or "write = and the value after the name"
    return Problem(
        "unknown-setting", message, hint, column=match.start(1) + 1, length=len(match[1])
    )


def _misspelt(line: str, name: str, wanted: Collection[str]) -> Problem | None:
    known = _nearest(_COMMAND.sub("", name, count=1), wanted)
    if known is None or known == name:
        return None
    message = f"{shown(name)} is ignored: the parameter is {known}"
    hint = as_hint(line.replace(name, known, 1).strip()) or f"write {known}"
    if name.endswith("+"):
        message = f"`+=` is not an operator here: {known} is not set"
        hint = f"write {known} = with all of its values: they replace the default"
    return Problem("unknown-setting", message, hint, column=line.index(name) + 1, length=len(name))


def _nearest(name: str, wanted: Collection[str]) -> str | None:
    """The parameter that a name is, or is meant to be. Case, spaces and hyphens do not count."""
    if not name:
        return None
    normal = _SPACES.sub("_", name.strip('"').lower())
    return next((known for known in sorted(wanted) if letters_away(normal, known, MAX_WRONG)), None)
