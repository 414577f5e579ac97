"""When the daemon does what it does now and then, and what it says of itself."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from typing import Any

from agent.disk.whole_file import check_own, replace
from agent.slurm import queue, status
from agent.slurm.log import Log
from agent.slurm.spool import Waiting
from agent.slurm.store import Run

#: Seconds between two scans of the spool, which find what the kernel's events miss.
SCAN_INTERVAL = 2.0
#: Seconds between two attempts to reach the agent, or to use a database or spool that failed.
RETRY_INTERVAL = 0.5
#: Seconds between two removals of what is old.
TIDY_INTERVAL = 60.0
#: Seconds between two writes of the status.
REPORT_INTERVAL = 1.0
#: The mode of what is written: everyone may read it.
_MODE = 0o644


class Times:
    """When what is due, in monotonic seconds."""

    def __init__(self) -> None:
        self._ask = self._tidy = self._report = 0.0
        self._retry: float | None = None
        self._asking = False

    def wait(self, ends: float | None) -> float:
        """Seconds until something is due; `ends` is when an end is to be asked for, as `uptime`."""
        now = time.monotonic()
        if self._retry is not None:
            # What is due has failed, and would fail again at once.
            retry, self._retry = self._retry, None
            return max(0.0, retry - now)
        wait = min(SCAN_INTERVAL, self._tidy - now)
        if not self._asking:
            wait = min(wait, self._ask - now)
            if ends is not None:
                wait = min(wait, ends - queue.uptime())
        return max(0.0, wait)

    def retry(self) -> None:
        """Try again soon what failed."""
        self._retry = time.monotonic() + RETRY_INTERVAL

    def asks(self, ends: float | None, interval: float) -> bool:
        """Whether the queue is to be asked for now. One question at a time."""
        now = time.monotonic()
        if self._asking or (now < self._ask and (ends is None or queue.uptime() < ends)):
            return False
        self._asking, self._ask = True, now + interval
        return True

    def answered(self) -> None:
        """Note that the question to the queue was answered."""
        self._asking = False

    def tidies(self) -> bool:
        """Whether what is old is to be removed now."""
        now = time.monotonic()
        if now < self._tidy:
            return False
        self._tidy = now + TIDY_INTERVAL
        return True

    def reports(self) -> bool:
        """Whether the status is to be written."""
        now = time.monotonic()
        if now < self._report:
            return False
        self._report = now + REPORT_INTERVAL
        return True


class Reporter:
    """Says how the daemon is: in the log what changes, in the status file what is."""

    def __init__(self, folder: str, metrics: str | None, log: Log) -> None:
        self._path = f"{folder}/{status.STATUS}"
        self._metrics = metrics
        self._log = log
        self._trouble = dict.fromkeys(("agent", "slurm", "spool", "store", "daemon"), "?")
        self._started = time.time()
        #: When each callback that runs was begun, in seconds since the start of the machine.
        self._begun: dict[int, tuple[Run, float, float]] = {}
        self._failed: set[str] = set()
        self.waiting: list[Waiting] = []

    def is_well(self, what: str) -> bool:
        """Whether something works, as far as is known. `what` is a key of `_trouble`."""
        return not self._trouble[what]

    def well(self, what: str) -> None:
        """Report that something works, if it did not."""
        if self._trouble[what] not in ("", "?"):
            self._log.said("INFO", f"{what}: works again")
        self._trouble[what] = ""

    def fails(self, what: str, why: str, more: str = "") -> None:
        """Report that something does not work, and why, if that is new. `more` is for the log."""
        if self._trouble[what] != why:
            self._log.said("ERROR", more or why)
        self._trouble[what] = why

    def begun(self, run: Run) -> None:
        """Note that a callback starts."""
        self._begun[run.number] = (run, queue.uptime(), max(0.0, time.time() - run.at))

    def ended(self, run: Run) -> float:
        """Note that a callback ended. Returns the seconds from its event to its start."""
        return self._begun.pop(run.number)[2]

    def write(self, more: Mapping[str, Any]) -> None:
        """Write the status file, and that of the metrics."""
        now = time.time()
        running = [
            {"path": run.callback["path"], "owner": run.owner, "seconds": queue.uptime() - begun}
            for run, begun, _ in self._begun.values()
        ]
        found = {
            "pid": os.getpid(),
            "time": now,
            "started": self._started,
            "trouble": {n: "" if why == "?" else why for n, why in self._trouble.items()},
            **status.waits(self.waiting),
            "callbacks_running": running,
            **more,
        }
        self._replace(self._path, status.encoded(found))
        if self._metrics:
            self._replace(self._metrics, status.metrics(found))

    def remove(self) -> None:
        """Remove the metrics: nobody writes them any more."""
        if self._metrics:
            with contextlib.suppress(OSError):
                check_own(self._metrics, status.OWN_METRICS, "--metrics-file")
                os.unlink(self._metrics)

    def _replace(self, path: str, data: bytes) -> None:
        try:
            if path == self._metrics:
                check_own(path, status.OWN_METRICS, "--metrics-file")
            else:
                check_own(path, status.OWN_STATUS, "--state")
            replace(path, data, _MODE)
        except OSError as error:
            if path not in self._failed:
                self._log.said("ERROR", f"{path} cannot be written: {error.strerror}")
            self._failed.add(path)
        else:
            if path in self._failed:
                self._log.said("INFO", f"{path} is written again")
            self._failed.discard(path)
