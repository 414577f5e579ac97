"""The daemon's log: one line for each event that was handled, and one for each callback that ran.

The file is opened again for each write, so logrotate needs no signal. A log that cannot be written
never stops the daemon.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from agent.core.counting import count
from agent.core.quoting import escape_json, printable
from agent.runner import Result
from agent.slurm.known import Event, Job
from agent.slurm.store import Run

#: Outcomes of callbacks that are no trouble.
_WELL = ("succeeded", "not-enabled")
#: Modes of a new log: it has what callbacks print.
_MODE = 0o640
#: The most characters of a callback's output in a line of text.
_MAX_OUTPUT = 200

STANDARD_OUTPUT = "-"


class Log:
    """Appends lines to a file; `-` is standard output. `form` is `text` or `json`."""

    def __init__(self, path: str, form: str) -> None:
        self._path = path
        self._form = form
        self._who = f"{socket.gethostname().partition('.')[0]}[{os.getpid()}]"
        self._failed = False

    def handled(
        self,
        source: str,
        job: Job,
        events: Sequence[Event],
        at: float,
        fires: int,
        partial: int,
    ) -> None:
        """Log what a hook reported, or the queue showed, of a job; `at` is when, in seconds since
        1970."""
        waited = max(0.0, _now() - at)
        names = ", ".join(map(str, events)) or "no event"
        text = f"{names} of {_named(job.id, job.label)}: {count(fires, 'callback')} to run"
        if partial:
            text += f", {partial} partial"
        self._write(
            "INFO",
            "event",
            f"{text} ({waited * 1000:.0f} ms)",
            source=source,
            job=job.as_owner(),
            events=[str(event) for event in events],
            fires=fires,
            partial=partial,
            waited_ms=round(waited * 1000, 1),
        )

    def ran(self, run: Run, result: Result, latency: float) -> None:
        """Log what became of a callback. `latency` is from its event to its start, in seconds."""
        repeat = " (a repeat: it was begun before, and its end is not known)" if run.repeat else ""
        output = " | ".join(result.output.splitlines()).strip()
        well = result.outcome in _WELL
        text = f"{result.path}: {result.trigger} for job {run.owner}: {result}{repeat}"
        if output and not well:
            text += f"; it printed: {output[-_MAX_OUTPUT:]}"
        fields = {
            "status": result.status,
            "signal": result.signal,
            "reason": result.reason,
            "output": result.output,
        }
        self._write(
            "INFO" if well else "ERROR",
            "callback",
            text,
            source=run.source,
            owner=run.owner,
            event=run.event,
            path=result.path,
            trigger=result.trigger,
            outcome=result.outcome,
            seconds=round(result.seconds, 3),
            latency_ms=round(latency * 1000, 1),
            repeat=run.repeat,
            **{name: value for name, value in fields.items() if value not in (None, "")},
        )

    def said(self, level: str, text: str, **fields: Any) -> None:
        """Log something else that a person should know."""
        self._write(level, "message", text, message=text, **fields)
        if level != "INFO":
            report(text)

    def _write(self, level: str, what: str, text: str, **fields: Any) -> None:
        now = datetime.now(UTC)
        if self._form == "json":
            time = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            record = {"time": time, "level": level, "what": what, **fields}
            line = escape_json(json.dumps(record, ensure_ascii=False).encode("utf-8", "replace"))
        else:
            when = now.astimezone()
            head = f"[{when:%b %d, %Y %H:%M:%S}] {self._who}: {level}: {what}: "
            line = printable(head + text).encode()
        try:
            self._append(line + b"\n")
        except OSError as error:
            if not self._failed:
                report(f"the log {self._path} cannot be written: {error.strerror}")
            self._failed = True
        else:
            self._failed = False

    def _append(self, data: bytes) -> None:
        if self._path == STANDARD_OUTPUT:
            _write_all(1, data)
            return
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY
        file = os.open(self._path, flags, _MODE)
        try:
            _write_all(file, data)
        finally:
            os.close(file)


def report(text: str) -> None:
    """Print a line to standard error. Never raises."""
    try:
        sys.stderr.write(f"callback-agent: {printable(text)}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass


def _named(number: int, label: str) -> str:
    return f"job {number} ({label})" if label else f"job {number}"


def _now() -> float:
    return datetime.now(UTC).timestamp()


def _write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]
