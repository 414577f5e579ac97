"""Checks Python source in a process of its own, so that no source can harm the agent.

Python's `compile` holds the interpreter lock for a whole source, and some sources take it minutes
or all memory: 240 KB of `def f():` / `pass` takes 5 s under Python 3.11, 960 KB takes 81 s. In a
thread of the agent, lookups would wait as long. So it runs in a child, with limits of processor
time, wall time and memory. A check that dies or runs out counts as `does not compile`.
"""

from __future__ import annotations

import os
import sys

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

# One child: checks are rare, and a second processor is for lookups.
_children = anyio.CapacityLimiter(1)


async def check(source: bytes) -> Verdict:
    """Whether the source compiles, and what it does that hurts a supervisor. Never raises."""
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
    except OSError as error:
        why = f"no process for the check could be started ({error.strerror})"
    message = f"this does not compile under {language.HERE}: {why}"
    hint = "make it simpler"
    return Verdict(Problem(Severity.WARNING, "does-not-compile", None, None, message, hint))


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
