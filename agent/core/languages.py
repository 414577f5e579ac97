"""The three languages of callbacks: which one a file is in, whether it runs, and what is wrong.

`supervisor_language_flags` in qb.conf sets what a supervisor runs. Callbacks in a language that is
off do not fail; they silently do not run. So that is always reported.

Perl is not checked, because it cannot be checked without running it (`BEGIN` blocks run under
`perl -c`). Python is parsed and compiled, never imported or run. This may take minutes or all
memory, so a helper process with limits does it (`agent.reload.syntax_check`).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache

from agent.core.diagnostic import Problem
from agent.core.python_source import Report
from agent.core.quoting import shown
from agent.core.spelling import nearest

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

#: What a supervisor runs if its qb.conf does not say: neither Perl nor Python.
DEFAULT_FLAGS = frozenset({"qube", "post", "mail", "dependency", "auto_wrangling"})

#: Code strings that send mail, which the flag `mail` allows.
MAIL_CODES = frozenset(
    {"mail-status", "mail-license-status", "mail-report-status", "mail-subjob-status"}
)

#: Every code string that a .qcb file may hold.
CODES = MAIL_CODES | {
    *(f"{verb}-self" for verb in ("unblock", "block", "fail", "kill", "migrate", "preempt")),
    *(f"{verb}-self" for verb in ("interrupt", "suspend", "resume")),
    *(f"{verb}-work-self" for verb in ("block", "kill", "unblock", "retry", "requeue")),
    *(f"{verb}-work-self" for verb in ("complete", "fail")),
    "unblock-subjob-self-single",
    *(f"{verb}-subjob-self" for verb in ("unblock", "block", "fail", "kill", "migrate")),
    *(f"{verb}-subjob-self" for verb in ("preempt", "interrupt", "suspend", "resume")),
}

#: The Python that checks Python sources.
THIS_PYTHON = f"Python {sys.version_info.major}.{sys.version_info.minor}"

#: What is written between the words of a code string in place of a hyphen.
_BETWEEN = re.compile(r"[\s_]+")
_EXPECTED_FLAGS = "expected names of " + ", ".join(FLAGS) + ", or the sum of their bits"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check of a Python source found."""

    #: Why it does not compile; None if it does.
    error: Problem | None = None
    warnings: tuple[Problem, ...] = ()
    #: How many warnings there are besides `warnings`.
    more: int = 0


def language_of(file: str) -> str | None:
    """`python`, `perl` or `qube` by the file's extension, None for any other."""
    dot = file.rfind(".")
    return EXTENSIONS.get(file[dot:]) if dot >= 0 else None


def read_flags(text: str) -> tuple[frozenset[str], list[Problem]]:
    """The flags that a value of `supervisor_language_flags` sets, and what is wrong with it.

    Takes a list of names with commas, or the sum of their bits, decimal or `0x` hex. A name or bit
    that is unknown is a warning, since a newer supervisor may know more; a number that cannot be
    read is an error, and gives the default.
    """
    text = text.strip()
    if re.fullmatch(r"[0-9]+|0[xX][0-9a-fA-F]+", text) and len(text) < 20:
        number = int(text, 16 if text[:2] in ("0x", "0X") else 10)
        flags = frozenset(name for name, bit in FLAGS.items() if number & bit)
        unknown = number & ~sum(FLAGS.values())
        if not unknown:
            return flags, []
        message = f"the bits {unknown:#x} of {text} are unknown and ignored"
        return flags, [Problem("unknown-flag", message, _EXPECTED_FLAGS)]
    if text[:1].isdigit():
        message = f"{shown(text)} is not a number"
        return DEFAULT_FLAGS, [Problem("bad-flags", message, _EXPECTED_FLAGS)]
    names = [name for name in (part.strip() for part in text.split(",")) if name]
    problems = [_unknown_flag(name) for name in names if name not in FLAGS]
    return frozenset(name for name in names if name in FLAGS), problems


def _unknown_flag(name: str) -> Problem:
    near = name.lower() if name.lower() in FLAGS else nearest(name, FLAGS)
    message = f"the language flag {shown(name)} is unknown and ignored"
    several = re.split(r"[\s;:|+]+", name)
    if len(several) > 1 and all(one in FLAGS for one in several):
        return Problem("unknown-flag", message, "write commas between the flags")
    return Problem("unknown-flag", message, f"did you mean {near}?" if near else _EXPECTED_FLAGS)


def code_string(code: bytes) -> str:
    """The code string of a .qcb file: its text without the white space around it."""
    return code.decode("utf-8", "backslashreplace").removeprefix("\ufeff").strip()


def is_enabled(language: str, code: bytes, flags: frozenset[str]) -> bool:
    """Whether a supervisor with these flags runs this implementation."""
    if language == "qube":
        return "qube" in flags and ("mail" in flags or code_string(code) not in MAIL_CODES)
    return language in flags


def check_qube(code: bytes) -> list[Problem]:
    """What is wrong with the text of a .qcb file."""
    text = code_string(code)
    if text in CODES:
        return []
    bare = _BETWEEN.sub("-", text.partition("#")[0].strip(" \t\r\n\"'`;,")).lower()
    near = next((code for code in (bare, bare.replace("-job-", "-")) if code in CODES), None)
    near = near or nearest(text, CODES)
    hint = f"did you mean {near}?" if near else "write one of Qube's, such as mail-status"
    found = f"{text[:60]!r} is" if text else "an empty file is"
    return [Problem("unknown-code", f"{found} not one of Qube's code strings", hint, 1, 1)]


def wrong_target(code: bytes, types: Collection[str]) -> Problem | None:
    """What is wrong with a .qcb file whose trigger has events of these types; None if nothing is.

    A code string for work or for an instance acts on that of the event that fired it.
    """
    text = code_string(code)
    kind = next((k for k in ("work", "subjob") if f"-{k}-" in text), None)
    if text not in CODES or kind is None or kind in types:
        return None
    what = {"work": "work item", "subjob": "instance"}[kind]
    message = f"{text} acts on the {what} of the event, and no event of this trigger has one"
    hint = f"write an event of type {kind}, such as failed-{kind}-self-*"
    of_job = f"{text.partition('-')[0]}-self"
    if of_job in CODES:
        hint += f"; or {of_job} in the file, which acts on the job"
    return Problem("wrong-target", message, hint)


def verdict(report: Report) -> Verdict:
    """What a report of Python source means for a callback."""
    if report.error is not None:
        error = report.error
        return does_not_compile(error.why, error.line, error.column)
    warnings = (
        Problem(call.code, *_risk(call.code, call.name), call.line, call.column)
        for call in report.calls
    )
    return Verdict(None, tuple(warnings), report.more)


def does_not_compile(
    why: str,
    line: int | None = None,
    column: int | None = None,
    hint: str = "correct it, unless it is meant for another Python",
) -> Verdict:
    """The verdict on a source that does not compile under this Python."""
    message = f"this does not compile under {THIS_PYTHON}: {why}"
    return Verdict(Problem("does-not-compile", message, hint, line, column))


@cache
def _risk(code: str, name: str) -> tuple[str, str]:
    """Message and hint for a risky call. Cached, because many sources make the same calls."""
    if code == "exits":
        return (
            f"{name} ends the supervisor process that runs this callback",
            "return from the code instead",
        )
    return (
        f"{name} makes the supervisor process that runs this callback wait",
        "start another process for the work and do not wait for it",
    )
