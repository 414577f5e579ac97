"""The daemon: takes events from the spool, handles them, and runs the callbacks that fire.

One thread does everything except the callbacks and the questions to Slurm. It receives what happens
through one queue. So nothing needs a lock, and only one thread writes the database.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from agent.runner import DEFAULT_TIME_LIMIT, Farm, Interpreters, Result
from agent.slurm import AT_ONCE, LOG, POLL_INTERVAL, RUN_AS, SPOOL, STATE, queue, status
from agent.slurm.asking import Agent, AgentError
from agent.slurm.handling import BATCH, Batch, Handler
from agent.slurm.log import Log, report
from agent.slurm.queue import Answer, Queue
from agent.slurm.reporting import REPORT_INTERVAL, Reporter, Times
from agent.slurm.running import Pool, user
from agent.slurm.spool import Spool, Waiting, watch
from agent.slurm.store import Run, Store, StoreError


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the daemon."""

    pipe: str
    spool: str = SPOOL
    state: str = STATE
    log: str = LOG
    log_format: str = "text"
    run_as: str | None = None
    interpreters: Interpreters = field(default_factory=dict)
    at_once: int = AT_ONCE
    time_limit: float = DEFAULT_TIME_LIMIT
    poll: float = POLL_INTERVAL
    metrics_file: str | None = None


@dataclass(frozen=True, slots=True)
class _Done:
    """The message that a callback ended."""

    run: Run
    result: Result


class _Stop:
    """The message that a signal asks for the end."""


class _Wake:
    """The message that something changed in the spool."""


_Message = _Done | Answer | type[_Stop] | type[_Wake]


class Daemon:
    """The daemon, ready to run.

    Raises SpoolError, StoreError, NoUser, InUse, and OSError for the directory of the state.
    """

    def __init__(
        self, options: Options, slurm: Queue, farm: Callable[[Callable[[int], Any]], Farm]
    ) -> None:
        """`farm` makes the farm; it is given what is known of a job by its id."""
        self._options = options
        self._messages: SimpleQueue[_Message] = SimpleQueue()
        who = user(options.run_as, RUN_AS)
        os.makedirs(options.state, 0o755, exist_ok=True)
        with contextlib.suppress(OSError):  # Then the log says why it cannot be written.
            os.makedirs(os.path.dirname(options.log), 0o755, exist_ok=True)
        status.lock(options.state)
        self._spool = Spool(options.spool)
        self._store = Store(f"{options.state}/{status.DATABASE}")
        self._log = Log(options.log, options.log_format)
        self._agent = Agent(options.pipe)
        self._handler = Handler(self._store, self._agent, self._log)
        self._pool = Pool(
            farm(self._handler.about),
            who,
            options.interpreters,
            options.at_once,
            options.time_limit,
            self._begin,
            lambda run, result: self._messages.put(_Done(run, result)),
        )
        self._slurm = slurm
        self._reporter = Reporter(options.state, options.metrics_file, self._log)
        self._times = Times()
        #: Callbacks that ended, and are not marked so in the database.
        self._ended: list[_Done] = []

    def run(self) -> None:
        """Run until SIGTERM or SIGINT, and then until the callbacks that run have ended."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._messages.put(_Stop))
        # There is nothing to reload, and it must not end. Callbacks do not inherit a handler.
        signal.signal(signal.SIGHUP, lambda *_: None)
        stop = threading.Event()
        if trouble := watch(self._options.spool, lambda: self._messages.put(_Wake), stop):
            self._log.said("WARNING", f"no file events for the spool, it is scanned: {trouble}")
        counted = self._restore()
        self._log.said("INFO", f"started: {counted}")
        try:
            while self._step():
                pass
        finally:
            stop.set()
        self._finish()
        self._log.said("INFO", "stopped")

    def _restore(self) -> str:
        """Let the callbacks that were not run wait again."""
        runs = list(self._store.runs())
        for run in runs:
            self._pool.add(run)
        repeats = sum(run.repeat for run in runs)
        if repeats:
            self._store.count("repeats", repeats)
        jobs = len(self._handler.known.jobs)
        return f"{jobs} jobs known, {len(runs)} callbacks to run, {repeats} of them repeats"

    def _step(self) -> bool:
        """Wait for something, and do it. False at the end."""
        times = self._times
        try:
            first = self._messages.get(timeout=times.wait(self._handler.follower.due))
            messages = [first]
        except Empty:
            messages = []
        with contextlib.suppress(Empty):
            while True:
                messages.append(self._messages.get_nowait())
        answers = [one for one in messages if isinstance(one, Answer)]
        for one in messages:
            if isinstance(one, _Done):
                self._ran(one)
            elif isinstance(one, Answer):
                # Also if what follows fails: the next question must not wait for it.
                times.answered()
        if _Stop in messages:
            return False
        try:
            self._drop_ended()
            waiting = self._take()
            for answer in answers:
                self._answered(answer, waiting)
            if times.asks(self._handler.follower.due, self._options.poll):
                queue.ask(self._slurm, self._handler.follower.missing(), self._messages.put)
            self._pool.start()
            self._tidy()
            self._reporter.well("store")
        except StoreError as error:
            self._reporter.fails("store", f"the database cannot be written: {error}")
            times.retry()
        except Exception as error:
            # An error of this program. What was begun was not kept, and is tried again.
            trouble = " ".join(traceback.format_exc().split())
            self._reporter.fails("daemon", f"{type(error).__name__}: {error}", trouble)
            times.retry()
        else:
            self._reporter.well("daemon")
        self._report()
        return True

    # Events -------------------------------------------------------------------------------------

    def _take(self) -> list[Waiting]:
        """Handle a batch of events; what waits after it."""
        try:
            waiting = self._spool.waiting()
        except OSError as error:
            self._reporter.fails("spool", f"{self._options.spool}: {error.strerror}")
            self._times.retry()
            return []
        if self._spool.stuck:
            self._reporter.fails("spool", next(iter(self._spool.stuck.values())))
        else:
            self._reporter.well("spool")
        self._reporter.waiting = waiting
        if not self._agent_answers():
            return waiting
        if waiting:
            batch = self._handler.take(self._spool, waiting[:BATCH])
            self._add(batch)
            handled = len(batch.done) + len(batch.bad)
            waiting = waiting[handled:]
            if waiting and not batch.agent:
                self._messages.put(_Wake)
        self._reporter.waiting = waiting
        return waiting

    def _agent_answers(self) -> bool:
        """Whether the agent answers. It is asked only if it did not, or is not known to."""
        if self._reporter.is_well("agent"):
            return True
        try:
            self._agent.check()
        except AgentError as error:
            self._no_agent(str(error))
            return False
        self._reporter.well("agent")
        return True

    def _no_agent(self, why: str) -> None:
        self._reporter.fails("agent", f"events wait for the agent: {why}")
        self._times.retry()

    def _add(self, batch: Batch) -> None:
        for run in batch.runs:
            self._pool.add(run)
        if batch.agent:
            self._no_agent(batch.agent)

    # The queue ----------------------------------------------------------------------------------

    def _answered(self, answer: Answer, waiting: list[Waiting]) -> None:
        if answer.error:
            self._reporter.fails("slurm", answer.error)
            return
        self._reporter.well("slurm")
        # While events wait, the queue shows what they are about to say.
        if waiting or not self._agent_answers():
            return
        for batch in self._handler.look(answer):
            self._add(batch)

    # Callbacks ----------------------------------------------------------------------------------

    def _begin(self, run: Run) -> None:
        self._store.begin_run(run.number)
        self._reporter.begun(run)

    def _ran(self, done: _Done) -> None:
        """Note that a callback ended."""
        self._pool.ended(done.run)
        latency = self._reporter.ended(done.run)
        self._log.ran(done.run, done.result, latency)
        self._ended.append(done)

    def _drop_ended(self) -> None:
        """Mark callbacks in the database that ended."""
        if not self._ended:
            return
        with self._store.transaction():
            for done in self._ended:
                self._store.end_run(done.run.number)
                self._store.count(f"callbacks_{done.result.outcome}")
        self._ended.clear()

    # The rest -----------------------------------------------------------------------------------

    def _tidy(self) -> None:
        """Remove what is old, if it is time."""
        if self._times.tidies():
            self._handler.forget_over()
            with contextlib.suppress(OSError):
                self._spool.remove_dead()

    def _report(self) -> None:
        """Write the status, if it is time."""
        if not self._times.reports():
            return
        known = self._handler.known
        try:
            counters = self._store.counters()
        except StoreError:
            return
        self._reporter.write(
            {
                "counters": counters,
                "callbacks_waiting": self._pool.waiting,
                "jobs": len(known.jobs),
                "living": sum(not job.is_over for job in known.jobs.values()),
            }
        )

    def _finish(self) -> None:
        """Wait for the callbacks that run; what waits does not start any more."""
        while self._pool.running:
            with contextlib.suppress(Empty):
                one = self._messages.get(timeout=REPORT_INTERVAL)
                if isinstance(one, _Done):
                    self._ran(one)
            with contextlib.suppress(StoreError):  # It is tried again.
                self._drop_ended()
            self._report()
        try:
            self._drop_ended()
            self._store.close()
        except StoreError as error:
            report(str(error))
        self._agent.close()
        self._reporter.remove()
