"""What one line of callbacks.conf says, every mistake in it, and the line to write instead.

A line is examined in rounds. Each finds mistakes, and corrects those that can be corrected
mechanically; the next round examines the corrected line, and finds what the first mistakes hid. So
all mistakes of a line are reported, and the corrected line is that of the last round.

Whether the line loads, and what it means, is decided by the line as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from agent.core import conf, file_names, habits, languages, look_alikes, trigger
from agent.core.conf import Setting
from agent.core.correction import WRITE, Corrected, as_hint, merged
from agent.core.diagnostic import Edit, Problem, ProblemError, Severity
from agent.core.quoting import shown
from agent.core.term_report import MAX_PROBLEMS
from agent.core.trigger import Trigger

#: The most rounds for one line. A line that a person wrote needs two or three.
MAX_ROUNDS = 6


@dataclass(slots=True)
class Examined:
    """One line. Columns of problems are those of the line; hints give the corrected line."""

    setting: Setting | None = None
    #: What the trigger means; None if the line has an error.
    tree: Trigger | None = None
    problems: tuple[Problem, ...] = ()
    #: The line with all that can be corrected mechanically; the line itself if nothing can be.
    corrected: str = ""
    #: The hint to write that line; None if there is nothing to correct, or if something would be
    #: wrong with that line too.
    written: str | None = None


def examine(line: str, number: int = 1, edits: Iterable[Edit] = ()) -> Examined:
    """Everything about a line of callbacks.conf. Takes any text without a line feed.

    `edits` are corrections of the line that the caller knows.
    """
    first = _round(line, number)
    found = Examined(first.setting, first.tree, (), line)
    if not first.problems and not edits:
        return found
    problems = first.problems
    known = {(p.code, p.column) for p in problems}
    text = line
    steps: list[Corrected] = []
    current, more = first, list(edits)
    for _ in range(MAX_ROUNDS):
        changes = merged([*more, *(e for p in current.problems for e in p.edits)])
        more = []
        step = Corrected(text, changes)
        if step.text == text:
            break
        steps.append(step)
        text = step.text
        current = _round(text, number)
        for problem in current.problems:
            moved = _moved(problem, steps)
            if (moved.code, moved.column) in known or len(problems) > MAX_PROBLEMS:
                continue
            if moved.code == habits.CODE and _is_inside(moved, problems):
                continue
            known.add((moved.code, moved.column))
            if first.loads and moved.severity is Severity.ERROR:
                # The line as it is loads.
                moved = replace(moved, code=habits.CODE)
            problems.append(moved)
    problems = _without_reverted(problems, first)
    found.corrected = text
    if text != line and not current.problems:
        found.written = as_hint(text)
    found.problems = tuple(
        replace(p, hint=(p.edits and found.written) or p.hint, edits=())
        for p in sorted(problems, key=lambda p: p.column or 0)
    )
    return found


def with_file(line: str, number: int, similar: Mapping[str, str]) -> str | None:
    """The hint to write the line with the name of a file that is there, all else corrected too.

    `similar` gives by the name of a missing file that of one that is there. None if there is none,
    and nothing else is known against the name.
    """
    try:
        setting = conf.read_line(line, number)
    except ProblemError:
        return None
    if setting is None:
        return None
    start = setting.column - 1
    # A name that is commented out in another way must not be corrected to that of a file.
    found = file_names.in_name(setting.name, start)
    near = similar.get(setting.name)
    edits: tuple[Edit, ...] = found[2] if found else ()
    same = near is not None and look_alikes.looks_the_same(setting.name, near)
    # A file that is in no language is to be renamed.
    if not found and near is not None and not same and languages.language_of(near):
        edits = (Edit(start, start + len(setting.name), near),)
    if not edits:
        return None
    return examine(line, number, edits).written


def is_correction(hint: str | None) -> bool:
    """Whether a hint gives the whole corrected line."""
    return hint is not None and hint.startswith(WRITE)


@dataclass(slots=True)
class _Round:
    """What one look at a line finds. Columns and edits are those of the line as it was then."""

    setting: Setting | None
    tree: Trigger | None
    problems: list[Problem]
    #: By the position in `problems` of one that has an error's code, the code and column of the
    #: error that it explains.
    explained: dict[int, tuple[str, int | None]]

    @property
    def loads(self) -> bool:
        """Whether the line has no error."""
        return not any(problem.severity is Severity.ERROR for problem in self.problems)


def _round(line: str, number: int) -> _Round:
    try:
        setting = conf.read_line(line, number)
    except ProblemError as error:
        problem = error.problem
        if problem.code == "no-equals":
            problem = file_names.without_equals(line)
        elif problem.code == "no-name" and (conflict := file_names.in_conflict(line.strip())):
            message, hint, _ = conflict
            column = len(line) - len(line.lstrip()) + 1
            length = len(line.strip())
            problem = Problem(problem.code, message, hint, None, column, None, length)
        if "\r" in line.strip("\r") and problem.code != "line-too-long":
            problem = _of_line_ends(line, problem)
        return _Round(None, None, [problem], {})
    if setting is None:
        ends = [_of_line_ends(line)] if _hides_a_line(line) else []
        return _Round(None, None, ends, {})
    start = setting.column - 1
    end = setting.value_column - 1 + len(setting.value)
    quoted = line[setting.value_column - 2] == '"'
    tree, problems = trigger.parse(setting.value)
    if tree is None and not setting.escapes:
        turned = file_names.swapped(setting.name, setting.value, start, end + quoted)
        if turned is not None:
            return _Round(setting, None, [turned], {})
    found = habits.in_value(setting.value, trigger.term_places, quoted)
    if cut := _cut_off(line, setting, quoted, problems):
        found = []
        errors = [p for p in problems if p.severity is Severity.ERROR]
        problems = [*(p for p in errors if (p.column or 0) < len(setting.value)), cut]
    problems, explained = _explained(problems, found)
    problems = [_in_line(problem, setting) for problem in problems]
    if "'" in setting.value and not any(p.code == "single-quote" for p in problems):
        problems.append(conf.single_quote(setting))
    if not found and "\r" in line:
        problems.append(_of_line_ends(line))
    bad = file_names.bad_name(setting.name, start)
    if bad is not None:
        problems.append(bad)
    explained = {i: (code, setting.column_of((at or 1) - 1)) for i, (code, at) in explained.items()}
    return _Round(setting, tree, problems, explained)


def _cut_off(line: str, setting: Setting, quoted: bool, problems: list[Problem]) -> Problem | None:
    """The problem of a trigger that ends where a `#` begins a comment, and that goes on in it.

    Its place is in the trigger. It has the code of the error that this causes.
    """
    value, start = setting.value, setting.value_column - 1
    end = start + len(value)
    rest = line[end:]
    if quoted or not rest.startswith("#"):
        return None
    error = next((p.code for p in problems if p.severity is Severity.ERROR), habits.CODE)
    edits: list[Edit] = []
    if value.endswith("&") and (entities := habits.numbered_entities(line)):
        message = "`&#` begins a character of HTML, but from `#` on it is a comment"
        hint = "write the character in its place"
        edits = [Edit(e.start - start, e.end - start, e.text) for e in entities]
    elif value.endswith("-"):
        message = f"from `#` on it is a comment, so the event ends in a hyphen: {shown(value)}"
        text = rest.split(None, 1)[0]
        if "&&" in rest or "||" in rest:
            text = rest.partition(" #")[0].rstrip()
        hint = "write what belongs there, and a space before the # of a comment"
        if text[1:].isdigit():
            hint = f"write {shown(value + text[1:])}, or the value in double quotes if # is in it"
        elif text.strip("#") and not set('"\\') & set(value + text):
            hint = "write it in double quotes"
            edits = [Edit(0, 0, '"'), Edit(len(value) + len(text), len(value) + len(text), '"')]
    else:
        return None
    return Problem(error, message, hint, None, len(value), None, 1, tuple(edits))


def _explained(
    problems: list[Problem], found: list[habits.Habit]
) -> tuple[list[Problem], dict[int, tuple[str, int | None]]]:
    """The problems of a trigger and its habits together: what a habit explains is left out.

    The first habit that explains an error has the error's code in its place.
    """
    if not found:
        return problems, {}
    result = [habit.problem for habit in found]
    explained: dict[int, tuple[str, int | None]] = {}
    at = 0
    for problem in sorted(problems, key=lambda p: p.column or 0):
        offset = (problem.column or 1) - 1
        while at < len(found) - 1 and found[at].end <= offset:
            at += 1
        habit = found[at]
        if not habit.start <= offset <= habit.end:
            result.append(problem)
        elif problem.severity is Severity.ERROR and at not in explained:
            explained[at] = problem.code, problem.column
            result[at] = replace(result[at], code=problem.code)
    return result, explained


def _without_reverted(problems: list[Problem], first: _Round) -> list[Problem]:
    """The problems, where a habit that did not explain an error after all has its own code again.

    A later round found that error at the same place.
    """
    later = {(p.code, p.column) for p in problems[len(first.problems) :]}
    for index, error in first.explained.items():
        if error in later:
            problems[index] = replace(problems[index], code=habits.CODE)
    return problems


def _in_line(problem: Problem, setting: Setting) -> Problem:
    """A problem of a trigger's text as one of the line."""
    assert problem.column is not None
    column = setting.column_of(problem.column - 1)
    length = setting.column_of(problem.column + problem.length - 2) - column + 1
    edits = tuple(setting.edit_in_line(edit) for edit in problem.edits)
    return replace(problem, column=column, length=max(length, 1), edits=edits)


def _moved(problem: Problem, steps: list[Corrected]) -> Problem:
    """A problem of a corrected line at its place in the line as it was."""
    assert problem.column is not None
    first = problem.column - 1
    last = first + problem.length - 1
    for step in reversed(steps):
        first, last = step.before(first), step.before(last)
    return replace(problem, column=first + 1, length=max(last - first + 1, 1))


def _is_inside(problem: Problem, others: list[Problem]) -> bool:
    """Whether one of the others is about the place of a problem."""
    at = problem.column or 0
    return any((o.column or 0) <= at < (o.column or 0) + o.length for o in others)


def _hides_a_line(line: str) -> bool:
    """Whether a comment hides settings, because CR alone ends its lines."""
    return any("=" in part.partition("#")[0] for part in line.split("\r")[1:])


def _of_line_ends(line: str, problem: Problem | None = None) -> Problem:
    """The problem of a line in which CR does not end lines. It has the code of `problem`."""
    found = habits.carriage_return(line).problem
    return found if problem is None else replace(found, code=problem.code)
