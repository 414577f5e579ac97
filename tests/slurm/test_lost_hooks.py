"""Hooks of which any may be lost, and the queue in between: each end is told once, and rightly."""

from __future__ import annotations

from collections import Counter
from typing import Any
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.slurm import jobs, mapping, queue
from agent.slurm.commands import Row
from agent.slurm.known import Event, Known
from agent.slurm.mapping import Report
from agent.slurm.queue import Answer, Follower
from support.slurm_site import completion, script

JOB = 100


def report(environment: dict[str, str]) -> Report:
    return mapping.report_of(b"".join(f"{k}={v}\0".encode() for k, v in environment.items()))


class Slurm:
    """One job or array, what of it is where, and what the adapter makes of it."""

    def __init__(self, tasks: int) -> None:
        self.time = 1000.0
        #: By task: its state in squeue.
        self.state: dict[int | None, str] = dict.fromkeys(range(tasks) if tasks else [None], "")
        self.known = Known()
        self.follower = Follower(self.known)
        self.events: list[str] = []

    def hook(self, environment: dict[str, str], *, lost: bool) -> None:
        """Slurm calls a hook."""
        self.time += 1
        if not lost:
            one = report(environment)
            self.note(jobs.reported(self.known, one, self.time))
            self.follower.touched(JOB, one.task, self.known)

    def note(self, events: list[Event]) -> None:
        self.events += [str(event) for event in events if event.type != "host"]

    def row(self, task: int | None, state: str, tasks: str = "") -> Row:
        own = JOB if task is None else JOB + task + 1
        name = tasks or ("" if task is None else str(task))
        times: Any = {"priority": 0, "submitted": 0, "started": 0, "ended": 0}
        who: Any = {"user": "mia", "uid": 1000, "partition": "p", "nodes": "node1"}
        what: Any = {"directory": "", "command": "", "name": "wrap", "comment": ""}
        return Row(own, JOB, name, state, "None", "", **who, **times, **what)

    def poll(self) -> None:
        """The queue is asked, and answers."""
        self.time += 5
        states = self.state.items()
        rows = [self.row(task, "RUNNING") for task, state in states if state == "RUNNING"]
        waits = [task for task, state in states if state == ""]
        if waits:
            names = "" if None in waits else ",".join(map(str, waits))
            rows.append(self.row(None, "PENDING", names))
        ended = [self.row(task, state) for task, state in states if state not in ("", "RUNNING")]
        answer = Answer(queue.uptime(), rows, frozenset(self.follower.missing()), rows + ended)
        job = self.known.jobs.get(JOB)
        if not rows and (job is None or job.is_over):
            return
        if self.follower.is_newer(JOB, answer):
            job, events = jobs.seen(self.known, JOB, "wrap")
            job.array = job.array or None not in self.state
            self.note(events)
            self.note(self.follower.look(job, rows, self.known, answer, self.time))


ENDS = st.sampled_from(["COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"])


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_every_end_is_told_once(data: st.DataObject) -> None:
    tasks = data.draw(st.integers(0, 4), "tasks")
    slurm = Slurm(tasks)
    lose = st.booleans() if data.draw(st.booleans(), "lossy") else st.just(False)
    count = {"SLURM_ARRAY_TASK_COUNT": tasks}
    with patch.object(queue, "uptime", lambda: slurm.time):
        slurm.poll()
        to_do: list[int | None] = [task for task in slurm.state for _ in range(2)]
        while to_do:
            task = to_do.pop(data.draw(st.integers(0, len(to_do) - 1), "next"))
            if slurm.state[task] == "":
                slurm.state[task] = "RUNNING"
                environment = script("prolog_slurmctld", JOB, task, **count)
                slurm.hook(environment, lost=data.draw(lose, "prolog is lost"))
            else:
                slurm.state[task] = state = data.draw(ENDS, "end")
                status = int(state != "COMPLETED")
                ends = [
                    script("epilog_slurmctld", JOB, task, SLURM_JOB_EXIT_CODE=status, **count),
                    completion(JOB, state, task),
                ]
                if data.draw(st.booleans(), "epilog last"):
                    ends.reverse()
                for one in ends:
                    slurm.hook(one, lost=data.draw(lose, "end is lost"))
                    if data.draw(st.booleans(), "look between"):
                        slurm.poll()
            for _ in range(data.draw(st.integers(0, 3), "looks")):
                slurm.poll()
        for _ in range(2 * queue.MISSED + 2):
            slurm.poll()
    told = Counter(slurm.events)
    assert told["submit-job-self"] == 1
    outcomes = {task: mapping.STATES[state] for task, state in slurm.state.items()}
    names = {each[-1] for each in outcomes.values()}
    worst = next(one for one in ("failed", "killed", "complete") if one in names)
    of_jobs = ("complete-job-self", "failed-job-self", "killed-job-self", "done-job-self")
    assert [event for event in of_jobs if told[event]] == [f"{worst}-job-self"]
    for task, each in outcomes.items():
        for name in each:
            event = f"{name}-job-self" if task is None else f"{name}-work-self-{task}"
            assert told[event] == 1, event
    assert max(told.values()) == 1
    assert slurm.events[-1] == f"{worst}-job-self"
    assert slurm.known.jobs[JOB].is_over
