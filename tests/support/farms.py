"""A farm that keeps what it was asked, and callbacks as an answer of the agent has them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent import runner
from agent.core.languages import language_of
from agent.runner import Result, Target
from support.agents import DEADLINE


class Recorder:
    """A `Farm`: does nothing, and cannot migrate."""

    def __init__(self, jobs: Sequence[Mapping[str, Any]] = ()) -> None:
        self.jobs = jobs
        self.asked: list[str] = []

    def jobinfo(self, ids: Sequence[int]) -> Sequence[Mapping[str, Any]]:
        return [job for job in self.jobs if not ids or job["id"] in ids]

    def modify(self, target: Target, fields: Mapping[str, Any]) -> None:
        self.asked.append(f"modify {target} {dict(fields)}")

    def mail(self, target: Target, report: str) -> None:
        self.asked.append(f"mail {report} {target}")

    def migrate(self, target: Target) -> None:
        raise RuntimeError("no other host")

    def __getattr__(self, name: str) -> Callable[[Target], None]:
        return lambda target: self.asked.append(f"{name} {target}")


def callback(file: str, code: str, **fields: Any) -> dict[str, Any]:
    """A callback of an answer with code."""
    return {
        "file": file,
        "path": f"/farm/callback/{file}",
        "directory": "/farm/callback",
        "language": language_of(file),
        "trigger": "done-job-self",
        "line": 1,
        "digest": "sha256:" + "0" * 64,
        "enabled": True,
        "code": code,
        **fields,
    }


def run(
    *callbacks: Mapping[str, Any], farm: Recorder | None = None, **options: Any
) -> list[Result]:
    """Run callbacks of job 1234 with a time limit that no test reaches by accident."""
    options = {"job": 1234, "time_limit": DEADLINE, **options}
    return runner.run({"callbacks": list(callbacks)}, farm or Recorder(), **options)


def until_limit(
    happened: Callable[[list[Result]], bool], *callbacks: Mapping[str, Any], **options: Any
) -> list[Result]:
    """Run callbacks to a time limit before which something happens, however slow the machine is."""
    for limit in (1.0, 8.0, DEADLINE):
        results = run(*callbacks, time_limit=limit, **options)
        if happened(results):
            break
    return results


def python(code: str, **options: Any) -> Result:
    """Run Python."""
    (result,) = run(callback("a.py", code), **options)
    return result


def perl(code: str, **options: Any) -> Result:
    """Run Perl."""
    (result,) = run(callback("a.pl", code), **options)
    return result


def python2() -> str | None:
    """A Python 2 of this machine, if it has one."""
    candidates = [shutil.which("python2.7"), shutil.which("python2")]
    candidates += sorted(map(str, Path.home().glob(".pyenv/versions/2.7*/bin/python2.7")))
    return next((path for path in candidates if path and "shims" not in path), None)
