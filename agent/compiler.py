"""Checks Python source in a process of its own, so that no source can harm the agent.

Python's `compile` holds the interpreter lock for a whole source, and some sources take it minutes
or all memory: 240 KB of `def f():` / `pass` takes 5 s under Python 3.11, 960 KB takes 81 s. In a
thread of the agent, lookups would wait as long. So it runs in a child, with limits of processor
time, wall time and memory. A check that dies or runs out counts as `does not compile`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import anyio
from anyio import BrokenWorkerProcess, to_process

from agent import language
from agent.finding import Severity
from agent.language import Problem, Verdict

#: Seconds of processor time for one source. Real callbacks take milliseconds.
MAX_CPU = 10
#: Seconds of wall time for one source, for a machine under load.
MAX_WALL = 30.0
#: Bytes of memory of the child. Real callbacks need a tenth of it, the interpreter included.
MAX_MEMORY = 1 << 30
#: How many verdicts are remembered.
MAX_VERDICTS = 4096

#: Seconds until a check is tried again for which no process could be started.
RETRY = 5.0
#: Seconds after which the child is kept from going away: anyio ends one that idles for 5 minutes,
#: and a new one takes 70 ms to start, which an administrator who edits would wait for.
KEEP_WARM = 200.0

# One child: checks are rare, and a second processor is for lookups.
_children = anyio.CapacityLimiter(1)


class Checker:
    """Checks sources one after the other, and remembers the verdicts by the source's digest."""

    def __init__(self, done: Callable[[set[str]], None]) -> None:
        #: Told whose sources were checked, when all that were asked for are.
        self._done = done
        self._verdicts: dict[str, Verdict] = {}
        #: Whose checks failed for want of a process: that says nothing of the source.
        self._unsure: dict[str, set[str]] = {}
        #: Sources to check by digest, and who asked.
        self._asked: dict[str, tuple[bytes, set[str]]] = {}
        self._more = anyio.Event()
        self._begin = anyio.Event()

    def verdict(self, digest: str) -> Verdict | None:
        """What a check said, None if there was none yet."""
        return self._verdicts.get(digest)

    def ask(self, digest: str, source: bytes, who: str) -> None:
        """Have a source checked, once `begin` was called."""
        self._asked.setdefault(digest, (source, set()))[1].add(who)
        self._more.set()

    def begin(self) -> None:
        """Begin to check. Until then what asks may wait: the first answer goes first."""
        self._begin.set()

    async def run(self) -> None:
        """Check what is asked for, until cancelled."""
        await self._begin.wait()
        while True:
            checked: set[str] = set()
            while len(self._verdicts) > MAX_VERDICTS:
                del self._verdicts[next(iter(self._verdicts))]
            while self._asked:
                digest, (source, _) = next(iter(self._asked.items()))
                verdict = await check(source)
                self._verdicts[digest] = verdict or _NOT_CHECKED
                who = self._asked.pop(digest)[1]
                if verdict is None:
                    self._unsure[digest] = who
                checked |= who
            if checked:
                self._done(checked)
            self._more = anyio.Event()
            with anyio.move_on_after(RETRY if self._unsure else KEEP_WARM) as idle:
                await self._more.wait()
            if idle.cancelled_caught and self._unsure:
                for digest, who in self._unsure.items():
                    self._verdicts.pop(digest, None)
                    checked |= who
                self._unsure.clear()
                self._done(checked)
            elif idle.cancelled_caught:
                await check(b"")


async def check(source: bytes) -> Verdict | None:
    """Whether the source compiles, and what it does that hurts a supervisor.

    None where no process for the check could be started. Never raises.
    """
    try:
        with anyio.fail_after(MAX_WALL):
            return await to_process.run_sync(_check, source, cancellable=True, limiter=_children)
    except TimeoutError:
        why = f"the check took more than {MAX_WALL:.0f} s"
    except (BrokenWorkerProcess, MemoryError):
        why = (
            f"the check took more than {MAX_CPU} s of processor time"
            f" or {MAX_MEMORY >> 20} MiB of memory"
        )
    except OSError:
        return None
    return Verdict(_uncompiled(why, "make it simpler"))


def _uncompiled(why: str, hint: str) -> Problem:
    message = f"this does not compile under {language.HERE}: {why}"
    return Problem(Severity.WARNING, "does-not-compile", None, None, message, hint)


_NOT_CHECKED = Verdict(
    _uncompiled("no process for the check could be started", "nothing to do: it is tried again")
)


def _check(source: bytes) -> Verdict:
    """Runs in the child."""
    if sys.platform != "win32":
        import resource

        if os.nice(0) < 10:
            os.nice(10)
        used = resource.getrusage(resource.RUSAGE_SELF)
        limit = int(used.ru_utime + used.ru_stime) + 1 + MAX_CPU
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        if hard == resource.RLIM_INFINITY or limit < hard:
            resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))
        if sys.platform == "linux":
            hard = resource.getrlimit(resource.RLIMIT_AS)[1]
            if hard == resource.RLIM_INFINITY or hard > MAX_MEMORY:
                resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, hard))
            # A core file of the child would be of no use to anybody.
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return language.check_python(source)
