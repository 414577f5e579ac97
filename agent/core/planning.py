"""Makes the plan of a directory from its callbacks.conf.

Every line is read alone, except where a trigger goes on in the next lines by mistake.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

from agent.core import conf, conf_lines, continuation, file_names, trigger, unit, usual
from agent.core.diagnostic import (
    MAX_UNCAPPED,
    Diagnostic,
    Problem,
    Severity,
    capped,
)
from agent.core.quoting import shown
from agent.core.unit import Broken, Plan, Registration


def plan(
    data: bytes, path: str, before: Plan | None = None, max_callbacks: int = unit.MAX_CALLBACKS
) -> Plan:
    """What the bytes of a callbacks.conf say.

    Takes any bytes; raises nothing. `before` is an older plan of the file: its triggers are not
    parsed again.
    """
    if data and not data.strip(b"\0"):
        message = "this file holds nothing but NUL bytes"
        hint = "restore it from a copy: a power failure can leave such a file"
        return unit.unreadable(path, Problem("not-utf-8", message, hint, 1, 1))
    if conf.is_utf_16(data):
        message = "this file is UTF-16"
        return unit.unreadable(path, Problem("not-utf-8", message, "save it as UTF-8", 1, 1))
    text = conf.lines_of(data)
    if len(text) > unit.MAX_CONF_LINES:
        message = f"this file has {len(text)} lines; at most {unit.MAX_CONF_LINES} are read"
        hint = "split the callbacks over several directories"
        return unit.unreadable(path, Problem("too-many-lines", message, hint))
    found = _Planner(path, text, before)
    found.read()
    if len(found.registrations) > max_callbacks:
        count = len(found.registrations)
        message = f"this file has {count} callbacks; at most {max_callbacks} are read"
        hint = "split them over several directories"
        return unit.unreadable(path, Problem("too-many-callbacks", message, hint))
    return found.plan(data)


#: The longest name of a file that is taken without an examination, in characters. With any trigger
#: it makes a line of less than `conf.MAX_LINE`.
_MAX_NAME = 1000
assert conf.MAX_LINE - len(" = ") > _MAX_NAME + trigger.MAX_LENGTH


class _Planner:
    """Makes a plan, line by line."""

    def __init__(self, path: str, text: list[str], before: Plan | None) -> None:
        self._path = path
        self._text = text
        known = before.registrations if before is not None else ()
        warned = before.warned if before is not None else frozenset()
        #: By text as it is written in a line, triggers that have no problem.
        self._parsed = {
            r.text: r.trigger
            for r in known
            if r.text not in warned and "#" not in r.text and r.text[0] not in '"{'
        }
        self.registrations: list[Registration] = []
        #: The lines that name a file and have an error.
        self._broken: list[Broken] = []
        self._warned: set[str] = set()
        #: By file, the lines of its triggers.
        self._first: defaultdict[str, dict[str, int]] = defaultdict(dict)
        #: Names that can be those of files, without anything to find in them: each to itself, so
        #: that all lines share it.
        self._names = {r.file: r.file for r in known if _is_usual(r.file)}
        self._findings: list[Diagnostic] = []

    def read(self) -> None:
        """Take all lines.

        Nearly every line can be seen to have no problem: its file was named before, and its trigger
        was read before or is a usual one. Such a line is taken at once.
        """
        names, parsed = self._names, self._parsed
        parse, new = usual.parse, tuple.__new__
        firsts, add = self._first, self.registrations.append
        # Up to this line, all are part of an earlier one.
        until = 0
        pairs = pairwise([*self._text, ""])
        for number, (line, after) in enumerate(pairs, 1):
            if number <= until:
                continue
            written, _, value = line.partition(" = ")
            name = names.get(written)
            # A line without `=` may continue the one before it.
            if name is not None and ("=" in after or not after.partition("#")[0].strip()):
                tree = parsed.get(value) or parse(value)
                if tree is not None:
                    first = firsts[name].setdefault(value, number)
                    if first == number:
                        # As `Registration(...)` does, in half the time.
                        add(new(Registration, (name, tree, value, number, 1)))
                    else:
                        self._add(_duplicate_line(name, first, 1), number)
                    continue
            until = self._take(line, number)

    def _take(self, line: str, number: int) -> int:
        """Take any line. Returns the number of the last line that is part of it."""
        until = number
        examined = conf_lines.examine(line, number)
        setting, tree, problems = examined.setting, examined.tree, examined.problems
        whole = "=" in line and continuation.continued(self._text, number - 1, examined)
        if whole:
            problems = whole.problems
            until += len(whole.others)
            for other, problem in enumerate(whole.others, number + 1):
                self._add(problem, other)
        for problem in problems:
            self._add(problem, number)
        if setting is None:
            return until
        name, column = setting.name, setting.column
        if tree is None or any(p.severity is Severity.ERROR for p in problems):
            if file_names.bad_name(name, 0) is None:
                self._broken.append(Broken(name, number, column))
            return until
        if _is_usual(name):
            self._names.setdefault(name, name)
        # Triggers that were parsed before are found by their canonical text.
        text = str(tree)
        if problems:
            self._warned.add(text)
        self._register(name, column, tree, text, number)
        return until

    def _add(self, problem: Problem, number: int) -> None:
        if len(self._findings) > MAX_UNCAPPED:
            self._findings = capped(self._findings)
        self._findings.append(problem.at(self._path, number, problem.column))

    def _register(
        self, name: str, column: int, tree: trigger.Trigger, text: str, number: int
    ) -> None:
        earlier = self._first[name].setdefault(text, number)
        if earlier != number:
            self._add(_duplicate_line(name, earlier, column), number)
            return
        self.registrations.append(Registration(name, tree, text, number, column))

    def plan(self, data: bytes) -> Plan:
        """The plan, after all lines; `data` are the bytes of the file."""
        self._findings.sort(key=lambda f: (f.line or 0, f.column or 0))
        findings = tuple(capped(self._findings))
        return Plan(
            tuple(self.registrations),
            frozenset(self._warned),
            findings,
            data,
            tuple(self._broken),
        )


def _is_usual(name: str) -> bool:
    """Whether a line with this name and a usual trigger may be taken without an examination."""
    return len(name) <= _MAX_NAME and "\r" not in name


def _duplicate_line(file: str, earlier: int, column: int) -> Problem:
    message = f"line {earlier} has {shown(file)} with this trigger too; this line is ignored"
    return Problem("duplicate-line", message, "remove it", None, column)
