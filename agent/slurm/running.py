"""Runs the callbacks that fire, in a pool.

For one job, the callbacks run in the order of its events: those for one work item one after the
other, and those for the job itself after all that came before, and before all that come after.
Other work items and other jobs go on meanwhile. So a callback that hangs holds up its own job, and
one place in the pool, for as long as its time limit.
"""

from __future__ import annotations

import os
import pwd
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent import runner
from agent.runner import Farm, Interpreters, Result
from agent.slurm.store import Run

#: Set to 1 in the environment of a callback that was begun before, with an unknown end.
REPEAT = "CALLBACK_AGENT_REPEAT"


class NoUser(Exception):
    """Callbacks cannot run as this user: why, and what to do."""


@dataclass(frozen=True, slots=True)
class User:
    """Whom callbacks run as."""

    name: str
    #: Before the interpreter, on the command line.
    prefix: tuple[str, ...]
    environment: Mapping[str, str]


def user(name: str | None, default: str) -> User:
    """The user with a name or id. Without one: `default` if root asks, else who asks.

    Raises NoUser.
    """
    here = os.geteuid()
    name = name or (default if here == 0 else str(here))
    try:
        entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except (KeyError, OverflowError):
        raise NoUser(f"there is no user {name} to run callbacks as; name another") from None
    environment = {
        **runner.clean_environment(),
        "HOME": entry.pw_dir,
        "LOGNAME": entry.pw_name,
        "USER": entry.pw_name,
    }
    if entry.pw_uid == here:
        return User(entry.pw_name, (), environment)
    if here != 0:
        raise NoUser(f"only root can run callbacks as {entry.pw_name}; start this as root")
    prefix = ("setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--init-groups")
    return User(entry.pw_name, (*prefix, "--inh-caps=-all", "--"), environment)


class Pool:
    """Runs callbacks. Its methods are called from one thread; `done` is called from others."""

    def __init__(
        self,
        farm: Farm,
        who: User,
        interpreters: Interpreters,
        at_once: int,
        time_limit: float,
        begin: Callable[[Run], None],
        done: Callable[[Run, Result], None],
    ) -> None:
        """`begin` is called before a callback starts, and may raise."""
        self._farm, self._who, self._time_limit = farm, who, time_limit
        self._interpreters = {
            what: [*who.prefix, *([command] if isinstance(command, str) else command)]
            for what, command in {**runner.DEFAULT_INTERPRETERS, **interpreters}.items()
        }
        self._begin, self._done = begin, done
        self._free = at_once
        #: By owner: those that wait, and those that run. Owners with none are not there.
        self._waiting: dict[int, deque[Run]] = {}
        self.running: dict[int, dict[int, Run]] = {}

    @property
    def waiting(self) -> int:
        """How many callbacks wait."""
        return sum(map(len, self._waiting.values()))

    def add(self, run: Run) -> None:
        """Let a callback wait for its turn."""
        self._waiting.setdefault(run.owner, deque()).append(run)

    def start(self) -> None:
        """Start the callbacks that can start. The owners take turns.

        Raises what `begin` raises, and RuntimeError if there can be no more threads: what could not
        start still waits.
        """
        for owner in list(self._waiting):
            if not self._free:
                return
            self._start(owner)

    def _start(self, owner: int) -> None:
        waiting = self._waiting[owner]
        running = self.running.get(owner, {})
        while waiting and self._free and _may_start(waiting[0], running):
            run = waiting[0]
            self._begin(run)
            # If it raises, the callback still waits.
            threading.Thread(target=self._run, args=(run,), name="callback").start()
            waiting.popleft()
            running = self.running.setdefault(owner, {})
            running[run.number] = run
            self._free -= 1
        # Those that are still to run go to the end of the queue.
        del self._waiting[owner]
        if waiting:
            self._waiting[owner] = waiting

    def ended(self, run: Run) -> None:
        """Free the place of a callback, after `done` was called for it."""
        self._free += 1
        running = self.running[run.owner]
        del running[run.number]
        if not running:
            del self.running[run.owner]

    def _run(self, run: Run) -> None:
        environment = {**self._who.environment, **({REPEAT: "1"} if run.repeat else {})}
        try:
            (result,) = runner.run(
                {"callbacks": [run.callback]},
                self._farm,
                job=run.owner,
                event=run.event,
                interpreters=self._interpreters,
                time_limit=self._time_limit,
                environment=environment,
            )
        except Exception as error:
            # The runner does not raise. If it does, the others must go on.
            path, trigger = str(run.callback["path"]), str(run.callback["trigger"])
            reason = f"{type(error).__name__}: {error}"
            result = Result(path, trigger, "not-run", reason=reason)
        self._done(run, result)


def _may_start(run: Run, running: Mapping[int, Run]) -> bool:
    """Whether a callback need not wait for those of its owner that run."""
    item = _item(run)
    return all(item and _item(one) and _item(one) != item for one in running.values())


def _item(run: Run) -> tuple[int, str] | None:
    """The work item that the event is about, with its job; None for another event."""
    event = run.event
    return (event["job"]["id"], event["extra"]) if event["type"] == "work" else None
