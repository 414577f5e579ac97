"""Reads the lines of a callbacks.conf one by one, each as it is."""

from __future__ import annotations

from agent.core.conf import Setting, lines_of, read_line, single_quote
from agent.core.diagnostic import Diagnostic, ProblemError


def read_callbacks(data: bytes, path: str) -> tuple[list[Setting], list[Diagnostic]]:
    """The settings of the lines, and the diagnostics of those that give none."""
    settings = []
    findings = []
    for number, line in enumerate(lines_of(data), 1):
        try:
            setting = read_line(line, number)
        except ProblemError as error:
            findings.append(error.problem.at(path, number, error.problem.column))
            continue
        if setting is None:
            continue
        if "'" in setting.value:
            findings.append(single_quote(setting).at(path))
        settings.append(setting)
    return settings, findings
