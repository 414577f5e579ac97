"""The three languages of callbacks: which one a file is in, whether it runs, and what goes wrong.

What a supervisor runs is set by `supervisor_language_flags` of qb.conf. A language that is off
there does not fail: its callbacks silently do not run. So it is told of, always.

Perl cannot be checked without running it (`BEGIN` blocks run under `perl -c`), so it is not. Python
is parsed and compiled, never imported or run. That may take minutes or all memory, so the agent has
it done by a helper process with limits (`compiler.py`).
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from functools import cache

from agent.core import python_source
from agent.core.diagnostic import Severity, shown
from agent.core.python_source import Report
from agent.core.trigger import one_letter_away

#: The language of a callback by the extension of its file. Case counts.
EXTENSIONS = {".py": "python", ".pl": "perl", ".qcb": "qube"}

#: The bits of `supervisor_language_flags`.
FLAGS = {
    "qube": 1,
    "perl": 2,
    "python": 4,
    "post": 8,
    "mail": 16,
    "dependency": 32,
    "auto_wrangling": 64,
}

#: What a supervisor runs where its qb.conf does not say: neither Perl nor Python.
DEFAULT_FLAGS = frozenset({"qube", "post", "mail", "dependency", "auto_wrangling"})

#: Code strings that send mail, which the flag `mail` allows.
MAIL_CODES = frozenset(
    {"mail-status", "mail-license-status", "mail-report-status", "mail-subjob-status"}
)

#: All that a .qcb file may hold.
CODES = MAIL_CODES | {
    *(f"{verb}-self" for verb in ("unblock", "block", "fail", "kill", "migrate", "preempt")),
    *(f"{verb}-self" for verb in ("interrupt", "suspend", "resume")),
    *(f"{verb}-work-self" for verb in ("block", "kill", "unblock", "retry", "requeue")),
    *(f"{verb}-work-self" for verb in ("complete", "fail")),
    "unblock-subjob-self-single",
    *(f"{verb}-subjob-self" for verb in ("unblock", "block", "fail", "kill", "migrate")),
    *(f"{verb}-subjob-self" for verb in ("preempt", "interrupt", "suspend", "resume")),
}

#: The Python that checks Python.
HERE = f"Python {sys.version_info.major}.{sys.version_info.minor}"

_EXPECTED_FLAGS = "expected names of " + ", ".join(FLAGS) + ", or the sum of their bits"


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with an implementation; lines and columns from 1, columns in code points."""

    severity: Severity
    code: str
    line: int | None
    column: int | None
    message: str
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check of Python source found. `error` says why it does not compile.

    `more` is the number of warnings beyond those in `warnings`.
    """

    error: Problem | None = None
    warnings: tuple[Problem, ...] = ()
    more: int = 0


def language_of(file: str) -> str | None:
    """`python`, `perl` or `qube` by the file's extension, None for any other."""
    dot = file.rfind(".")
    return EXTENSIONS.get(file[dot:]) if dot >= 0 else None


def read_flags(text: str) -> tuple[frozenset[str], list[tuple[Severity, str, str, str | None]]]:
    """The flags that a value of `supervisor_language_flags` sets, and what is wrong with it.

    Takes a list of names with commas, or the sum of their bits, decimal or `0x` hex. Findings are
    (severity, code, message, hint). A name or bit that is unknown is a warning, since a newer
    supervisor may know more; a number that cannot be read is an error.
    """
    text = text.strip()
    if re.fullmatch(r"[0-9]+|0[xX][0-9a-fA-F]+", text) and len(text) < 20:
        number = int(text, 16 if text[:2] in ("0x", "0X") else 10)
        known = frozenset(name for name, bit in FLAGS.items() if number & bit)
        unknown = number & ~sum(FLAGS.values())
        if not unknown:
            return known, []
        message = f"the bits {unknown:#x} of {text} are unknown and not looked at"
        return known, [(Severity.WARNING, "unknown-flag", message, _EXPECTED_FLAGS)]
    if text[:1].isdigit():
        message = f"{shown(text)} is not a number"
        return DEFAULT_FLAGS, [(Severity.ERROR, "bad-flags", message, _EXPECTED_FLAGS)]
    flags = set()
    problems: list[tuple[Severity, str, str, str | None]] = []
    for name in filter(None, (part.strip() for part in text.split(","))):
        if name in FLAGS:
            flags.add(name)
            continue
        near = [k for k in FLAGS if k == name.lower() or one_letter_away(name, k)]
        message = f"the language flag {shown(name)} is unknown and not looked at"
        hint = f"did you mean {near[0]}?" if near else _EXPECTED_FLAGS
        problems.append((Severity.WARNING, "unknown-flag", message, hint))
    return frozenset(flags), problems


def code_string(code: bytes) -> str:
    """The code string of a .qcb file: its text without the white space around it."""
    return code.decode("utf-8", "backslashreplace").removeprefix("\ufeff").strip()


def enabled(language: str, code: bytes, flags: frozenset[str]) -> bool:
    """Whether a supervisor with these flags runs this implementation."""
    if language == "qube":
        return "qube" in flags and ("mail" in flags or code_string(code) not in MAIL_CODES)
    return language in flags


def check_qube(code: bytes) -> list[Problem]:
    """What is wrong with the text of a .qcb file."""
    text = code_string(code)
    if text in CODES:
        return []
    near = [known for known in sorted(CODES) if one_letter_away(text, known)]
    hint = f"did you mean {near[0]}?" if near else "write one of Qube's, such as mail-status"
    found = f"{text[:60]!r} is" if text else "an empty file is"
    message = f"{found} none of Qube's code strings"
    return [Problem(Severity.WARNING, "unknown-code", 1, 1, message, hint)]


def check_python(source: bytes) -> Verdict:
    """Whether the source compiles under this Python, and what it does that hurts a supervisor.

    Never runs it. Takes any bytes. Here, in this process: no limit holds.
    """
    try:
        return verdict(python_source.examine(source))
    except MemoryError as error:
        return does_not_compile(python_source.too_complex(error))


def verdict(report: Report) -> Verdict:
    """What a report of Python source means for a callback."""
    if report.error is not None:
        error = report.error
        return does_not_compile(error.why, error.line, error.column)
    found = (
        Problem(Severity.WARNING, call.code, call.line, call.column, *_risk(call.code, call.name))
        for call in report.calls
    )
    return Verdict(None, tuple(found), report.more)


def does_not_compile(
    why: str,
    line: int | None = None,
    column: int | None = None,
    hint: str = "correct it, unless it is meant for another Python",
) -> Verdict:
    """The verdict on a source that does not compile under this Python."""
    message = f"this does not compile under {HERE}: {why}"
    return Verdict(Problem(Severity.WARNING, "does-not-compile", line, column, message, hint))


@cache
def _risk(code: str, name: str) -> tuple[str, str]:
    """Message and hint for a risky call. Shared, as many sources call the same."""
    if code == "exits":
        return (
            f"{name} ends the supervisor process that runs this callback",
            "return from the code instead",
        )
    return (
        f"{name} ties up the supervisor process that runs this callback until it returns",
        "hand the work to another process and do not wait for it",
    )
