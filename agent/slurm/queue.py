"""What squeue shows, and the events that follow: submitted, waiting, held, unreported ends.

The queue is asked at an interval, in a thread, as slurmctld may take long to answer. The answer is
used only if all events in the spool are handled, and only for jobs of which no hook reported
anything since the question: else it would be older than what is known.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from agent.slurm import jobs, mapping
from agent.slurm.commands import Row, SlurmError
from agent.slurm.known import Event, Job, Known, Task

#: Seconds between an epilog and the question how the task ended, if no completion plugin says it.
GRACE = 1.0
#: How many times in a row a task is not in the queue, until it counts as ended.
MISSED = 2
#: States of squeue in which a task runs, and those in which it starts or ends.
_RUNNING = frozenset({"RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING"})
_BETWEEN = frozenset({"CONFIGURING", "COMPLETING", "STAGE_OUT"})

#: A task by job and name, or, with None, all that is left of a job.
TaskKey = tuple[int, str | None]


class Queue(Protocol):
    """Slurm's queue."""

    def rows(self, ids: Sequence[int] = (), *, ended: bool = False) -> list[Row]:
        """As `Slurm.rows`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the queue showed."""

    #: When it was asked, in seconds since the start of the machine.
    asked: float
    rows: list[Row] = field(default_factory=list)
    #: Tasks whose end was asked for, and their rows.
    missing: frozenset[TaskKey] = frozenset()
    ended: list[Row] = field(default_factory=list)
    #: Why there is no answer; empty if there is.
    error: str = ""


def uptime() -> float:
    """Seconds since the start of the machine."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def ask(queue: Queue, missing: Iterable[TaskKey], done: Callable[[Answer], object]) -> None:
    """Ask in a thread. `done` is called once, whatever happens."""
    wanted = frozenset(missing)
    asked = uptime()

    def work() -> None:
        try:
            rows = queue.rows()
            ids = sorted({job for job, _ in wanted})
            ended = queue.rows(ids, ended=True) if ids else []
        except SlurmError as error:
            done(Answer(asked, error=str(error)))
        except Exception:
            # An error of this program.
            done(Answer(asked, error=" ".join(traceback.format_exc().split())))
        else:
            done(Answer(asked, rows, wanted, ended))

    try:
        threading.Thread(target=work, name="squeue", daemon=True).start()
    except RuntimeError as error:
        done(Answer(asked, error=f"squeue cannot be asked: {error}"))


class Follower:
    """Compares the queue with what is known."""

    def __init__(self, known: Known) -> None:
        self._missed: dict[TaskKey, int] = {}
        #: Tasks whose epilog came, and when their end is asked for.
        self._ending: dict[TaskKey, float] = {}
        self._touched: dict[int, float] = {}
        now = uptime()
        for number, tasks in known.tasks.items():
            for name, task in tasks.items():
                if task.state == "ending":
                    self._ending[number, name] = now

    def touched(self, job: int, task: str, known: Known) -> None:
        """Note that a hook reported something of a task. Of an unknown job, nothing is kept."""
        if job not in known.jobs:
            return
        for name in (task, None):
            self._missed.pop((job, name), None)
        self._touched[job] = now = uptime()
        found = known.tasks.get(job, {}).get(task)
        if found is not None and found.state == "ending":
            self._ending[job, task] = now + GRACE
        else:
            self._ending.pop((job, task), None)

    @property
    def due(self) -> float | None:
        """When an end is to be asked for, as `uptime`; None if none is."""
        return min(self._ending.values(), default=None)

    def missing(self) -> set[TaskKey]:
        """The tasks whose end is asked for with the next question."""
        now = uptime()
        due = {task for task, at in self._ending.items() if at <= now}
        self._ending |= dict.fromkeys(due, now + GRACE)
        return due | {task for task, times in self._missed.items() if times >= MISSED}

    def is_newer(self, job: int, answer: Answer) -> bool:
        """Whether an answer is newer than all that hooks reported of a job."""
        return self._touched.get(job, 0.0) < answer.asked

    def forget(self, jobs: Iterable[int]) -> None:
        """Forget these jobs."""
        gone = set(jobs)
        for job in gone:
            self._touched.pop(job, None)
        self._missed = {task: n for task, n in self._missed.items() if task[0] not in gone}
        self._ending = {task: at for task, at in self._ending.items() if task[0] not in gone}

    def look(
        self, job: Job, rows: Sequence[Row], known: Known, answer: Answer, now: float
    ) -> list[Event]:
        """The events of a job that is not over, or of one that has rows in the queue."""
        events = []
        active = set()
        waits = [row for row in rows if row.waits]
        for row in waits:
            events += self._again(job, row, known)
        for row in rows:
            known.describe(job, row.uid, row.user, row.comment, row.dependency)
            if row.state in _RUNNING | _BETWEEN:
                active.add(row.task)
            if row.state in _RUNNING:
                task = known.tasks[job.id].get(row.task)
                if task is None or task.state in ("", "waiting"):
                    events += jobs.runs(known, job, row.task, row.id, row.nodes)
        if waits and not active and not (job.is_over or (job.state == "running" and job.array)):
            events += jobs.queued(known, job, all(row.is_held for row in waits))
        asked = {name for number, name in answer.missing if number == job.id}
        events += self._ended(job, asked - active, known, answer, now)
        self._count(job, active, _unstarted(job, waits, active, known), bool(rows), known)
        return events

    def _again(self, job: Job, row: Row, known: Known) -> list[Event]:
        """A task waits. It will run again if it ran before."""
        task = known.tasks[job.id].get(row.task)
        # An id that is used again may be another user's.
        if task is None or task.state in ("", "waiting") or row.uid != job.uid:
            return []
        self._ending.pop((job.id, row.task), None)
        return jobs.again(known, job, row.task)

    def _count(
        self, job: Job, active: set[str], unstarted: set[str], is_there: bool, known: Known
    ) -> None:
        """Count the answers in a row in which something is not in the queue and should be."""
        tasks = known.tasks[job.id]
        running = {name for name, task in tasks.items() if task.state == "running"} - active
        absent: set[TaskKey] = {(job.id, name) for name in running | unstarted}
        if not is_there and not job.is_over:
            absent.add((job.id, None))
        for old in [task for task in self._missed if task[0] == job.id]:
            if old not in absent:
                del self._missed[old]
        for one in absent:
            self._missed[one] = self._missed.get(one, 0) + 1

    def _ended(
        self, job: Job, asked: set[str | None], known: Known, answer: Answer, now: float
    ) -> list[Event]:
        """The events of ends that no hook reported."""
        if not asked:
            return []
        rows = {row.task: row for row in answer.ended if (row.array or row.id) == job.id}
        events = []
        tasks = known.tasks[job.id]
        if None in asked:
            asked |= {name for name, task in tasks.items() if task.state != "over"}
            asked |= {name for name in rows if name.isdecimal() and name not in tasks}
            asked |= jobs.unstarted(known, job)
            if not job.array and not any(rows):
                asked.add("")
        for name in sorted(name for name in asked if name is not None):
            names = _end_of(name, tasks.get(name), rows.get(name))
            if names is not None:
                self._ending.pop((job.id, name), None)
                events += jobs.ended(known, job, name, names, now)
        if None in asked:
            cancelled = any(not n.isdecimal() and n and rows[n].state == "CANCELLED" for n in rows)
            if cancelled and not job.is_over:
                events += jobs.end_rest(known, job, now)
            events += jobs.gone(known, job, now)
        return events


def _end_of(name: str, task: Task | None, row: Row | None) -> tuple[str, ...] | None:
    """The names of the events of a task's end, given what the queue shows of it; None if it has not
    ended, or its end is known already."""
    if task is not None and task.state == "over":
        return None
    if row is not None:
        return mapping.STATES.get(row.state)
    if task is None and name:
        # Slurm keeps nothing of an array task that was cancelled while it waited.
        return mapping.STATES["CANCELLED"]
    if task is not None and task.succeeded is not None:
        return ("complete",) if task.succeeded else ("failed",)
    return mapping.UNKNOWN


def _unstarted(job: Job, waits: Sequence[Row], active: set[str], known: Known) -> set[str]:
    """The tasks of an array that waited before and are not in the queue any more, though nothing
    was reported of them. Stores these, and those that wait now, in the job."""
    text = ",".join(row.task for row in waits if row.task)
    if text == job.unstarted:
        return set()
    gone = jobs.unstarted(known, job) - {str(n) for n in mapping.tasks_in(text)} - active
    job.unstarted = ",".join(filter(None, [text, *sorted(gone, key=int)]))
    known.changed.add((job.id, None))
    return gone
