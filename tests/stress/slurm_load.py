"""Runs an array of 1,000 tasks on a Slurm of one node, and counts and times what its events did.

First: every task's start and end must be handled exactly once, and each end must have run its
callback once, although slurmctld is restarted and the adapter is killed in between. Then: how long
a callback takes to start, where the farm has nothing else to do. Last: what the hooks add to the
time of a job: with them, without, and with hooks that do nothing, in turns. It prints a table, and
exits 1 if a count is wrong.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from statistics import median, quantiles

from support.agents import wait_for
from support.slurm_cluster import missing
from support.slurm_farm import Farm, farm

CONF = "frame.py = done-work-self-*\njob.py = done-job-self\n"


def over(one: Farm, seconds: float) -> None:
    """Wait until no job is left."""
    wait_for(lambda: not one.cluster.squeue("-o", "%i"), "the end of the jobs", seconds)


def counted(one: Farm, tasks: int, seconds: float) -> tuple[list[str], float]:
    """Run the array; what is wrong, and the seconds from `sbatch` until all callbacks have run."""
    began = time.monotonic()
    job = one.cluster.sbatch("true", f"--array=0-{tasks - 1}")

    def share(part: float) -> None:
        wait_for(lambda: len(one.noted(job)) >= part * tasks, f"{part} of the tasks", seconds)

    share(0.3)
    one.cluster.stop_controller()
    one.cluster.start_controller()
    # Slurm itself loses the start of a task that it was about to start: as soon as it asks the
    # node, it starts it again.
    wait_for(one.cluster.answers, "slurmctld")
    one.cluster.scontrol("reconfigure")
    share(0.6)
    one.stop_adapter(signal.SIGKILL)
    one.start_adapter()
    over(one, seconds)
    wait_for(lambda: "job" in one.noted(job) and not one.waiting(), "the callbacks", seconds)
    took = time.monotonic() - began
    events = Counter(
        event
        for record in one.logged("event")
        if record["job"]["id"] == job
        for event in record["events"]
        if "-work-" in event
    )
    again = Counter(re.findall(rf"Requeuing JobId={job}_([0-9]+)\(", one.cluster.logs()))
    wanted = {
        f"{name}-work-self-{task}": 1 + (name == "running") * again[str(task)]
        for task in range(tasks)
        for name in ("running", "complete")
    }
    wrong = [
        f"{event}: {events[event]} times, not {wanted.get(event, 0)}"
        for event in {*events, *wanted}
        if events[event] != wanted.get(event, 0) and not event.startswith(("failed-", "waiting-"))
    ]
    print(f"tasks that Slurm started again after its restart: {again.total()}")
    noted = Counter(one.noted(job))
    if not tasks <= noted["frame"] + noted["frame1"] or noted["frame"] > tasks + again.total():
        wrong.append(f"callbacks: {dict(noted)}")
    print(f"callbacks that ran: {noted['frame']}, and as repeats: {noted['frame1']}")
    return wrong, took


def times(one: Farm, trigger: str) -> tuple[list[float], list[float]]:
    """Milliseconds from the hook: until an event was handled, and until a callback started."""
    handled = [
        record["waited_ms"] for record in one.logged("event") if record["source"] != "squeue"
    ]
    callbacks = [record for record in one.logged("callback") if record["trigger"] == trigger]
    return handled, [record["latency_ms"] for record in callbacks if not record["repeat"]]


def turnaround(one: Farm) -> float:
    """Milliseconds that a job takes on a farm that has nothing else to do: `srun true`."""
    began = time.monotonic()
    one.cluster.run("srun", "--quiet", "true")
    return (time.monotonic() - began) * 1000


def whole(one: Farm, tasks: int, seconds: float) -> float:
    """Milliseconds for each task of an array that runs as fast as the farm can."""
    began = time.monotonic()
    one.cluster.sbatch("true", f"--array=0-{tasks - 1}")
    over(one, seconds)
    return (time.monotonic() - began) * 1000 / tasks


def shown(what: str, values: Sequence[float]) -> None:
    """Print a row."""
    last = quantiles(values, n=100)[98]
    print(f"{what:44} p50 {median(values):8.1f} ms   p99 {last:8.1f} ms", flush=True)


def main() -> int:
    """Run it; its exit status."""
    parser = argparse.ArgumentParser(prog="slurm-load", description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=1000, help="of the array; 1000 by default")
    parser.add_argument("--jobs", type=int, default=100, help="that are timed, one by one")
    parser.add_argument("--rounds", type=int, default=3, help="of arrays, with and without hooks")
    parser.add_argument("--batch", type=int, default=100, help="tasks of such an array")
    parser.add_argument("--seconds", type=float, default=900.0, help="the most for each step")
    given = parser.parse_args()
    if reason := missing():
        print(f"slurm-load: {reason}", file=sys.stderr)
        return 2
    with (
        farm(cpus=8) as one,
        farm(cpus=8, hooks=False) as without,
        farm(cpus=8) as empty,
    ):
        # What Slurm itself needs for a prolog.
        empty.hook.write_text("#!/bin/sh\nexit 0\n")
        one.serve(CONF, frame_py=one.note("frame"), job_py=one.note("job"))
        wrong, took = counted(one, given.tasks, given.seconds)
        print(f"{given.tasks} tasks, from sbatch to the last callback: {took:.1f} s")
        for line in wrong[:10]:
            print(f"WRONG: {line}")
        if not wrong:
            print("each start and each end was handled exactly once")
        handled, started = times(one, "done-work-self-*")
        shown("hook to event handled, all tasks at once", handled)
        shown("hook to callback's start, the same", started)
        before = [len(values) for values in times(one, "done-job-self")]
        turns = [
            (turnaround(one), turnaround(without), turnaround(empty)) for _ in range(given.jobs)
        ]
        wait_for(lambda: not one.waiting() and _idle(one), "the callbacks", given.seconds)
        handled, started = times(one, "done-job-self")
        shown("hook to event handled, one job at a time", handled[before[0] :])
        shown("hook to callback's start, the same", started[before[1] :])
        shown("srun true, with the hooks", [turn[0] for turn in turns])
        shown("srun true, without hooks, in turns", [turn[1] for turn in turns])
        shown("srun true, with hooks that do nothing", [turn[2] for turn in turns])
        print(
            "the hooks add to a job, by the median of its turns:"
            f" {median(turn[0] - turn[1] for turn in turns):.0f} ms;"
            f" hooks that do nothing: {median(turn[2] - turn[1] for turn in turns):.0f} ms"
        )
        rounds = [
            (whole(one, given.batch, given.seconds), whole(without, given.batch, given.seconds))
            for _ in range(given.rounds)
        ]
        said = ", ".join(f"{a:.0f} / {b:.0f}" for a, b in rounds)
        print(f"ms for each of {given.batch} tasks at once, with and without hooks: {said}")
    return int(bool(wrong))


def _idle(one: Farm) -> bool:
    """Whether every callback that was to run has run."""
    to_run: int = sum(record["fires"] for record in one.logged("event"))
    return len(one.logged("callback")) >= to_run


if __name__ == "__main__":
    sys.exit(main())
