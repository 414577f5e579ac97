"""Makes the plan of a directory from its callbacks.conf.

Every line is read alone, except where a trigger goes on in the next lines by mistake.
"""

from __future__ import annotations

from agent.core import conf, continuation, habits, lines, names, trigger, unit
from agent.core.diagnostic import (
    MAX_UNCAPPED,
    Diagnostic,
    Problem,
    ProblemError,
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


class _Planner:
    """Makes a plan, line by line."""

    def __init__(self, path: str, text: list[str], before: Plan | None) -> None:
        self._path = path
        self._text = text
        #: By text, triggers that have no problem.
        self._parsed: dict[str, trigger.Trigger] = {}
        if before is not None:
            clean = (r for r in before.registrations if r.text not in before.warned)
            self._parsed = {r.text: r.trigger for r in clean}
        self.registrations: list[Registration] = []
        #: The lines that name a file and have an error.
        self._broken: list[Broken] = []
        self._warned: set[str] = set()
        #: By file and trigger, the line.
        self._first: dict[tuple[str, str], int] = {}
        #: Names that can be those of files.
        self._names = {r.file for r in before.registrations} if before else set()
        self._findings: list[Diagnostic] = []

    def read(self) -> None:
        """Take all lines."""
        # Up to this line, all are part of an earlier one.
        until = 0
        for number, line in enumerate(self._text, 1):
            if len(self._findings) > MAX_UNCAPPED:
                self._findings = capped(self._findings)
            if number <= until:
                continue
            setting, tree = self._glance(line, number)
            problems: tuple[Problem, ...] = ()
            if tree is None:
                examined = lines.examine(line, number)
                setting, tree, problems = examined.setting, examined.tree, examined.problems
                whole = "=" in line and continuation.continued(self._text, number - 1, examined)
                if whole:
                    problems = whole.problems
                    until = number + len(whole.others)
                    for other, problem in enumerate(whole.others, number + 1):
                        self._add(problem, other)
            for problem in problems:
                self._add(problem, number)
            if setting is not None:
                self._register(setting, tree, problems, number)

    def _add(self, problem: Problem, number: int) -> None:
        self._findings.append(problem.at(self._path, number, problem.column))

    def _register(
        self,
        setting: conf.Setting,
        tree: trigger.Trigger | None,
        problems: tuple[Problem, ...],
        number: int,
    ) -> None:
        name, column = setting.name, setting.column
        if tree is None or (problems and any(p.severity is Severity.ERROR for p in problems)):
            if names.bad_name(name, 0) is None:
                self._broken.append(Broken(name, number, column))
            return
        self._names.add(name)
        # Triggers that were parsed before are found by their canonical text.
        text = setting.value if setting.value in self._parsed else str(tree)
        if problems:
            self._warned.add(text)
        earlier = self._first.setdefault((name, text), number)
        if earlier != number:
            duplicate = _duplicate_line(name, earlier)
            self._findings.append(duplicate.at(self._path, number, column))
            return
        self.registrations.append(Registration(name, tree, text, number, column))

    def _glance(self, line: str, number: int) -> tuple[conf.Setting | None, trigger.Trigger | None]:
        """The setting and the trigger of a line that has no problem, where that is soon seen: the
        file was named before, and the trigger was read before or is plain."""
        following = self._text[number] if number < len(self._text) else ""
        if "\r" in line or ("=" not in following and following.partition("#")[0].strip()):
            return None, None
        name, equals, value = line.partition(" = ")
        if equals and name in self._names and "#" not in value and value[:1] not in '"{':
            # Nearly every line. A name holds neither `=` nor `#`.
            tree = self._known(value) if len(line) <= conf.MAX_LINE else None
            if tree is not None:
                return conf.Setting(name, value, number, 1, len(name) + 4), tree
        try:
            setting = conf.registration(line, number)
        except ProblemError:
            return None, None
        if setting is None or setting.name not in self._names:
            return None, None
        return setting, self._known(setting.value)

    def _known(self, value: str) -> trigger.Trigger | None:
        """The trigger of a text that has no problem, where that is soon seen."""
        tree = self._parsed.get(value)
        if tree is None and habits.is_plain(value):
            tree, problems = trigger.parse(value)
            if problems:
                return None
        return tree

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


def _duplicate_line(file: str, earlier: int) -> Problem:
    message = f"line {earlier} has {shown(file)} with this trigger too; this line is ignored"
    return Problem("duplicate-line", message, "remove it")
