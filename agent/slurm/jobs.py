"""What is known of the jobs, and which events follow from a report about one.

A job has tasks: those of its array, or one without a number. A task is new, `waiting` to run again,
`running`, `ending` (the epilog came, and not yet the state that the completion plugin reports) or
`over`. An event is a change of such a state, so what is reported twice, or by two ways, makes it
once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from agent.slurm import mapping
from agent.slurm.mapping import Report

#: By the outcome of tasks, which counts for the array: the first of these that any task has.
_WORST = ("failed", "killed", "done", "complete")
#: Stands for the tasks of an array that were cancelled before they had a number.
_REST = "rest"


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a job, with Qube's names."""

    name: str
    type: str
    extra: str | None = None

    def __str__(self) -> str:
        text = f"{self.name}-{self.type}-self"
        return text if self.extra is None else f"{text}-{self.extra}"


class Task(msgspec.Struct):
    """A task of an array, or all of a job without one."""

    state: str = ""
    #: The last event of its end.
    outcome: str = ""
    restart: int = 0
    #: Slurm's own id of it; 0 if that is not known.
    own: int = 0
    nodes: str = ""
    #: Of a task that is ending: whether its exit status was 0.
    succeeded: bool | None = None
    #: The time of its end, as the completion plugin wrote it.
    end: str = ""


class Job(msgspec.Struct):
    """A job, or a whole array."""

    id: int
    label: str = ""
    #: The id of the parent; 0 without one.
    parent: int = 0
    #: The id of the process group; the job's own where nothing joins it to another.
    pgrp: int = 0
    uid: int = -1
    user: str = ""
    array: bool = False
    #: Tasks of the array; 0 if that is not known.
    count: int = 0
    #: Tasks that are over.
    over: int = 0
    #: `waiting`, `blocked`, `running` or `over`.
    state: str = ""
    #: How it ended: the name of the event. And when, in seconds since 1970.
    outcome: str = ""
    over_at: float = 0.0
    #: The comment that was read last.
    comment: str = ""

    @property
    def is_over(self) -> bool:
        return self.state == "over"

    def as_owner(self) -> dict[str, Any]:
        """As the agent wants it."""
        found: dict[str, Any] = {"id": self.id, "pgrp": self.pgrp}
        if self.label:
            found["label"] = self.label
        if self.parent:
            found["pid"] = self.parent
        return found


Tasks = dict[str, Task]


class Known:
    """All jobs that are known, with their tasks. What changed is in `changed` until it is saved."""

    def __init__(
        self, jobs: Iterable[Job] = (), tasks: Iterable[tuple[int, str, Task]] = ()
    ) -> None:
        self.jobs = {job.id: job for job in jobs}
        self.tasks: dict[int, Tasks] = {number: {} for number in self.jobs}
        for number, name, task in tasks:
            self.tasks[number][name] = task
        self._own = {task.own: number for number, of in self.tasks.items() for task in of.values()}
        #: Jobs, and tasks by job and name, that are not as they were saved.
        self.changed: set[tuple[int, str | None]] = set()
        #: Jobs of which all that was saved is to be dropped.
        self.forgotten: set[int] = set()
        #: Jobs whose parent was found after its end, with their parents.
        self.late: list[tuple[Job, Job]] = []

    def job(self, number: int) -> Job | None:
        """The job with this id, or the array whose task has it."""
        return self.jobs.get(number) or self.jobs.get(self._own.get(number, 0))

    def report(self, report: Report, now: float) -> list[Event]:
        """Take what a hook reports; the events that follow, in order. `now` as `Job.over_at`."""
        if report.kind in ("node prolog", "node epilog"):
            return self._on_node(report)
        job = self.jobs.get(report.job)
        if job is not None and self._is_another(job, report):
            self.forget([job.id])
            job = None
        events = []
        if job is None:
            job = self._add(report.job, report.name)
            events.append(Event("submit", "job"))
        self.describe(job, report.uid, report.user, report.comment, report.dependency)
        job.label = job.label or report.name
        job.array = job.array or bool(report.task) or report.rest
        job.count = report.count or job.count
        if report.rest:
            return events + self.end_rest(job, now)
        task = self._task(job, report)
        if report.kind == "prolog":
            return events + self._started(job, report.task, task, report.restart or 0)
        if report.kind == "epilog":
            self._ending(job, report, task)
            return events
        told, task.end = task.end, report.end
        # Also where squeue told the end before.
        if task.state == "over" and told in ("", report.end):
            return events
        if report.state in mapping.AGAIN:
            return events + self.again(job, report.task)
        names = mapping.STATES.get(report.state)
        if names is None:
            return events
        return events + self.ended(job, report.task, names, now)

    def _on_node(self, report: Report) -> list[Event]:
        """What slurmd reports. It knows no arrays, and comes after PrologSlurmctld."""
        if self.job(report.job) is None:
            return []
        name = "assigned" if report.kind == "node prolog" else "removed"
        return [Event(name, "host", node) for node in mapping.hosts(report.nodes)]

    def _is_another(self, job: Job, report: Report) -> bool:
        """Whether a report is about a new job that has the id of one that is over."""
        if report.kind != "prolog" or not job.is_over:
            return False
        task = self.tasks[job.id].get(report.task)
        return task is None or (report.restart or 0) <= task.restart

    def _add(self, number: int, label: str) -> Job:
        job = Job(number, label, pgrp=number)
        self.jobs[number] = job
        self.tasks[number] = {}
        self.changed.add((number, None))
        return job

    def describe(self, job: Job, uid: int | None, user: str, comment: str, dependency: str) -> None:
        """Take what is said of a job beside its state. Only a job of the same user can be its
        parent or its group by its comment: nobody joins another's group."""
        before = msgspec.structs.astuple(job)
        job.uid = job.uid if uid is None else uid
        job.user = user or job.user
        if comment and comment != job.comment:
            job.comment = comment
            said = mapping.said_in(comment)
            job.label = said.get("label", job.label)
            if parent := self._same_user(job, said.get("parent")):
                self._set_parent(job, parent)
            if group := self._same_user(job, said.get("pgrp")):
                job.pgrp = group.pgrp
        if not job.parent and (number := mapping.parent_of(dependency)):
            waited_for = self.job(number)
            if waited_for is None:
                job.parent = number
            elif waited_for is not job:
                self._set_parent(job, waited_for)
        if msgspec.structs.astuple(job) != before:
            self.changed.add((job.id, None))

    def _set_parent(self, job: Job, parent: Job) -> None:
        job.parent = parent.id
        if parent.is_over:
            self.late.append((job, parent))
        if job.pgrp == job.id and parent.uid == job.uid:
            job.pgrp = parent.pgrp

    def _same_user(self, job: Job, text: str | None) -> Job | None:
        """The job of the same user that a comment names."""
        number = int(text) if text and text.isascii() and text.isdecimal() else 0
        found = self.job(number)
        return found if found and found is not job and found.uid == job.uid != -1 else None

    def _task(self, job: Job, report: Report) -> Task:
        task = self.tasks[job.id].setdefault(report.task, Task())
        self.changed |= {(job.id, report.task), (job.id, None)}
        if report.own:
            task.own = report.own
            self._own[report.own] = job.id
        task.nodes = report.nodes or task.nodes
        return task

    # What happens to a task ---------------------------------------------------------------------

    def _started(self, job: Job, name: str, task: Task, restart: int) -> list[Event]:
        if task.state in ("running", "ending") and restart <= task.restart:
            return []
        self._set(job, name, task, "running")
        task.outcome, task.end, task.restart = "", "", restart
        events = []
        if job.state != "running":
            job.state, job.over_at = "running", 0.0
            if name:
                events.append(Event("running", "job"))
        events.append(_of_task("running", name))
        return events + [Event("running", "host", node) for node in mapping.hosts(task.nodes)]

    def _ending(self, job: Job, report: Report, task: Task) -> None:
        # Of a task that is to run again, the epilog may come after the completion plugin's report.
        if task.state in ("", "running"):
            self._set(job, report.task, task, "ending")
            task.succeeded = report.succeeded

    def again(self, job: Job, name: str) -> list[Event]:
        """A task will run again."""
        self._set(job, name, self.tasks[job.id][name], "waiting")
        if not name:
            job.state = "waiting"
        return [_of_task("waiting", name)]

    def ended(self, job: Job, name: str, names: Sequence[str], now: float) -> list[Event]:
        """A task ended, with events of these names."""
        task = self.tasks[job.id].setdefault(name, Task())
        ran = task.state in ("running", "ending")
        self._set(job, name, task, "over")
        task.outcome = names[-1]
        events = [_of_task(one, name) for one in names]
        if ran:
            events += [Event(names[-1], "host", node) for node in mapping.hosts(task.nodes)]
        if not name:
            job.state, job.outcome, job.over_at = "over", names[-1], now
            return events
        return events + (self._over(job, now) if 0 < job.count <= job.over else [])

    def _set(self, job: Job, name: str, task: Task, state: str) -> None:
        job.over += (state == "over") - (task.state == "over")
        task.state = state
        self.changed |= {(job.id, name), (job.id, None)}

    def end_rest(self, job: Job, now: float) -> list[Event]:
        """Those tasks of an array that had not started were cancelled."""
        tasks = self.tasks[job.id]
        job.array = True
        unstarted = [name for name, task in tasks.items() if task.state in ("", "waiting")]
        for name in unstarted:
            self._set(job, name, tasks[name], "over")
            tasks[name].outcome = "killed"
        # Of the others not even the numbers are known.
        self._set(job, _REST, tasks.setdefault(_REST, Task(outcome="killed")), "over")
        job.count = len(tasks)
        events = [_of_task("killed", name) for name in unstarted]
        return events + (self._over(job, now) if job.over == job.count else [])

    def _over(self, job: Job, now: float) -> list[Event]:
        """All tasks of an array are over."""
        if job.is_over:
            return []
        self.changed.add((job.id, None))
        outcomes = {task.outcome for task in self.tasks[job.id].values()}
        worst = next((one for one in _WORST if one in outcomes), mapping.UNKNOWN[0])
        job.state, job.outcome, job.over_at = "over", worst, now
        return [Event(worst, "job")]

    def gone(self, job: Job, now: float) -> list[Event]:
        """Slurm has no task of it any more, and those that are known are over."""
        return [] if not job.array else self._over(job, now)

    # What squeue shows --------------------------------------------------------------------------

    def seen(self, number: int, label: str) -> tuple[Job, list[Event]]:
        """The job with this id that Slurm has, and the events that follow."""
        job = self.jobs.get(number)
        if job is not None:
            return job, []
        return self._add(number, label), [Event("submit", "job")]

    def queued(self, job: Job, held: bool) -> list[Event]:
        """Nothing of a job runs, and it waits or is held."""
        state = "blocked" if held else "waiting"
        if job.state == state:
            return []
        events = [Event("unblock", "job")] if job.state == "blocked" else []
        job.state = state
        self.changed.add((job.id, None))
        return [*events, Event(state, "job")]

    def runs(self, job: Job, name: str, own: int, nodes: str) -> list[Event]:
        """A task runs whose prolog was not reported."""
        report = Report("prolog", job.id, name, own, nodes=nodes)
        task = self._task(job, report)
        job.array = job.array or bool(name)
        return self._started(job, name, task, task.restart)

    # Forgetting ---------------------------------------------------------------------------------

    def living_groups(self) -> set[int]:
        """The process groups with a job that is not over."""
        return {job.pgrp for job in self.jobs.values() if not job.is_over}

    def forget_over(self, before: float) -> list[int]:
        """Forget the groups of which all jobs were over before that time; their jobs."""
        kept = {job.pgrp for job in self.jobs.values() if not job.is_over or job.over_at >= before}
        gone = [job.id for job in self.jobs.values() if job.pgrp not in kept]
        self.forget(gone)
        return gone

    def forget(self, numbers: Iterable[int]) -> None:
        """Forget these jobs."""
        for number in numbers:
            del self.jobs[number]
            for task in self.tasks.pop(number).values():
                self._own.pop(task.own, None)
            self.forgotten.add(number)


def _of_task(name: str, task: str) -> Event:
    return Event(name, "work", task) if task else Event(name, "job")
