"""What is known of the jobs and their tasks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from agent.slurm import mapping


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
    #: Of an array, the tasks that have not started, as squeue showed them: `3-7,9`.
    unstarted: str = ""
    #: `waiting`, `blocked`, `running` or `over`.
    state: str = ""
    #: How it ended: the name of the event. And when, in seconds since 1970.
    outcome: str = ""
    over_at: float = 0.0

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
        #: The job, by Slurm's own id of one of its tasks.
        self.own = {
            task.own: number
            for number, of in self.tasks.items()
            for task in of.values()
            if task.own
        }
        #: Jobs, and tasks by job and name, that are not as they were saved.
        self.changed: set[tuple[int, str | None]] = set()
        #: Jobs of which all that was saved is to be dropped.
        self.forgotten: set[int] = set()
        #: Jobs whose parent was found after its end, with their parents.
        self.late: list[tuple[Job, Job]] = []

    def job(self, number: int) -> Job | None:
        """The job with this id, or the array whose task has it."""
        return self.jobs.get(number) or self.jobs.get(self.own.get(number, 0))

    def add(self, number: int, label: str) -> Job:
        """A job that was not known."""
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
        said = mapping.said_in(comment)
        job.label = said.get("label", job.label)
        if not job.parent and (parent := self._same_user(job, said.get("parent"))):
            self._set_parent(job, parent)
        if job.pgrp == job.id and (group := self._same_user(job, said.get("pgrp"))):
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
                self.own.pop(task.own, None)
            self.forgotten.add(number)
