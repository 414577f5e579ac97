"""Which events follow from a report about a job.

A job has tasks: those of its array, or one without a number. A task is new, `waiting` to run again,
`running`, `ending` (the epilog came, and not yet the state that the completion plugin reports) or
`over`. An event is a change of such a state, so what is reported twice, or by two ways, makes it
once.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.slurm import mapping
from agent.slurm.known import Event, Job, Known, Task
from agent.slurm.mapping import Report

#: By the outcome of tasks, which counts for the array: the first of these that any task has.
_WORST = ("failed", "killed", "done", "complete")
#: Stands for the tasks of an array that were cancelled before they had a number.
_REST = "rest"


def reported(known: Known, report: Report, now: float) -> list[Event]:
    """Take in what a hook reports. Returns the events that follow, in order. `now` is in seconds
    since 1970."""
    if report.kind in ("node prolog", "node epilog"):
        return _on_node(known, report)
    job = known.jobs.get(report.job)
    if job is not None and _is_another(known, job, report):
        known.forget([job.id])
        job = None
    events = []
    if job is None:
        job = known.add(report.job, report.name)
        events.append(Event("submit", "job"))
    known.describe(job, report.uid, report.user, report.comment, report.dependency)
    job.label = job.label or report.name
    job.array = job.array or bool(report.task) or report.rest
    job.count = report.count or job.count
    if report.rest:
        return events + end_rest(known, job, now)
    task = _task(known, job, report)
    if report.kind == "prolog":
        return events + _started(known, job, report.task, task, report.restart or 0)
    if report.kind == "epilog":
        _ending(known, job, report, task)
        return events
    told, task.end = task.end, report.end
    # Also if squeue showed the end before.
    if task.state == "over" and told in ("", report.end):
        return events
    if report.state in mapping.AGAIN:
        return events + again(known, job, report.task)
    if report.state in mapping.MAYBE_AGAIN:
        if task.state != "waiting":
            _set(known, job, report.task, task, "ending")
            # Used if squeue no longer knows the task.
            task.succeeded = False
        return events
    names = mapping.STATES.get(report.state)
    if names is None:
        return events
    return events + ended(known, job, report.task, names, now)


def _on_node(known: Known, report: Report) -> list[Event]:
    """What slurmd reports. It knows no arrays, and comes after PrologSlurmctld."""
    if known.job(report.job) is None:
        return []
    name = "assigned" if report.kind == "node prolog" else "removed"
    return [Event(name, "host", node) for node in mapping.hosts(report.nodes)]


def _is_another(known: Known, job: Job, report: Report) -> bool:
    """Whether a report is about a new job that has the id of one that is over."""
    if report.kind != "prolog" or not job.is_over:
        return False
    task = known.tasks[job.id].get(report.task)
    return task is None or (report.restart or 0) <= task.restart


def _task(known: Known, job: Job, report: Report) -> Task:
    task = known.tasks[job.id].setdefault(report.task, Task())
    known.changed |= {(job.id, report.task), (job.id, None)}
    if report.own:
        task.own = report.own
        known.own[report.own] = job.id
    task.nodes = report.nodes or task.nodes
    return task


def _started(known: Known, job: Job, name: str, task: Task, restart: int) -> list[Event]:
    if task.state in ("running", "ending") and restart <= task.restart:
        return []
    _set(known, job, name, task, "running")
    task.outcome, task.end, task.restart = "", "", restart
    events = []
    if job.state != "running":
        job.state, job.over_at = "running", 0.0
        if name:
            events.append(Event("running", "job"))
    events.append(_of_task("running", name))
    return events + [Event("running", "host", node) for node in mapping.hosts(task.nodes)]


def _ending(known: Known, job: Job, report: Report, task: Task) -> None:
    # Of a task that is to run again, the epilog may come after the completion plugin's report.
    if task.state in ("", "running"):
        _set(known, job, report.task, task, "ending")
        task.succeeded = report.succeeded


def again(known: Known, job: Job, name: str) -> list[Event]:
    """The events of a task that will run again."""
    _set(known, job, name, known.tasks[job.id][name], "waiting")
    if not name or job.is_over:
        job.state = "waiting"
    return [_of_task("waiting", name)]


def unstarted(known: Known, job: Job) -> set[str]:
    """The tasks of an array that squeue showed once, and that never started."""
    tasks = known.tasks[job.id]
    return {name for n in mapping.tasks_in(job.unstarted) if (name := str(n)) not in tasks}


def ended(known: Known, job: Job, name: str, names: Sequence[str], now: float) -> list[Event]:
    """Take in that a task ended. Returns its events, which have these names, and that of the job if
    it was the last task."""
    task = known.tasks[job.id].setdefault(name, Task())
    ran = task.state in ("running", "ending")
    _set(known, job, name, task, "over")
    task.outcome = names[-1]
    events = [_of_task(one, name) for one in names]
    if ran:
        events += [Event(names[-1], "host", node) for node in mapping.hosts(task.nodes)]
    if not name:
        job.state, job.outcome, job.over_at = "over", names[-1], now
        return events
    return events + (_over(known, job, now) if 0 < job.count <= job.over else [])


def _set(known: Known, job: Job, name: str, task: Task, state: str) -> None:
    job.over += (state == "over") - (task.state == "over")
    task.state = state
    known.changed |= {(job.id, name), (job.id, None)}


def end_rest(known: Known, job: Job, now: float) -> list[Event]:
    """The events of an array whose tasks were cancelled before they started."""
    tasks = known.tasks[job.id]
    job.array = True
    named = [name for name, task in tasks.items() if task.state in ("", "waiting")]
    for name in named:
        _set(known, job, name, tasks[name], "over")
        tasks[name].outcome = "killed"
    if rest := unstarted(known, job):
        for name in sorted(rest, key=int):
            _set(known, job, name, tasks.setdefault(name, Task(outcome="killed")), "over")
            named.append(name)
    else:
        # Not even their numbers are known.
        _set(known, job, _REST, tasks.setdefault(_REST, Task(outcome="killed")), "over")
    job.count = len(tasks)
    events = [_of_task("killed", name) for name in named]
    return events + (_over(known, job, now) if job.over == job.count else [])


def _over(known: Known, job: Job, now: float) -> list[Event]:
    """The events of an array whose tasks are all over."""
    if job.is_over:
        return []
    known.changed.add((job.id, None))
    outcomes = {task.outcome for task in known.tasks[job.id].values()}
    worst = next((one for one in _WORST if one in outcomes), mapping.UNKNOWN[0])
    job.state, job.outcome, job.over_at = "over", worst, now
    return [Event(worst, "job")]


def gone(known: Known, job: Job, now: float) -> list[Event]:
    """The events of a job of which Slurm has no task any more, and all that are known are over."""
    return [] if not job.array else _over(known, job, now)


def seen(known: Known, number: int, label: str) -> tuple[Job, list[Event]]:
    """The job with this id, which the queue shows, and the events that follow if it is new."""
    job = known.jobs.get(number)
    if job is not None:
        return job, []
    return known.add(number, label), [Event("submit", "job")]


def queued(known: Known, job: Job, held: bool) -> list[Event]:
    """The events of a job that waits or is held, and of which nothing runs."""
    state = "blocked" if held else "waiting"
    if job.state == state:
        return []
    events = [Event("unblock", "job")] if job.state == "blocked" else []
    job.state = state
    known.changed.add((job.id, None))
    return [*events, Event(state, "job")]


def runs(known: Known, job: Job, name: str, own: int, nodes: str) -> list[Event]:
    """The events of a task that runs and whose prolog was not reported."""
    report = Report("prolog", job.id, name, own, nodes=nodes)
    task = _task(known, job, report)
    job.array = job.array or bool(name)
    return _started(known, job, name, task, task.restart)


def _of_task(name: str, task: str) -> Event:
    return Event(name, "work", task) if task else Event(name, "job")
