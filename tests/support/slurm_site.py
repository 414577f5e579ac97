"""An agent, a spool with its hook, and the adapter's daemon. Slurm is played by the test, which
calls the hook with the environment that slurmctld 22.05 gives it."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from support.agents import DEADLINE, Agent, wait_for, write

#: Appends to a file: what each callback does in these tests.
NOTE = "import os, qb\nwith open({file!r}, 'a') as f: print({what!r}, qb.jobid(), file=f)\n"
#: squeue, as the test has it: `rows.json` is the queue, `ended.json` what --states=all adds.
SQUEUE = """#!{python} -S
import json, os, sys
folder = os.path.dirname(os.path.abspath(__file__))
if os.path.exists(folder + "/down"):
    sys.exit("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
rows = json.load(open(folder + "/rows.json"))
if "--states=all" in sys.argv:
    rows += json.load(open(folder + "/ended.json"))
form = os.environ["SQUEUE_FORMAT"]
for row in rows:
    line = form
    for letter in "AFKTrEuUPNQVSeZojk":
        line = line.replace("%" + letter, str(row.get(letter, "")))
    print(line)
"""
#: slurmctld 22.05, for any job.
CONTROLLER = {"SLURM_CLUSTER_NAME": "test", "SLURM_CONF": "/etc/slurm/slurm.conf"}


class Site:
    """All of it, below a folder. `daemon` is the running one."""

    def __init__(self, folder: Path, conf: str = "", **files: str) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.callbacks = write(folder / "callback", conf, **files)
        self.agent = Agent(folder, self.callbacks)
        self.spool = folder / "spool"
        self.spool.mkdir(mode=0o700)
        self.state = folder / "daemon"
        self.log = folder / "slurm.log"
        self.notes = folder / "notes"
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.hook = install_hook(self.bin / "hook", self.spool)
        (self.bin / "squeue").write_text(SQUEUE.format(python=sys.executable))
        (self.bin / "squeue").chmod(0o755)
        self.queue([])
        # Asked for once: the queue is not that of the hooks that the test calls.
        self.options = ["--run-as", str(os.geteuid()), "--poll", "600"]
        self.daemon: subprocess.Popen[bytes] | None = None

    def note(self, what: str) -> str:
        """The code of a callback that notes `what`, and the job that it runs for."""
        return NOTE.format(file=str(self.notes), what=what)

    def noted(self) -> list[str]:
        """What callbacks noted, in order."""
        return self.notes.read_text().splitlines() if self.notes.exists() else []

    def queue(self, rows: list[dict[str, Any]], ended: list[dict[str, Any]] | None = None) -> None:
        """What squeue shows from now on: by letter of `squeue -o`."""
        for name, value in (("ended.json", ended or []), ("rows.json", rows)):
            (self.bin / f"{name}.new").write_text(json.dumps(value))
            (self.bin / f"{name}.new").rename(self.bin / name)

    def start(self) -> Site:
        """Start the daemon, and wait until it takes events."""
        command = [sys.executable, "-m", "agent", "slurm", "run", "--pipe", str(self.agent.pipe)]
        command += ["--spool", str(self.spool), "--state", str(self.state)]
        command += ["--log", str(self.log), "--log-format", "json", *self.options]
        environ = {**os.environ, "PATH": f"{self.bin}:{os.environ['PATH']}"}
        started = len(self.told("message"))
        with (self.folder / "daemon.err").open("ab") as errors:
            self.daemon = subprocess.Popen(command, env=environ, cwd="/", stderr=errors)

        def runs() -> bool:
            assert self.daemon is not None
            assert self.daemon.poll() is None, self.errors()
            new = self.told("message")[started:]
            return any(one["message"].startswith("started") for one in new)

        wait_for(runs, "the start of the daemon")
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the daemon; its exit status."""
        assert self.daemon is not None
        self.daemon.send_signal(number)
        return self.daemon.wait(DEADLINE)

    def close(self) -> None:
        """End all."""
        if self.daemon is not None and self.daemon.poll() is None:
            self.stop(signal.SIGKILL)
        if self.agent.process is not None:
            self.agent.stop()

    def errors(self) -> str:
        """What the daemon said on standard error."""
        return (self.folder / "daemon.err").read_text()

    def told(self, what: str = "") -> list[dict[str, Any]]:
        """The records of the log, of this kind only if one is given."""
        try:
            lines = self.log.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        records = [json.loads(line) for line in lines if line.endswith(b"\n")]
        return [one for one in records if what in ("", one["what"])]

    def events(self) -> list[str]:
        """The events that were handled, in order."""
        return [
            event.replace("-self", f"-{one['job']['id']}")
            for one in self.told("event")
            for event in one["events"]
        ]

    def status(self) -> tuple[int, dict[str, Any]]:
        """The exit status of `slurm status --json`, and what it printed."""
        command = [sys.executable, "-m", "agent", "slurm", "status", "--json"]
        command += ["--spool", str(self.spool), "--state", str(self.state)]
        done = subprocess.run(command, capture_output=True, timeout=DEADLINE, check=False)
        return done.returncode, json.loads(done.stdout)

    # Slurm ----------------------------------------------------------------------------------

    def call(self, environment: Mapping[str, str], shell: str = "") -> None:
        """Slurm calls the hook."""
        call_hook(self.hook, environment, shell)

    def prolog(self, job: int, task: int | None = None, **more: Any) -> None:
        """PrologSlurmctld."""
        self.call(script("prolog_slurmctld", job, task, **more))

    def epilog(self, job: int, task: int | None = None, code: int = 0, **more: Any) -> None:
        """EpilogSlurmctld."""
        self.call(script("epilog_slurmctld", job, task, SLURM_JOB_EXIT_CODE=code, **more))

    def jobcomp(self, job: int, state: str, task: int | None = None, **more: Any) -> None:
        """The job completion plugin."""
        self.call(completion(job, state, task, **more))


def install_hook(path: Path, spool: Path) -> Path:
    """The hook with another spool, as `slurm setup` installs it."""
    text = (resources.files("agent.slurm") / "hook.sh").read_text(encoding="utf-8")
    before = "spool=/var/spool/callback-agent\n"
    assert before in text
    path.write_text(text.replace(before, f"spool={spool}\n"), encoding="utf-8")
    path.chmod(0o755)
    return path


def call_hook(
    hook: Path, environment: Mapping[str, str], shell: str = ""
) -> subprocess.CompletedProcess[bytes]:
    """Run the hook as Slurm does. It must succeed, whatever happens."""
    command = [shell, str(hook)] if shell else [str(hook)]
    done = subprocess.run(
        command, env=environment, cwd="/", capture_output=True, timeout=DEADLINE, check=False
    )
    assert done.returncode == 0
    return done


def script(context: str, job: int, task: int | None = None, **more: Any) -> dict[str, str]:
    """The environment of PrologSlurmctld and EpilogSlurmctld. An array task's own id is the
    array's and its number, plus 1."""
    found = {
        **CONTROLLER,
        "SLURM_SCRIPT_CONTEXT": context,
        "SLURM_JOB_ID": job if task is None else job + task + 1,
        "SLURM_JOB_NAME": "wrap",
        "SLURM_JOB_USER": "mia",
        "SLURM_JOB_UID": 1000,
        "SLURM_JOB_NODELIST": "node1",
        "SLURM_JOB_RESTART_COUNT": 0,
    }
    if task is not None:
        found |= {"SLURM_ARRAY_JOB_ID": job, "SLURM_ARRAY_TASK_ID": task}
    return {name: str(value) for name, value in (found | more).items()}


def completion(job: int, state: str, task: int | None = None, **more: Any) -> dict[str, str]:
    """The environment of jobcomp/script."""
    found = {
        "JOBID": job if task is None else job + task + 1,
        "JOBSTATE": state,
        "JOBNAME": "wrap",
        "UID": 1000,
        "NODES": "node1",
        "ARRAYJOBID": 0 if task is None else job,
        "ARRAYTASKID": 4294967294 if task is None else task,
        "START": 1795784737,
        "END": 1795784738,
        "DEPENDENCY": "",
        "EXITCODE": "0:0",
    }
    return {name: str(value) for name, value in (found | more).items()}


def is_private(path: Path) -> bool:
    """Whether only its owner can read a file."""
    return stat.S_IMODE(path.stat().st_mode) == 0o600
