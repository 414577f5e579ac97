"""Shows universal callbacks on a farm: a Slurm of one node, an agent, and the adapter between them.

All of it is in a temporary folder, and is ended and removed at the end.
"""

from __future__ import annotations

import contextlib
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from support.agents import wait_for
from support.slurm_cluster import missing
from support.slurm_farm import Farm, farm

CONF = """\
# callbacks.conf
frame.py = complete-work-self-*
alarm.py = failed-work-self-*
mail-status.qcb = done-job-self
both.py = complete-job-self && complete-job-parent
"""
FILES = {
    "frame_py": "import qb\nprint('a frame of job', qb.jobid(), 'is ready')\n",
    "alarm_py": "import qb\nqb.block(qb.jobid())\n",
    "both_py": "import qb\nprint('job', qb.jobid(), 'and its parent are complete')\n",
    "other_py": "import qb\nprint('the edit: a frame of job', qb.jobid())\n",
    "mail-status_qcb": "mail-status\n",
}


def say(text: str) -> None:
    """Print a heading."""
    print(f"\n== {text}", flush=True)


def show(one: Farm, seen: int) -> int:
    """Print what is new in the adapter's log; how long it is."""
    lines = one.log.read_text().splitlines()
    for line in lines[seen:]:
        if ": event: no event of" not in line:
            print(line.replace(f"{one.callbacks}/", ""))
    return len(lines)


def until(file: Path) -> str:
    """A command that waits for a file."""
    return f"until [ -e {file} ]; do sleep 0.05; done"


def ended(one: Farm, *jobs: int) -> None:
    """Wait until the adapter has heard of the end of jobs, and all callbacks have run."""
    wait_for(lambda: _are_over(one.log.read_text(), jobs), f"the end of {jobs}")
    wait_for(lambda: _have_run(one.log.read_text()), "the end of callbacks")


def _are_over(log: str, jobs: Sequence[int]) -> bool:
    return all(re.search(rf"(complete|failed)-job-self.* of job {job}\b", log) for job in jobs)


def _have_run(log: str) -> bool:
    fired = sum(map(int, re.findall(r": ([0-9]+) callbacks? to run", log)))
    return len(re.findall(r": callback: ", log)) == fired


def main() -> int:
    """Run the demonstration; its exit status."""
    if reason := missing():
        print(f"demo-slurm: {reason}", file=sys.stderr)
        print(
            "install them with: apt-get install --no-install-recommends", end=" ", file=sys.stderr
        )
        print("slurmctld slurmd slurm-client munge", file=sys.stderr)
        return 2
    say("Starting: munged, slurmctld, slurmd, callback-agent serve, callback-agent slurm run")
    with farm("--log-format", "text") as one:
        one.serve(CONF, **FILES)
        print(one.cluster.run("sinfo"), end="")
        say("The lines of slurm.conf that report events (callback-agent slurm setup)")
        for line in one.cluster.conf.read_text().splitlines():
            if "hook" in line or "jobcomp" in line:
                print(line)
        say("The callbacks")
        print(CONF, end="")
        seen = show(one, 0)

        say("sbatch --array=0-4%1: task 1 fails, and alarm.py holds the others")
        # The one after task 1 may begin before it is held.
        released = one.folder / "released"
        command = f"[ $SLURM_ARRAY_TASK_ID -lt 2 ] || {until(released)}"
        command += "; [ $SLURM_ARRAY_TASK_ID != 1 ]"
        array = one.cluster.sbatch(command, "--array=0-4%1", "--job-name=frames")
        wait_for(lambda: "JobHeldAdmin" in one.cluster.squeue("-t", "PD", "-o", "%r"), "a held job")
        print(one.cluster.run("squeue"), end="")
        (tasks,) = one.cluster.squeue("-t", "PD", "-o", "%K")
        held = f"{array}_[{tasks.partition('%')[0]}]"
        say(f"scontrol release {held}")
        one.cluster.scontrol("release", held)
        released.touch()
        ended(one, array)
        seen = show(one, seen)

        say("sbatch two jobs: the second waits for the first, and both are complete")
        both = one.folder / "both"
        first = one.cluster.sbatch(until(both), "--job-name=first")
        second = one.cluster.sbatch("true", f"--dependency=afterok:{first}", "--job-name=second")
        # A dependency on what is over already is none.
        both.touch()
        ended(one, first, second)
        seen = show(one, seen)

        say("An edit of callbacks.conf between two tasks: from now on other.py is for frames")
        go = one.folder / "go"
        command = f"[ $SLURM_ARRAY_TASK_ID = 0 ] || {until(go)}"
        job = one.cluster.sbatch(command, "--array=0-1", "--job-name=edited")
        wait_for(lambda: f"frame.py: complete-work-self-* for job {job}" in one.log.read_text())
        one.serve(CONF.replace("frame.py", "other.py"))
        go.touch()
        ended(one, job)
        show(one, seen)

        say("The mails that Slurm's MailProg was given")
        print(one.mails(), end="")
        say("callback-agent slurm status")
        print(one.shown_status(), end="")
        say("Stopping")
    print("done")
    return 0


if __name__ == "__main__":
    # Whatever ends it, all that it started ends too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
