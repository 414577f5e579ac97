"""What is reported of settings besides what is wrong in qb.conf."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from agent.core.diagnostic import Diagnostic, Problem
from agent.core.quoting import printable, shown
from agent.core.spelling import nearest
from agent.settings.path_list import DEFAULT, QB_PATH

#: How the agent's variables begin.
_PREFIX = "CALLBACK_AGENT_"
#: Codes of findings that say that a listed directory is not there.
_NOT_THERE = frozenset({"missing", "not-a-directory", "dangling-link"})
#: What is written between two directories in place of a comma. The colons of a drive and of a URL
#: are not.
_OTHER_SEPARATOR = re.compile(r"(?:[;\s]|(?<!/file)(?<!/[A-Z]):)[/~$]")


def unreadable_qb_conf(path: str, error: OSError, uid: int) -> Problem:
    """That qb.conf cannot be read by the agent's user, who has this id."""
    why = error.strerror or type(error).__name__
    hint = "correct that, or name another with --qb-conf"
    if isinstance(error, PermissionError):
        # Not by its mode: a qb.conf may hold a password.
        command = f"setfacl -m u:{uid}:r {shlex.quote(printable(path))}"
        hint = f"{command}, or name another with --qb-conf"
    message = f"the supervisor's configuration cannot be read: {why}"
    return Problem("qb-conf-unreadable", message, hint)


def no_qb_conf(source: str) -> Problem:
    """A note that the qb.conf that a flag or variable, the `source`, names does not exist."""
    message = f"{source} names this file, and it does not exist"
    hint = "create it, or correct the path; until then it counts as empty"
    return Problem("no-qb-conf", message, hint)


def unknown_variables(environ: Iterable[str], known: Collection[str]) -> Iterator[Diagnostic]:
    """A warning for each variable whose name is one letter away from a `known` one."""
    for name in sorted(environ):
        if not name.startswith(_PREFIX) or name in known:
            continue
        near = nearest(name, known)
        if near is not None:
            message = f"the variable {shown(name)} is ignored"
            yield Problem("unknown-setting", message, f"did you mean {near}?").at(name)


def with_source(finding: Diagnostic, directories: Collection[str], source: str) -> Diagnostic:
    """The finding; if it says that one of the listed directories is not there, with the `source` of
    the list."""
    if finding.code not in _NOT_THERE or finding.path not in directories:
        return finding
    listed = f"it is listed by {source}"
    if source == DEFAULT:
        listed = f"it is the default, since {QB_PATH} is not set"
    hint = finding.hint
    if _OTHER_SEPARATOR.search(finding.path):
        hint = "write commas between directories"
    return replace(finding, message=f"{finding.message}; {shown(listed)}", hint=hint)
