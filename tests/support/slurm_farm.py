"""A farm: a Slurm whose hooks are installed, an agent, and the adapter between them.

Callbacks run as nobody. What they note is a line of one file.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.slurm.setup import hook_text
from support.agents import DEADLINE, Agent, wait_for
from support.slurm_cluster import Cluster, cluster

#: A callback that notes what it is, whether it is a repeat, and its job.
NOTE = """import os, qb
def note(what):
    line = "%s%s %d\\n" % (what, os.environ.get("CALLBACK_AGENT_REPEAT", ""), qb.jobid())
    file = os.open({file!r}, os.O_WRONLY | os.O_APPEND)
    os.write(file, line.encode())
    os.close(file)
note({what!r})
"""
#: Before a command that is to end when this process does, whatever ends it.
DIES = ("setpriv", "--pdeathsig=TERM")
#: Slurm's mail program.
MAIL = """#!/bin/sh
{ echo "$2: $3"; cat; } >>$(dirname "$0")/mails
"""


class Farm:
    """All of it, below a folder. Use `farm`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.callbacks = folder / "callback"
        self.callbacks.mkdir()
        self.agent = Agent(folder, self.callbacks)
        self.agent.prefix = [*DIES]
        self.cluster: Cluster
        self.adapter: subprocess.Popen[bytes] | None = None
        self.log = folder / "slurm.log"
        #: More options of `slurm run`.
        self.options = ["--poll", "0.5", "--log-format", "json"]
        self.spool = folder / "spool"
        self.hook = folder / "hook"
        self._notes = folder / "notes"
        self._notes.touch()
        self._notes.chmod(0o666)

    def install(self, hooks: bool = True) -> dict[str, str]:
        """Install the hook and its spool; the lines of slurm.conf that name it."""
        self.spool.mkdir(mode=0o700)
        shutil.chown(self.spool, "slurm", "slurm")
        mail = self.folder / "mail"
        for program, text in ((self.hook, hook_text(str(self.spool))), (mail, MAIL)):
            program.write_text(text)
            program.chmod(0o755)
        lines = {"MailProg": str(mail)}
        if hooks:
            lines |= {"PrologSlurmctld": str(self.hook), "EpilogSlurmctld": str(self.hook)}
            lines |= {"JobCompType": "jobcomp/script", "JobCompLoc": str(self.hook)}
        return lines

    def note(self, what: str, more: str = "") -> str:
        """The code of a callback that notes `what`, and then does more."""
        return NOTE.format(file=str(self._notes), what=what) + more

    def serve(self, conf: str, **files: str) -> None:
        """Serve these callbacks from now on; `a_py` is the code of `a.py`."""
        for name, text in files.items():
            stem, _, extension = name.rpartition("_")
            (self.callbacks / f"{stem}.{extension}").write_text(text)
        (self.callbacks / "callbacks.conf").write_text(conf)
        if self.agent.process is not None:
            self.agent.reload()

    def noted(self, *jobs: int) -> list[str]:
        """What callbacks of these jobs noted, in order."""
        lines = (line.rpartition(" ") for line in self._notes.read_text().splitlines())
        return [what for what, _, job in lines if int(job) in jobs]

    def mails(self) -> str:
        """The mails that were sent."""
        file = self.folder / "mails"
        return file.read_text() if file.exists() else ""

    def start_adapter(self) -> None:
        """Start the adapter, and wait until it says so."""
        before = self.log.stat().st_size if self.log.exists() else 0
        command = [*DIES, sys.executable, "-m", "agent", "slurm", "run"]
        command += ["--pipe", str(self.agent.pipe)]
        command += [*self._places(), "--log", str(self.log), *self.options]
        with (self.folder / "adapter.log").open("ab") as errors:
            self.adapter = process = subprocess.Popen(
                command, env=self.cluster.environ, cwd=self.folder, stderr=errors
            )

        def started() -> bool:
            assert process.poll() is None, (self.folder / "adapter.log").read_text()
            return self.log.exists() and b"started: " in self.log.read_bytes()[before:]

        wait_for(started, "the start of the adapter")

    def stop_adapter(self, number: int = signal.SIGTERM) -> int:
        """End the adapter; its exit status."""
        assert self.adapter is not None
        self.adapter.send_signal(number)
        return self.adapter.wait(DEADLINE)

    def logged(self, what: str = "") -> list[dict[str, Any]]:
        """The records of the adapter's log, of this kind only if one is given."""
        lines = self.log.read_bytes().splitlines(True) if self.log.exists() else []
        records = [json.loads(line) for line in lines if line.endswith(b"\n")]
        return [one for one in records if what in ("", one["what"])]

    def status(self) -> dict[str, Any]:
        """What `slurm status` reports."""
        found: dict[str, Any] = json.loads(self.shown_status("--json"))
        return found

    def shown_status(self, *options: str) -> str:
        """What `slurm status` prints."""
        command = [sys.executable, "-m", "agent", "slurm", "status", *options, *self._places()]
        done = subprocess.run(command, capture_output=True, timeout=DEADLINE, check=False)
        assert done.returncode in (0, 1), done.stderr
        return done.stdout.decode()

    def waiting(self) -> int:
        """How many events wait in the spool."""
        return sum(1 for _ in self.spool.glob("*.event"))

    def _places(self) -> list[str]:
        return ["--spool", str(self.spool), "--state", str(self.folder / "adapter")]


@contextlib.contextmanager
def farm(*options: str, hooks: bool = True, cpus: int = 4) -> Iterator[Farm]:
    """A farm that takes jobs, and is ended and removed at the end. It serves no callbacks yet.

    `options` are more of `slurm run`. Without `hooks`, Slurm reports nothing.
    """
    # Its users must be able to enter it, which the folders of tests do not allow.
    folder = Path(tempfile.mkdtemp(prefix="farm-", dir="/tmp"))
    folder.chmod(0o755)
    one = Farm(folder)
    one.options += options
    try:
        one.serve("")
        one.agent.start()
        (folder / "slurm").mkdir()
        with cluster(one.install(hooks), folder=folder / "slurm", cpus=cpus) as one.cluster:
            one.start_adapter()
            yield one
    finally:
        if one.adapter is not None and one.adapter.poll() is None:
            one.stop_adapter(signal.SIGKILL)
        if one.agent.process is not None:
            one.agent.stop()
        shutil.rmtree(folder, ignore_errors=True)
