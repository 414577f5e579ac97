r"""Finds a trigger that goes on in the next lines.

Other files continue a line after a `\`, after an operator, or inside a brace. In callbacks.conf
every line is one setting, so the lines that follow are errors, and the first one may load as half a
trigger.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from agent.core import file_names
from agent.core.conf import MAX_LINE
from agent.core.conf_lines import Examined, examine, is_correction
from agent.core.correction import as_hint
from agent.core.diagnostic import Problem, Severity
from agent.core.habits import CODE

#: The most lines that one trigger is looked for in.
MAX_LINES = 20

_UNFINISHED = ("\\", "&&", "||", "(", ",", "=", " and", " or", " AND", " OR")
_OPERATORS = ("&&", "||", ")", "}", "and ", "or ", "AND ", "OR ")
#: Codes that a line may have because it is not finished.
_CODES = frozenset(
    {"trigger-syntax", "brace-value", "unclosed-quote", "empty-trigger", "not-an-event", CODE}
)


class Continued(NamedTuple):
    """A trigger on several lines."""

    #: Of the first line.
    problems: tuple[Problem, ...]
    #: Of each further line.
    others: tuple[Problem, ...]


def continued(text: Sequence[str], index: int, first: Examined) -> Continued | None:
    """The trigger that begins on the line at `index` of a file, if the next lines continue it.

    `first` is what that line says alone.
    """
    joined = text[index].partition("#")[0].rstrip()
    others: list[Problem] = []
    for line in _without_equals(text, index):
        part = line.partition("#")[0].strip()
        if not (_is_unfinished(joined) or part.startswith(_OPERATORS)):
            break
        if joined.endswith("=") and joined.count("=") > 1:
            # So mail programs divide a long line.
            joined = joined[:-1] + part
        else:
            joined = f"{joined.rstrip(chr(92)).rstrip()} {part}"
        message = f"this line continues line {index + 1}; a trigger is on one line"
        column = line.index(part) + 1
        others.append(
            Problem("no-equals", message, file_names.REMOVE, None, column, None, len(part))
        )
    if not others:
        return None
    line = examine(joined).corrected
    hint = as_hint(line)
    problems = examine(line).problems
    if hint is None or any(p.severity is Severity.ERROR for p in problems):
        return None
    if problems:
        hint = "write all of it on this line"
    return Continued(_of_first_line(first, text[index], hint), tuple(others))


def _without_equals(text: Sequence[str], index: int) -> Iterator[str]:
    """The lines after the one at `index` that have text and no `=`."""
    for line in text[index + 1 : index + 1 + MAX_LINES]:
        part = line.partition("#")[0].strip()
        if len(line) > MAX_LINE or "=" in line or not part or file_names.in_conflict(part):
            return
        yield line


def _is_unfinished(line: str) -> bool:
    return (
        line.endswith(_UNFINISHED)
        or line.count("(") > line.count(")")
        or line.count("{") > line.count("}")
    )


def _of_first_line(first: Examined, line: str, hint: str) -> tuple[Problem, ...]:
    """The problems of the first line. The last one that its missing end may have caused says that
    the trigger goes on in the next line."""
    message = "this trigger goes on in the next line; a trigger is on one line"
    problems = [replace(p, hint=hint) if is_correction(p.hint) else p for p in first.problems]
    for at in range(len(problems) - 1, -1, -1):
        if problems[at].code in _CODES:
            problems[at] = replace(problems[at], message=message, hint=hint)
            return tuple(problems)
    end = len(line.partition("#")[0].rstrip())
    return (*problems, Problem(CODE, message, hint, None, end))
