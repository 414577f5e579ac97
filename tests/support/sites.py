"""An agent that the tests of one module share, each with callback directories of its own.

The agent has its path list from qb.conf, so a test gets a clean start by listing new directories:
what it broke goes with them.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.rpc.messages import Record
from agent.timing import CheckLimits, Timing
from support.agents import ALL_LANGUAGES, DEADLINE, Agent, write
from support.valid import check


class Site:
    """What one test has of the shared agent."""

    def __init__(self, agent: Agent, folder: Path) -> None:
        self.agent = agent
        self.folder = folder
        self.directory = folder / "cb"
        self._before = self._told = len(agent.history())

    def path_list(self, *directories: Path, languages: str = ALL_LANGUAGES) -> dict[str, Any]:
        """Serve these directories and no others; the record of it, without the warning that every
        change of the list gives."""
        paths = ",".join(map(str, directories))
        replace(self.agent.qb_conf, f'{languages}supervisor_universal_callback_path = "{paths}"\n')
        record = self.reload()
        found = [d for d in record["diagnostics"] if d["code"] != "restart-needed"]
        return record | {"diagnostics": found}

    def serve(self, conf: str, **files: str) -> dict[str, Any]:
        """Serve one directory with this callbacks.conf and these files, as `write` has them."""
        write(self.directory, conf, **files)
        record = self.path_list(self.directory)
        self.seen()
        return record

    def edit(self, conf: str, **files: str) -> dict[str, Any]:
        """Change the directory, in place; the record of it."""
        with self.at_once():
            write(self.directory, conf, **files)
        return self.reload()

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """What is written meanwhile is one edit, however slow this machine is."""
        assert self.agent.process is not None
        os.kill(self.agent.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.agent.process.pid, signal.SIGCONT)

    def reload(self) -> dict[str, Any]:
        """Have all changes served, and give the record of them. The agent may have seen them by
        itself a moment before: then the record is in the history."""
        record = self.agent.reload()
        check(Record, record)
        history = self.agent.history()
        if len(history) > self._told:
            record = history[-1]
        self._told = len(history)
        return record

    def seen(self) -> None:
        """From now on, `records` gives only what comes later."""
        self._before = len(self.agent.history())

    def records(self) -> list[dict[str, Any]]:
        """The records that this test made."""
        records = self.agent.history()[self._before :]
        for record in records:
            check(Record, record)
        return records

    def served(self) -> list[tuple[str, str, str]]:
        """What is served: the file's name, the trigger and the code."""
        return [(Path(p).name, trigger, code) for p, trigger, code in self.agent.served()]

    def codes(self) -> list[tuple[str, str]]:
        """Severity and code of each finding that there is now."""
        found = self.agent.reload()["diagnostics"]
        return [(d["severity"], d["code"]) for d in found]


def replace(path: Path, text: str) -> None:
    """Write a file by rename, as editors do."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    os.replace(new, path)


def start(folder: Path) -> Agent:
    """An agent that serves what its qb.conf lists, an empty directory at first. Edits wait
    longer for their checks than by default: the machine may be suspended for a moment."""
    agent = Agent(folder).use(Timing(checks=CheckLimits(max_wait=DEADLINE)))
    empty = write(folder / "empty", "")
    agent.qb_conf.write_text(f"supervisor_universal_callback_path = {empty}\n")
    return agent.start()
