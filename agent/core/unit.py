"""A directory's callbacks as one unit, and the rules that decide whether an edit is accepted.

*An edit takes effect completely or not at all. A system fault is not an edit.* The callbacks.conf
of a directory and the files that it names are one unit: it is read, evaluated and served as a
whole. `evaluate` holds all of the rules:

- A unit with an error is *held*: what was accepted before stays served.
- A deletion is an edit, and an administrator's emergency stop. If an implementation that was served
  is removed, its callbacks are removed at once, even while the unit is held. If callbacks.conf is
  removed from a healthy directory, that is an error, and nothing is served from there.
- A directory that cannot be read is a fault: it is held, and what was served stays.
- At the first reading there is no accepted unit: the lines without an error are served, and the
  directory counts as held if there are others.
- Python that compiled in the accepted unit and does not compile now is an error. Python that never
  compiled may be meant for another Python: a warning.

A file counts as served before as long as the accepted unit has a line that names it, whether the
file existed or not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from agent.core import conf, conf_lines, file_names, languages, look_alikes, trigger
from agent.core.diagnostic import (
    Diagnostic,
    Problem,
    Severity,
    capped,
    more_findings,
)
from agent.core.quoting import shown

#: The most diagnostics that are reported of one directory. A person corrects a few at a time.
MAX_DIRECTORY_FINDINGS = 500

#: The file that makes a directory a callback directory.
CONF = "callbacks.conf"

#: The most bytes of a callbacks.conf: more than 100,000 lines of usual length.
MAX_CONF_BYTES = 16 << 20
#: The most lines of a callbacks.conf, comments included.
MAX_CONF_LINES = 200_000
#: The most callbacks in one directory. It limits the time of one reload.
MAX_CALLBACKS = 100_000
#: The most bytes of one implementation. Callbacks are scripts of a few kilobytes.
MAX_CODE_BYTES = 4 << 20

#: Why a directory is held.
FAULT = "fault"
ERROR = "error"
BEING_WRITTEN = "being-written"
UNSAFE = "unsafe"


class Registration(NamedTuple):
    """One line of a callbacks.conf: which file runs on which trigger."""

    file: str
    trigger: trigger.Trigger
    #: The trigger's canonical text. With the file's path it is the callback's identity.
    text: str
    line: int
    #: The column of the file's name, in code points from 1.
    column: int = 1


class Broken(NamedTuple):
    """A line that names a file and has an error. Its file may have mistakes too."""

    file: str
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Implementation:
    """The bytes of an implementation file, of one reading."""

    code: bytes
    #: `sha256:` and the hex digest of `code`.
    digest: str
    #: The result of a check of Python; None if it was not checked.
    verdict: languages.Verdict | None = None

    @classmethod
    def of(cls, code: bytes) -> Implementation:
        return cls(code, "sha256:" + hashlib.sha256(code).hexdigest())


@dataclass(frozen=True, slots=True)
class Plan:
    """What a callbacks.conf says, before its files are read."""

    registrations: tuple[Registration, ...] = ()
    #: The canonical texts of the triggers that have a problem.
    warned: frozenset[str] = frozenset()
    findings: tuple[Diagnostic, ...] = ()
    #: The bytes of the file; None if it is not read.
    data: bytes | None = None
    #: The lines that have an error and name a file.
    broken: tuple[Broken, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether the file has 0 bytes."""
        return self.data == b""

    def files(self) -> list[str]:
        """The files that it names, each once, those of lines with an error last."""
        named = [r.file for r in self.registrations] + [line.file for line in self.broken]
        return list(dict.fromkeys(named))


@dataclass(frozen=True, slots=True)
class Absent:
    """A file that does not exist."""


@dataclass(frozen=True, slots=True)
class Unusable:
    """A file that exists and cannot be served."""

    problem: Problem
    #: Why its directory is then held.
    held: str = ERROR


@dataclass(frozen=True, slots=True)
class Reading:
    """What was in one directory at one instant."""

    directory: str
    #: Why the directory could not be read. The fields below then mean nothing.
    fault: Diagnostic | None = None
    #: None if there is no callbacks.conf or, if `held` is set, none that can be read now.
    plan: Plan | None = None
    #: By name, each file that the plan or the accepted unit names.
    files: Mapping[str, Implementation | Absent | Unusable] = field(default_factory=dict)
    #: Why the directory is held, whatever its files are; None if nothing in the reading says so.
    held: str | None = None
    #: About the reading itself.
    findings: tuple[Diagnostic, ...] = ()
    #: By the name of a missing file, the similar name of one that is there.
    similar: Mapping[str, str] = field(default_factory=dict)
    #: The bytes of the callbacks.conf that the plan was made of.
    source: bytes = b""


@dataclass(frozen=True, slots=True)
class Unit:
    """What was accepted of one directory, and is served.

    A registration whose file is not among the `implementations` is kept and not served.
    """

    registrations: tuple[Registration, ...] = ()
    implementations: Mapping[str, Implementation] = field(default_factory=dict)
    #: Whether a callbacks.conf that served callbacks was removed, or replaced by one of 0 bytes.
    emptied: bool = False
    #: The bytes of the callbacks.conf that was accepted; None if they are not known. They are kept
    #: for people: what is served follows from the other fields.
    conf: bytes | None = field(default=None, compare=False)

    def served(self) -> tuple[Registration, ...]:
        """The registrations that have an implementation, in line order."""
        return tuple(r for r in self.registrations if r.file in self.implementations)

    def files(self) -> frozenset[str]:
        """The files that its registrations name, whether they exist or not."""
        return frozenset(r.file for r in self.registrations)

    def without(self, removed: Iterable[str]) -> Unit:
        """The unit after these files were removed: it keeps their lines and drops their code."""
        removed = set(removed) & self.implementations.keys()
        if not removed:
            return self
        left = {f: i for f, i in self.implementations.items() if f not in removed}
        return replace(self, implementations=left)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a reading means for a directory."""

    #: What is served from now on; None if nothing was ever accepted.
    unit: Unit | None
    #: Why the directory is held; None if it is not.
    held: str | None
    findings: tuple[Diagnostic, ...]


def unreadable(path: str, problem: Problem) -> Plan:
    """The plan of a callbacks.conf that is not read, because of this problem."""
    return Plan(findings=(problem.at(path),))


def evaluate(reading: Reading, accepted: Unit | None) -> Evaluation:
    """Whether what is in a directory is accepted, given the unit that was accepted before.

    The same reading evaluated with the resulting unit gives the same unit and state.
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
        lost = _served_callbacks(accepted)
        return Evaluation(Unit(emptied=lost), None, (*reading.findings, _no_conf(reading, lost)))
    findings = [*(plan.findings if plan else ()), *reading.findings]
    emptied = _is_emptied(plan, accepted)
    if emptied:
        findings.append(_empty_conf(reading.directory))
    held = reading.held or _error_among(findings)
    registrations = plan.registrations if plan else ()
    broken = plan.broken if plan else ()
    named: list[Registration | Broken] = [*registrations, *broken]
    usable, unusable, held = _files(reading, named, accepted, held)
    findings = _with_names(reading, findings, unusable)
    for file, implementation in usable.items():
        found = _check(reading.directory, file, implementation, accepted)
        held = held or _error_among(found)
        findings += found
    findings += _wrong_targets(reading.directory, registrations, usable)
    if held is not None and accepted is not None:
        removed = {f for f, found in reading.files.items() if isinstance(found, Absent)}
        # The plan's own files are reported at their lines.
        unlisted = (accepted.files() & removed) - {line.file for line in named}
        findings += [_removed(file).at(f"{reading.directory}/{file}") for file in sorted(unlisted)]
        return Evaluation(accepted.without(removed), held, tuple(findings))
    if plan is None:
        return Evaluation(None, held, tuple(findings))
    if held is not None:
        registrations = tuple(r for r in registrations if r.file in usable)
        served = {r.file for r in registrations}
        usable = {file: found for file, found in usable.items() if file in served}
    return Evaluation(Unit(registrations, usable, emptied, plan.data), held, tuple(findings))


def _files(
    reading: Reading,
    lines: Iterable[Registration | Broken],
    accepted: Unit | None,
    held: str | None,
) -> tuple[dict[str, Implementation], list[Diagnostic], str | None]:
    """The usable files that the lines name, diagnostics of the others, and why it is held.

    `held` is the reason that is known before the files are examined.
    """
    served_before = accepted.files() if accepted else frozenset()
    where = f"{reading.directory}/{CONF}"
    usable: dict[str, Implementation] = {}
    findings: list[Diagnostic] = []
    for registration in lines:
        file = registration.file
        found = reading.files[file]
        if isinstance(found, Implementation):
            usable[file] = found
            continue
        if isinstance(found, Unusable):
            problem = found.problem
            held = FAULT if found.held == FAULT else held or found.held
        elif file in served_before:
            problem = _removed(file)
        else:
            problem = _missing(file)
            held = held or ERROR
        if file in reading.similar and file_names.in_name(file, 0) is None:
            problem = _with_similar(problem, file, reading.similar[file])
        problem = replace(problem, length=len(file))
        findings.append(problem.at(where, registration.line, registration.column))
    return usable, findings, held


def _with_names(
    reading: Reading, findings: list[Diagnostic], unusable: list[Diagnostic]
) -> list[Diagnostic]:
    """All of these diagnostics. The hint of a line whose file is missing gives the whole line to
    write, with the name and its other mistakes corrected."""
    absent = {f.line: f for f in unusable if f.code in ("missing-file", "removed")}
    if not absent or not reading.source:
        return [*findings, *unusable]
    text = conf.lines_of(reading.source)
    hints: dict[int, str] = {}
    for number in list(absent)[: look_alikes.MAX_SOUGHT]:
        assert number is not None
        written = conf_lines.with_file(text[number - 1], number, reading.similar)
        if written is not None:
            hints[number] = written
    where = f"{reading.directory}/{CONF}"
    return [
        replace(f, hint=hints[f.line])
        if f.line in hints
        and f.path == where
        and (f in unusable or conf_lines.is_correction(f.hint))
        else f
        for f in (*findings, *unusable)
    ]


def _is_emptied(plan: Plan | None, accepted: Unit | None) -> bool:
    """Whether callbacks.conf has 0 bytes and served callbacks before."""
    return plan is not None and plan.empty and _served_callbacks(accepted)


def _served_callbacks(accepted: Unit | None) -> bool:
    """Whether there were callbacks before callbacks.conf was removed or emptied."""
    return accepted is not None and (accepted.emptied or bool(accepted.implementations))


def _error_among(findings: Iterable[Diagnostic]) -> str | None:
    """The reason ERROR if one of these is an error, else None."""
    return ERROR if any(f.severity is Severity.ERROR for f in findings) else None


def _with_similar(problem: Problem, file: str, near: str) -> Problem:
    """The problem of a missing file, where the file `near` is there."""
    message = problem.message
    if not look_alikes.looks_the_same(file, near):
        message += f"; there is {shown(near)}"
    return replace(problem, message=message, hint=look_alikes.hint(file, near))


def _missing(file: str) -> Problem:
    message = f"the file {shown(file)} is not in this directory"
    hint = "add the file, or correct the name"
    if found := file_names.in_name(file, 0):
        message, hint, _ = found
    return Problem("missing-file", message, hint)


def _removed(file: str) -> Problem:
    message = f"{shown(file)} was removed, so its callbacks are off"
    return Problem("removed", message, "put the file back, or remove its lines")


def _no_conf(reading: Reading, lost: bool) -> Diagnostic:
    message = f"there is no {CONF}, so nothing is served from {shown(reading.directory)}"
    hint = "put it back; one with only a comment says that nothing is to be served"
    if not lost:
        hint = "create it, with a line for each callback, such as notify.py = failed-job-self: then"
        hint += " notify.py of this directory runs when a job fails"
    if CONF in reading.similar:
        hint = look_alikes.hint(CONF, reading.similar[CONF])
    problem = Problem("no-conf", message, hint)
    return problem.at(f"{reading.directory}/{CONF}")


def _empty_conf(directory: str) -> Diagnostic:
    message = f"{CONF} has 0 bytes, so nothing is served from {shown(directory)} any more"
    hint = "write its lines again; if nothing is to be served, write a comment that says so"
    return Problem("empty-conf", message, hint).at(f"{directory}/{CONF}")


def _wrong_targets(
    directory: str, lines: Iterable[Registration], usable: Mapping[str, Implementation]
) -> Iterator[Diagnostic]:
    """A warning for each line whose Qube code acts on something that no event of it has."""
    of_qube = {file for file in usable if languages.language_of(file) == "qube"}
    for line in lines if of_qube else ():
        if line.file not in of_qube:
            continue
        types = {term.type for term in trigger.terms(line.trigger)}
        problem = languages.wrong_target(usable[line.file].code, types)
        if problem is not None:
            yield problem.at(f"{directory}/{CONF}", line.line, line.column)


def _check(
    directory: str, file: str, implementation: Implementation, accepted: Unit | None
) -> list[Diagnostic]:
    """What is wrong with the code of one file."""
    path = f"{directory}/{file}"
    if languages.language_of(file) == "qube":
        return [problem.at(path) for problem in languages.check_qube(implementation.code)]
    verdict = implementation.verdict
    if verdict is None:
        return []
    findings = [problem.at(path) for problem in verdict.warnings]
    if verdict.error is not None:
        error = verdict.error
        before = accepted.implementations.get(file) if accepted else None
        if before is not None and before.verdict is not None and before.verdict.error is None:
            hint = "correct it; until then the last version that compiled is served"
            error = replace(error, hint=hint, override=Severity.ERROR)
        findings.append(error.at(path))
    if verdict.more:
        findings.append(more_findings(path, verdict.more))
    return capped(findings)
