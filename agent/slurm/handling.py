"""Handles events: each is read, becomes events of Qube, and the agent is asked what they do.

All that follows from an event is kept in one transaction, together with the mark that it is
handled. If the agent does not answer, nothing of it is kept, and it is handled again later.
"""

from __future__ import annotations

import errno
import functools
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.core.counting import count
from agent.core.quoting import shown
from agent.slurm import jobs, mapping
from agent.slurm.asking import Agent, AgentError, Refused
from agent.slurm.commands import Row
from agent.slurm.known import Event, Job
from agent.slurm.log import Log
from agent.slurm.mapping import BadReport
from agent.slurm.queue import Answer, Follower
from agent.slurm.spool import BadFile, Spool, Waiting
from agent.slurm.store import Run, Store, StoreError

#: Events that one transaction holds. Each transaction waits for the disk.
BATCH = 200
#: Seconds for which a group of jobs is known after its end: somebody may still submit a job that
#: depends on one of them, as long as Slurm knows it (MinJobAge, 300 s by default).
KEEP_SECONDS = 900.0
#: Errors of reading a file that are not about the file.
_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR)
#: Set in the database when the queue was first seen.
_ADOPTED = "adopted"


@dataclass(slots=True)
class Batch:
    """What was handled together."""

    #: The callbacks that are to run, in order.
    runs: list[Run] = field(default_factory=list)
    #: Files of events that were handled.
    done: list[str] = field(default_factory=list)
    #: Files that are not events, and why.
    bad: list[tuple[str, str]] = field(default_factory=list)
    #: What to write into the log when it is kept.
    told: list[Callable[[], None]] = field(default_factory=list)
    #: Why the agent did not answer, so that the rest waits; empty if it answered.
    agent: str = ""


class Handler:
    """Handles events with what is known. Every method raises StoreError and then keeps nothing."""

    def __init__(self, store: Store, agent: Agent, log: Log) -> None:
        self._store, self._agent, self._log = store, agent, log
        self._load()
        self.follower = Follower(self.known)

    def _load(self) -> None:
        """Read what is known again."""
        self.known, self._pending = self._store.known(), self._store.pending()

    def about(self, job: int) -> dict[str, Any]:
        """What callbacks may know of a job besides what Slurm says."""
        known = self.known.jobs.get(job)
        return {} if known is None else {"label": known.label, **known.as_owner()}

    def take(self, spool: Spool, waiting: Sequence[Waiting]) -> Batch:
        """Handle events of the spool, and remove their files."""
        batch = Batch()
        self._kept(batch, lambda: self._take_all(spool, waiting, batch))
        for name in batch.done:
            spool.remove(name)
        for name, why in batch.bad:
            where = spool.set_aside(name)
            self._log.said("ERROR", f"{shown(name)} in the spool is not an event: {why}; {where}")
        return batch

    def _kept(self, batch: Batch, work: Callable[[], None]) -> None:
        """Do it in one transaction, then write the log."""
        try:
            with self._store.transaction():
                work()
        except BaseException:
            self._load()
            raise
        for tell in batch.told:
            tell()

    def _take_all(self, spool: Spool, waiting: Sequence[Waiting], batch: Batch) -> None:
        for one in waiting:
            if self._store.is_handled(one.name):
                # The daemon was killed before the file was removed.
                batch.done.append(one.name)
                text = f"{one.name} was handled before, and is not handled again"
                batch.told.append(functools.partial(self._log.said, "INFO", text))
                continue
            try:
                report = mapping.report_of(spool.read(one.name))
            except FileNotFoundError:
                continue
            except (BadFile, BadReport) as error:
                batch.bad.append((one.name, str(error)))
                continue
            except OSError as error:
                if error.errno in _SHORTAGES:
                    raise
                batch.bad.append((one.name, f"it cannot be read: {error.strerror}"))
                continue

            def work(report: mapping.Report = report, one: Waiting = one) -> None:
                job = self._report(report, one, batch)
                self._store.handled(one.name)
                self.follower.touched(job, report.task, self.known)

            if self._part(one.name, batch, work):
                batch.done.append(one.name)
            elif batch.agent:
                break
        if batch.bad:
            self._store.count("events_bad", len(batch.bad))

    def _part(self, name: str, batch: Batch, work: Callable[[], None]) -> bool:
        """Do a part of a batch. False if nothing of it is kept, as the agent does not answer or the
        event of this name is bad."""
        runs, told = len(batch.runs), len(batch.told)
        try:
            with self._store.part():
                work()
                self._store.save(self.known)
        except AgentError as error:
            batch.agent = str(error)
        except StoreError:
            raise
        except Exception:
            if not name:
                raise
            # An error of this program must not stop all later events.
            batch.bad.append((name, " ".join(traceback.format_exc().split())))
        else:
            return True
        self._load()
        del batch.runs[runs:], batch.told[told:]
        return False

    def _report(self, report: mapping.Report, one: Waiting, batch: Batch) -> int:
        events = jobs.reported(self.known, report, time.time())
        job = self.known.job(report.job)
        if job is None:
            text = f"a node reports job {report.job}, of which nothing is known ({one.name})"
            batch.told.append(lambda: self._log.said("INFO", text))
            self._store.count("events")
            return report.job
        self._ask(one.name, one.time, job, events, batch, always=True)
        return job.id

    def _ask(
        self,
        source: str,
        at: float,
        job: Job,
        events: Sequence[Event],
        batch: Batch,
        *,
        always: bool = False,
    ) -> None:
        """Ask what events of a job do, and keep it. Without events, only `always` is logged."""
        for forgotten in self.known.forgotten:
            self._pending.pop(forgotten, None)
        fires, partial = 0, 0
        late, self.known.late = self.known.late, []
        for child, parent in late:
            fires += self._ask_late(source, at, child, parent, batch)
        for event in events:
            try:
                found = self._agent.ask(event, job, self.known, self._pending)
            except Refused as error:
                self._refused(event, job, error, batch)
                continue
            fires += len(found.fires)
            partial += len(found.partial)
            self._keep(source, at, event, job, found, batch)
        if events or always:
            counted = (source, job, events, at, fires, partial)
            batch.told.append(lambda: self._log.handled(*counted))
            self._store.count("events")

    def _ask_late(self, source: str, at: float, child: Job, parent: Job, batch: Batch) -> int:
        """Ask what the end of its parent does to a job that was not known to be its child then."""
        event = Event(parent.outcome, "job")
        try:
            found = self._agent.ask_one(event, parent, child, self._pending)
        except Refused as error:
            self._refused(event, parent, error, batch)
            return 0
        self._keep(source, at, event, parent, found, batch)
        return len(found.fires)

    def _refused(self, event: Event, job: Job, error: Refused, batch: Batch) -> None:
        """Log that the agent refuses an event: asking again would not help. Raises the error if it
        refuses this user."""
        if error.index is None:
            raise error
        text = (
            f"the agent refuses {shown(str(event))} of job {job.id}: {error}; nothing runs for it"
        )
        batch.told.append(lambda: self._log.said("ERROR", text))
        self._store.count("events_refused")

    def _keep(
        self, source: str, at: float, event: Event, job: Job, found: Any, batch: Batch
    ) -> None:
        """Keep what an event does."""
        asked = self._agent.asked(event, job)
        for owner, callback in found.fires:
            path, trigger = callback["path"], callback["trigger"]
            if self._pending.get(owner, {}).pop((path, trigger), None) is not None:
                self._store.set_pending(owner, path, trigger, None)
            batch.runs.append(self._store.add_run(source, at, owner, asked, callback))
        for owner, path, trigger, missing in found.partial:
            self._pending.setdefault(owner, {})[path, trigger] = missing
            self._store.set_pending(owner, path, trigger, missing)

    # The queue ----------------------------------------------------------------------------------

    def look(self, answer: Answer) -> Iterator[Batch]:
        """Handle what the queue shows. The first time, what is there is not an event.

        Each batch is kept before the next is begun.
        """
        queue: dict[int, list[Row]] = {}
        for row in answer.rows:
            queue.setdefault(row.array or row.id, []).append(row)
        for job in self.known.jobs.values():
            if not job.is_over:
                queue.setdefault(job.id, [])
        adopts = not self._store.counters().get(_ADOPTED)
        numbers = sorted(job for job in queue if self.follower.is_newer(job, answer))
        for first in range(0, len(numbers), BATCH):
            batch = Batch()
            part = {number: queue[number] for number in numbers[first : first + BATCH]}
            self._kept(batch, lambda: self._look_all(part, answer, adopts, batch))  # noqa: B023
            yield batch
            if batch.agent:
                return
        if adopts:
            self._store.count(_ADOPTED)
            there = count(len(numbers), "job")
            self._log.said("INFO", f"first look at the queue: {there}; they make no events")

    def _look_all(
        self, queue: dict[int, list[Row]], answer: Answer, adopts: bool, batch: Batch
    ) -> None:
        for number, rows in queue.items():

            def work(number: int = number, rows: Sequence[Row] = rows) -> None:
                now = time.time()
                job, events = jobs.seen(self.known, number, rows[0].name if rows else "")
                job.array = job.array or any(row.task for row in rows)
                new = bool(events)
                events += self.follower.look(job, rows, self.known, answer, now)
                self._ask("squeue", now, job, [] if adopts and new else events, batch)

            if not self._part("", batch, work):
                return

    def forget_over(self) -> None:
        """Forget the jobs whose whole group ended KEEP_SECONDS ago, and old marks."""
        gone = self.known.forget_over(time.time() - KEEP_SECONDS)
        self.follower.forget(gone)
        for job in gone:
            self._pending.pop(job, None)
        batch = Batch()
        self._kept(batch, lambda: self._store.save(self.known))
        self._store.forget_handled()
