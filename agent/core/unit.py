"""A directory's callbacks as one unit, and the judgement whether an edit of it is accepted.

*An edit takes effect whole, or not at all; a fault of the system is not an edit.* One directory's
callbacks.conf with the files that it names is one unit: read as a whole, judged as a whole, served
as a whole. `judge` holds all of the rules:

- A unit with an error is *held*: what was accepted before stays served.
- Deleting is an edit, and an administrator's emergency stop. An implementation that was served and
  is gone takes its callbacks along at once, even while the unit is held. A callbacks.conf that is
  gone from a healthy directory is an error, and leaves nothing to serve.
- A directory that cannot be read is a fault: it is held, and what was served stays.
- At the first reading there is no `before`: the lines without an error are served, and the
  directory counts as held if there are others.
- Python that compiled in the accepted unit and does not now is an error. Python that never compiled
  may be meant for another Python: a warning.

A file counts as served before as long as the accepted unit has a line that names it, whether the
file was there or not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from agent.core import conf, trigger
from agent.core import languages as language
from agent.core.diagnostic import MORE_FINDINGS, Diagnostic, Severity, capped, shown

#: The most findings that are reported of one directory: a person corrects a few and looks again.
MAX_DIRECTORY_FINDINGS = 500

#: The file that makes a directory a callback directory.
CONF = "callbacks.conf"

#: The most bytes of a callbacks.conf: more than 100,000 lines of ordinary length.
MAX_CONF_BYTES = 16 << 20
#: The most lines of a callbacks.conf, comments included.
MAX_CONF_LINES = 200_000
#: The most callbacks in one directory; it bounds the time of one reload.
MAX_CALLBACKS = 100_000
#: The most bytes of one implementation. Callbacks are scripts; real ones have some kilobytes.
MAX_CODE_BYTES = 4 << 20

#: Why a directory is held.
FAULT = "fault"
ERROR = "error"
BEING_WRITTEN = "being-written"
UNSAFE = "unsafe"


class Registration(NamedTuple):
    """One line of a callbacks.conf: this file on this trigger."""

    file: str
    trigger: trigger.Trigger
    #: The trigger's canonical text. With the file's path it is the callback's identity.
    text: str
    line: int
    #: Of the file's name, in code points from 1.
    column: int = 1


@dataclass(frozen=True, slots=True)
class Implementation:
    """The bytes of an implementation file, of one reading."""

    code: bytes
    #: `sha256:` and the hex digest of `code`.
    digest: str
    #: What a check of Python said; None where there was none yet.
    verdict: language.Verdict | None = None

    @classmethod
    def of(cls, code: bytes) -> Implementation:
        return cls(code, "sha256:" + hashlib.sha256(code).hexdigest())


@dataclass(frozen=True, slots=True)
class Plan:
    """What a callbacks.conf says, before its files are looked at.

    `warned` has the canonical triggers that there is a finding about. `empty` says that the file
    has 0 bytes.
    """

    registrations: tuple[Registration, ...] = ()
    warned: frozenset[str] = frozenset()
    findings: tuple[Diagnostic, ...] = ()
    empty: bool = False

    def files(self) -> list[str]:
        """The files that it names, each once, in line order."""
        return list(dict.fromkeys(r.file for r in self.registrations))


@dataclass(frozen=True, slots=True)
class Absent:
    """There is no such file."""


@dataclass(frozen=True, slots=True)
class Unusable:
    """A file that is there and cannot be served: the finding's code, message and hint, and why
    its directory is then held."""

    code: str
    message: str
    hint: str | None = None
    held: str = ERROR


@dataclass(frozen=True, slots=True)
class Reading:
    """What stood in one directory at one instant.

    With a `fault` the rest means nothing. Without a `plan` there is no callbacks.conf, or, when
    `held` says why, none that can be read now. `files` has an entry for each file that the plan or
    the accepted unit names. `findings` are of the reading itself. `hints` name, by a file that is
    missing, one that is there and looks alike.
    """

    directory: str
    fault: Diagnostic | None = None
    plan: Plan | None = None
    files: Mapping[str, Implementation | Absent | Unusable] = field(default_factory=dict)
    held: str | None = None
    findings: tuple[Diagnostic, ...] = ()
    hints: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unit:
    """What was accepted of one directory, and is served.

    A registration whose file is not among the `implementations` is remembered and not served.
    `emptied` says that a callbacks.conf that served callbacks was replaced by one of 0 bytes.
    """

    registrations: tuple[Registration, ...] = ()
    implementations: Mapping[str, Implementation] = field(default_factory=dict)
    emptied: bool = False

    def served(self) -> tuple[Registration, ...]:
        """The registrations that have an implementation, in line order."""
        return tuple(r for r in self.registrations if r.file in self.implementations)

    def files(self) -> frozenset[str]:
        """The files that its registrations name, be they there or not."""
        return frozenset(r.file for r in self.registrations)

    def without(self, gone: Iterable[str]) -> Unit:
        """The unit after these files were removed: their lines stay, their code goes."""
        gone = set(gone) & self.implementations.keys()
        if not gone:
            return self
        kept = {f: i for f, i in self.implementations.items() if f not in gone}
        return replace(self, implementations=kept)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The unit that is served from now on, None if there never was one; why the directory is held,
    None if it is not; and every finding."""

    unit: Unit | None
    held: str | None
    findings: tuple[Diagnostic, ...]


def plan(data: bytes, path: str, before: Plan | None = None) -> Plan:
    """What the bytes of a callbacks.conf say. Triggers that `before` has are not parsed again."""
    settings, findings = conf.read_callbacks(data, path, MAX_CONF_LINES)
    known: dict[str, Registration] = {}
    if before is not None:
        known = {r.text: r for r in before.registrations if r.text not in before.warned}
    registrations: list[Registration] = []
    warned: set[str] = set()
    first: dict[tuple[str, str], int] = {}
    names = {name: _name_problem(name) for name in {s.name for s in settings}}
    for setting in settings:
        if len(findings) > conf.GATHERED:
            findings = capped(findings)
        wrong = names[setting.name]
        if wrong:
            where = (path, setting.line, setting.column)
            findings.append(Diagnostic(Severity.ERROR, wrong[0], *where, wrong[1], wrong[2]))
        same = known.get(setting.value)
        if same is not None:
            tree, text = same.trigger, same.text
        else:
            parsed, problems = trigger.parse(setting.value)
            for p in problems:
                column = setting.column_of(p.offset)
                findings.append(
                    Diagnostic(p.severity, p.code, path, setting.line, column, p.message, p.hint)
                )
            if parsed is None:
                continue
            tree, text = parsed, str(parsed)
            if problems:
                warned.add(text)
        if wrong:
            continue
        earlier = first.setdefault((setting.name, text), setting.line)
        if earlier != setting.line:
            findings.append(
                Diagnostic(
                    Severity.WARNING,
                    "duplicate-line",
                    path,
                    setting.line,
                    setting.column,
                    f"{shown(setting.name)} has this trigger on line {earlier} already;"
                    " this line is not looked at",
                    "remove it",
                )
            )
            continue
        place = (setting.line, setting.column)
        registrations.append(Registration(setting.name, tree, text, *place))
    if len(registrations) > MAX_CALLBACKS:
        message = f"this file has {len(registrations)} callbacks; at most {MAX_CALLBACKS} are read"
        hint = "split them over several directories"
        return unreadable(path, "too-many-callbacks", message, hint)
    findings.sort(key=lambda f: (f.line or 0, f.column or 0))
    return Plan(tuple(registrations), frozenset(warned), tuple(capped(findings)), not data)


def unreadable(path: str, code: str, message: str, hint: str) -> Plan:
    """The plan of a callbacks.conf that is not looked into, for the reason given."""
    return Plan(findings=(Diagnostic(Severity.ERROR, code, path, None, None, message, hint),))


def evaluate(reading: Reading, accepted: Unit | None) -> Evaluation:
    """Whether what stands in a directory is accepted, given what was accepted before.

    Judged again with the unit that it gives, a reading gives the same.
    """
    evaluation = _evaluate(reading, accepted)
    findings = capped(evaluation.findings)
    if len(findings) > MAX_DIRECTORY_FINDINGS:
        findings = capped(findings, MAX_DIRECTORY_FINDINGS, reading.directory)
    return replace(evaluation, findings=tuple(findings))


def _evaluate(reading: Reading, accepted: Unit | None) -> Evaluation:
    if reading.fault is not None:
        return Evaluation(accepted, FAULT, (reading.fault,))
    plan = reading.plan
    if plan is None and reading.held is None:
        return Evaluation(Unit(), None, (*reading.findings, _no_conf(reading)))
    findings = [*(plan.findings if plan else ()), *reading.findings]
    emptied = _is_emptied(plan, accepted)
    if emptied:
        findings.append(_empty_conf(reading.directory))
    held = reading.held or (ERROR if any(map(_is_error, findings)) else None)
    served_before = accepted.files() if accepted else frozenset()
    usable: dict[str, Implementation] = {}
    for registration in plan.registrations if plan else ():
        file = registration.file
        found = reading.files[file]
        if isinstance(found, Implementation):
            usable[file] = found
            continue
        hint: str | None
        if isinstance(found, Unusable):
            code, message, hint = found.code, found.message, found.hint
            held = FAULT if found.held == FAULT else held or found.held
        elif file in served_before:
            code, message, hint = _removed(file)
        else:
            code, message = "missing-file", f"there is no file {shown(file)} beside {CONF}"
            hint = "add the file, or correct the name"
            held = held or ERROR
        where = (f"{reading.directory}/{CONF}", registration.line, registration.column)
        hint = reading.hints.get(file, hint)
        findings.append(Diagnostic(Severity.ERROR, code, *where, message, hint))
    for file, implementation in usable.items():
        for finding in _check(reading.directory, file, implementation, accepted):
            held = held or (ERROR if _is_error(finding) else None)
            findings.append(finding)
    if held is not None and accepted is not None:
        gone = [f for f, found in reading.files.items() if isinstance(found, Absent)]
        told = set(plan.files()) if plan else set()
        for file in sorted((accepted.files() & set(gone)) - told):
            code, message, hint = _removed(file)
            path = f"{reading.directory}/{file}"
            findings.append(Diagnostic(Severity.ERROR, code, path, None, None, message, hint))
        return Evaluation(accepted.without(gone), held, tuple(findings))
    if plan is None:
        return Evaluation(None, held, tuple(findings))
    lines = plan.registrations
    if held is not None:
        lines = tuple(r for r in lines if r.file in usable)
    return Evaluation(Unit(lines, usable, emptied), held, tuple(findings))


def _is_emptied(plan: Plan | None, accepted: Unit | None) -> bool:
    """Whether a callbacks.conf has 0 bytes that served callbacks before."""
    if plan is None or not plan.empty or accepted is None:
        return False
    return accepted.emptied or bool(accepted.implementations)


def _removed(file: str) -> tuple[str, str, str]:
    message = f"{shown(file)} was removed, so its callbacks are off"
    return "removed", message, "put the file back, or remove its lines"


def _no_conf(reading: Reading) -> Diagnostic:
    directory = reading.directory
    message = f"there is no {CONF}, so nothing is served from {shown(directory)}"
    hint = "put it back; an empty one says that nothing is to be served"
    hint = reading.hints.get(CONF, hint)
    return Diagnostic(Severity.ERROR, "no-conf", f"{directory}/{CONF}", None, None, message, hint)


def _empty_conf(directory: str) -> Diagnostic:
    message = f"{CONF} has 0 bytes, so nothing is served from {shown(directory)} any more"
    hint = "write its lines again; if nothing is to be served, write a comment that says so"
    return Diagnostic(
        Severity.WARNING, "empty-conf", f"{directory}/{CONF}", None, None, message, hint
    )


def _is_error(finding: Diagnostic) -> bool:
    return finding.severity is Severity.ERROR


def _name_problem(name: str) -> tuple[str, str, str] | None:
    """Why a name is no callback's file: code, message, hint."""
    quoted = shown(name)
    if "/" in name or "\\" in name or name in (".", "..") or "\0" in name:
        hint = f"write the plain name of a file in the same directory as {CONF}"
        return "bad-name", f"{quoted} is no plain file name", hint
    if language.language_of(name) is None:
        hint = "a callback's file ends in .py, .pl or .qcb, in lower case"
        return "other-extension", f"{quoted} is in no language of callbacks", hint
    return None


def _check(
    directory: str, file: str, implementation: Implementation, accepted: Unit | None
) -> list[Diagnostic]:
    """What is wrong with the code of one file."""
    problems: list[language.Problem] = []
    kind = language.language_of(file)
    if kind == "qube":
        problems += language.check_qube(implementation.code)
    elif kind == "python" and implementation.verdict is not None:
        verdict = implementation.verdict
        problems += verdict.warnings
        if verdict.error is not None:
            before = accepted.implementations.get(file) if accepted else None
            if before is not None and before.verdict is not None and before.verdict.error is None:
                hint = "mend it; until then the last version that compiled is served"
                problems.append(replace(verdict.error, severity=Severity.ERROR, hint=hint))
            else:
                problems.append(verdict.error)
    path = f"{directory}/{file}"
    findings = [
        Diagnostic(p.severity, p.code, path, p.line, p.column, p.message, p.hint) for p in problems
    ]
    if implementation.verdict is not None and implementation.verdict.more:
        more = implementation.verdict.more
        rest = Diagnostic(Severity.WARNING, MORE_FINDINGS, path, None, None, "", None, more)
        findings.append(rest)
    return capped(findings)
