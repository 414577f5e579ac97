"""Events of Slurm that wait: how long the daemon takes for 10,000 of them, and whether each is
handled once and in order.

They are those of arrays of 33 tasks, each of which starts and ends, with its epilog and the report
of the completion plugin. Every array has a callback for its end. `--living` more jobs are alive
meanwhile, and a trigger concerns all of them with each end of a task if `--any` is given. It exits
1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from support.agents import wait_for
from support.slurm_site import Site, completion, script

TASKS = 33
#: The first array; those that live only have ids after all arrays.
FIRST, STEP = 10_000, 100
#: Seconds that a slow machine may take.
LIMIT = 600.0


def reports(events: int) -> Iterator[Mapping[str, str]]:
    """What hooks report, three times for each task."""
    for number in range(events // 3):
        job, task = FIRST + number // TASKS * STEP, number % TASKS
        count = {"SLURM_ARRAY_TASK_COUNT": TASKS}
        yield script("prolog_slurmctld", job, task, **count)
        yield script("epilog_slurmctld", job, task, SLURM_JOB_EXIT_CODE=0, **count)
        yield completion(job, "COMPLETED", task)


def leave(site: Site, environments: Iterator[Mapping[str, str]]) -> int:
    """Leave events as hooks do, but all at once; their number."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    number = 0
    for number, environment in enumerate(environments, 1):
        data = b"".join(f"{name}={value}\0".encode() for name, value in environment.items())
        (site.spool / f"{boot}.{number / 100:.2f}.{number}.event").write_bytes(data)
    return number


def wrong(site: Site, events: int) -> Iterator[str]:
    """What was not handled as it should be."""
    arrays, rest = divmod(events // 3, TASKS)
    told = Counter(event for event in site.events() if "-host-" not in event)
    for number in range(arrays + (rest > 0)):
        job = FIRST + number * STEP
        tasks = TASKS if number < arrays else rest
        expected = [f"{name}-job-{job}" for name in ("submit", "running")]
        expected += [f"complete-job-{job}"] if tasks == TASKS else []
        for task in range(tasks):
            expected += [f"{name}-work-{job}-{task}" for name in ("running", "complete")]
        yield from (f"{event}: {told[event]} times" for event in expected if told[event] != 1)
    ended = [event for event in site.events() if event.startswith("complete-work-")]
    if ended != sorted(ended, key=lambda event: [int(part) for part in event.split("-")[2:]]):
        yield "the ends of tasks are not in order"
    noted = Counter(site.noted())
    if noted != Counter(f"all {FIRST + number * STEP}" for number in range(arrays)):
        yield f"callbacks: {len(noted)} of {arrays}"


def run(site: Site, events: int, living: int, anybody: bool) -> list[str]:
    """Print how long it takes; what is wrong."""
    conf = "all.py = complete-job-self\n"
    if anybody:
        conf += "all.py = killed-work-*-nothing\n"
    (site.callbacks / "all.py").write_text(site.note("all"))
    (site.callbacks / "callbacks.conf").write_text(conf)
    site.queue(
        [{"A": job, "F": job, "K": "N/A", "T": "RUNNING"} for job in range(10**6, 10**6 + living)]
    )
    site.agent.start()
    site.start()
    wait_for(lambda: any("first look" in one["message"] for one in site.told("message")))
    site.stop()
    left = leave(site, reports(events))
    began = time.monotonic()
    site.start()
    wait_for(lambda: not any(site.spool.glob("*.event")), "the end of the events", LIMIT)
    seconds = time.monotonic() - began
    print(f"{left} events in {seconds:.1f} s: {left / seconds:.0f} a second; {living} other jobs")
    arrays = events // 3 // TASKS
    wait_for(lambda: len(site.noted()) >= arrays, "the callbacks", LIMIT)
    print(f"{arrays} callbacks have run after {time.monotonic() - began:.1f} s")
    site.stop()
    return list(wrong(site, events))


def main() -> int:
    """Run it; its exit status."""
    parser = argparse.ArgumentParser(prog="slurm_backlog", description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=int, default=10_000, help="10000 by default")
    parser.add_argument("--living", type=int, default=0, help="other jobs; none by default")
    parser.add_argument("--any", action="store_true", help="a trigger names any context")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="backlog-"))
    site = Site(folder / "site")
    try:
        found = run(site, given.events, given.living, given.any)
    finally:
        site.close()
        shutil.rmtree(folder)
    for line in found[:10]:
        print(f"WRONG: {line}")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
