"""What the checks of its Python sources mean for a directory.

An edited source is checked before it is accepted. If that is not possible, or takes long, the
directory is held and serves what it served. A source that was not edited since it was accepted, or
that is read for the first time, is served before it is checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple, TypeVar

from agent.core import languages
from agent.core.diagnostic import Diagnostic, Problem
from agent.core.quoting import shown
from agent.core.unit import Implementation, Reading, Unit
from agent.reload.syntax_check import Checker

#: The finding about a source that could not be checked, and why its directory is then held.
NOT_CHECKED = "not-checked"
#: The finding about a directory whose sources take too long to check.
CHECK_BUDGET_USED = "check-budget"
#: Seconds for which an edit waits for its check before the first index, for which everything waits.
MAX_WAIT_AT_START = 0.5

F = TypeVar("F")


class PythonSources(NamedTuple):
    """The Python sources of a directory."""

    #: By digest, all that are to be checked.
    sources: dict[str, bytes]
    #: The digests of those that must be checked before an edit is accepted, and are not yet.
    urgent: list[str]


def python_sources(
    checker: Checker, reading: Reading, accepted: Unit | None
) -> PythonSources | None:
    """The Python sources of a reading, None if they are not known. From any thread.

    The edited sources are urgent. If one of them does not compile, the accepted source that it
    replaces is urgent too.
    """
    if reading.fault is not None:
        return None
    before = accepted.implementations if accepted else {}
    found = PythonSources({}, [])
    for file, source in _python(reading.files):
        found.sources[source.digest] = source.code
        was = before.get(file)
        if accepted is None or (was is not None and was.digest == source.digest):
            continue
        verdict = checker.verdict(source.digest)
        if verdict is None:
            found.urgent.append(source.digest)
        elif verdict.error is not None and was is not None and was.verdict is None:
            found.sources[was.digest] = was.code
            if checker.verdict(was.digest) is None:
                found.urgent.append(was.digest)
    return found


def with_verdicts(checker: Checker, files: Mapping[str, F]) -> dict[str, F]:
    """The files of a reading or a unit, with all verdicts that are known now."""
    found = dict(files)
    for file, source in _python(files):
        if source.verdict is None:
            verdict = checker.verdict(source.digest)
            if verdict is not None:
                found[file] = replace(source, verdict=verdict)  # type: ignore[assignment]
    return found


def checked_reading(checker: Checker, reading: Reading, accepted: Unit | None) -> Reading:
    """The reading with all verdicts, and with diagnostics about missing verdicts.

    It is held if the verdict on an edited source is missing.
    """
    reading = replace(reading, files=with_verdicts(checker, reading.files))
    if reading.fault is not None:
        return reading
    left = set(checker.over_budget(reading.directory))
    before = accepted.implementations if accepted else {}
    findings: list[Diagnostic] = []
    held = False
    unchecked: list[str] = []
    for file, source in _python(reading.files):
        was = before.get(file)
        edited = accepted is not None and (was is None or was.digest != source.digest)
        missing = _missing(checker, source, was if edited else None)
        if missing is None:
            continue
        if missing in left:
            unchecked.append(file)
            continue
        held = held or edited
        why = checker.trouble(missing)
        if why is not None or edited:
            findings.append(_not_checked(f"{reading.directory}/{file}", why, edited))
    if unchecked:
        findings.append(_over_budget(reading.directory, unchecked, checker.limits.budget))
    if not findings:
        return reading
    return replace(
        reading,
        held=reading.held or (NOT_CHECKED if held else None),
        findings=(*reading.findings, *findings),
    )


def _python(files: Mapping[str, object]) -> Iterator[tuple[str, Implementation]]:
    for file, found in files.items():
        if isinstance(found, Implementation) and languages.language_of(file) == "python":
            yield file, found


def _missing(checker: Checker, source: Implementation, was: Implementation | None) -> str | None:
    """The digest of the source whose verdict is missing, None if none is."""
    if source.verdict is None:
        return source.digest
    if source.verdict.error is None or was is None or was.verdict is not None:
        return None
    return was.digest if checker.verdict(was.digest) is None else None


def _not_checked(path: str, why: str | None, edited: bool) -> Diagnostic:
    message = f"not checked yet: {why or 'the check takes long'}"
    hint = "nothing to do: the check is tried again"
    if edited:
        hint = "the check is tried again; until then the version before the edit is served"
    return Problem(NOT_CHECKED, message, hint).at(path)


def _over_budget(directory: str, files: list[str], budget: float) -> Diagnostic:
    named = ", ".join(map(shown, files[:3])) + (", ..." if len(files) > 3 else "")
    message = (
        f"the Python files of this directory take more than {budget:.0f} s of processor time"
        f" to compile; {len(files)} are not checked: {named}"
    )
    hint = "make the largest files simpler, or move some to another directory"
    return Problem(CHECK_BUDGET_USED, message, hint).at(directory)
