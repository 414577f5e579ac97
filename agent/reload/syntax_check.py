"""Checks Python sources in helper processes, so that none can harm the agent or another source.

Some sources take long to compile: 240 KB of `def f():` / `pass` takes 5 s under Python 3.11, 960 KB
takes 81 s. So there are two lanes, each with a helper of its own. The quick lane gives each source
SLICE seconds of processor time; the directories take turns. A source that needs more goes on in the
slow lane, which checks one source at a time; the directories take turns there too. So an edit waits
for at most one slice of each other directory, whatever those contain. A directory may use
`CheckLimits.budget` seconds of the slow lane for the sources that it has.

A verdict is what the compiler says of a source, or that the source reached the same limit of the
helper twice. Everything else (the helper was killed, or cannot be started) says nothing about the
source: there is no verdict, and the check is tried again after a growing pause.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping

import anyio
from anyio import CancelScope

from agent.core import languages
from agent.core.languages import Verdict
from agent.core.python_source import Report
from agent.reload.check_helper import SLICE, Helper, HelperError, LimitReached, SliceUsed
from agent.reload.check_queue import Check, CheckQueue
from agent.timing import CheckLimits

#: How often a source must reach a limit until that is its verdict.
LIMIT_TRIES = 2
#: How often a helper may end in the middle of a source, or not start, until that is reported: a
#: shortage of the machine may be brief.
HELPER_TRIES = 3
#: Seconds until a check that could not be made is tried again, at first; they double.
FIRST_PAUSE = 0.1

Result = Report | SliceUsed | LimitReached


class Checker:
    """Checks the sources that directories have. For the event loop, unless a method says otherwise.

    It has more than 15 methods because the two lanes share one helper protocol: what comes before
    and after it is in `CheckQueue` and `Helper`.
    """

    def __init__(self, done: Callable[[set[str]], None], limits: CheckLimits) -> None:
        #: Called with the directories about which something became known.
        self._done = done
        self.limits = limits
        self._queue = CheckQueue(limits)
        #: A check that the quick lane hands over to the slow lane, which has nothing to do.
        self._handed: tuple[Check, Helper] | None = None
        self._slow_idle = False
        #: Failed starts of a helper in a row, and why the last one failed.
        self._failed_starts = 0
        self._no_helper = ""
        self._changed = anyio.Event()
        self._begin = anyio.Event()

    # Called by others ---------------------------------------------------------------------------

    def verdict(self, digest: str) -> Verdict | None:
        """What a check of this source said, None if there is no verdict. From any thread."""
        check = self._queue.get(digest)
        return check.verdict if check else None

    def trouble(self, digest: str) -> str | None:
        """Why this source cannot be checked at present; None if it was or will be checked. From
        any thread."""
        check = self._queue.get(digest)
        if check is None or check.verdict is not None:
            return None
        if self._failed_starts >= HELPER_TRIES:
            return self._no_helper
        return check.trouble

    def over_budget(self, directory: str) -> list[str]:
        """The digests of the sources that are not checked, because the directory has used its
        budget. From any thread."""
        if self._queue.has_budget(directory):
            return []
        checks = self._queue.of(directory)
        return [c.digest for c in checks if c.verdict is None and c.slow and c.waiting]

    def checks_done(self, directory: str) -> bool:
        """Whether everything is known about a directory that can be known now."""
        left = set(self.over_budget(directory))
        return all(
            check.verdict is not None or check.digest in left or self.trouble(check.digest)
            for check in self._queue.of(directory)
        )

    async def wait(self, directory: str) -> None:
        """Wait until `checks_done`. `run` must be running."""
        while not self.checks_done(directory):
            await self._changed.wait()

    def use(
        self, directory: str, sources: Mapping[str, bytes], urgent: Collection[str] = ()
    ) -> None:
        """Check the sources that a directory has now, by digest, the `urgent` ones first. Sources
        that no directory has any more are not checked."""
        self._queue.use(directory, sources, urgent)

    def begin(self) -> None:
        """Begin to check. Until then, checks wait: the first response is more urgent."""
        self._begin.set()

    async def run(self) -> None:
        """Check what is asked for, until cancelled."""
        await self._begin.wait()
        # If it failed before, some checks are in no lane.
        self._handed = None
        self._queue.requeue_lost()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._quick_lane)
            tasks.start_soon(self._slow_lane)

    # The lanes ----------------------------------------------------------------------------------

    async def _quick_lane(self) -> None:
        helper: Helper | None = None
        try:
            while True:
                check = self._queue.next(slow=False)
                if check is None:
                    await self._queue.wait()
                    continue
                helper = helper or await self._helper(check)
                if helper is not None:
                    helper = await self._slice(check, helper)
        finally:
            if helper is not None:
                helper.kill()

    async def _slice(self, check: Check, helper: Helper) -> Helper | None:
        """Give a source its slice. Returns the helper if it can be used for another source."""
        result = await self._result(check, helper, send=True)
        if isinstance(result, Report):
            self._finish(check, result)
            return helper
        if isinstance(result, SliceUsed):
            check.slow = True
            if self._slow_idle and any(map(self._queue.has_budget, check.directories)):
                self._slow_idle = False
                self._handed = (check, helper)
                self._queue.wake()
                self._report(self._queue.concerned(check))
                return None
            self._queue.requeue(check)
            self._report(self._queue.concerned(check))
        elif result is not None:
            self._finish(check, result)
        helper.kill()
        return None

    async def _slow_lane(self) -> None:
        try:
            while True:
                if self._handed is not None:
                    check, helper = self._handed
                    self._handed = None
                    await self._to_the_end(check, helper, send=False)
                elif (waiting := self._queue.next(slow=True)) is not None:
                    # A new helper: what an earlier source left in its memory does not count.
                    fresh = await self._helper(waiting)
                    if fresh is not None:
                        await self._to_the_end(waiting, fresh, send=True)
                else:
                    self._slow_idle = True
                    await self._queue.wait()
                    self._slow_idle = False
        finally:
            if self._handed is not None:
                self._handed[1].kill()

    async def _to_the_end(self, check: Check, helper: Helper, send: bool) -> None:
        helper.yield_to_others()
        try:
            while isinstance(result := await self._result(check, helper, send), SliceUsed):
                send = False
                self._queue.spend(check, SLICE)
        finally:
            helper.kill()
        if result is not None:
            self._finish(check, result)

    async def _result(self, check: Check, helper: Helper, send: bool) -> Result | None:
        """The helper's next result. None if that failed, or if no directory has the source now."""
        if check.directories:
            with CancelScope() as check.running:
                try:
                    if send:
                        await helper.send(check.source, check.limits > 0)
                    return await helper.result()
                except Exception as error:
                    self._failed(check, error)
        return None

    async def _helper(self, check: Check) -> Helper | None:
        """A new helper for this source. None after a pause if none can be started."""
        try:
            helper = await Helper.start(self.limits)
        except HelperError as error:
            self._queue.requeue(check)
            self._failed_starts += 1
            self._no_helper = str(error)
            if self._failed_starts == HELPER_TRIES:
                self._report(self._queue.directories)
            await anyio.sleep(self._pause(self._failed_starts))
            return None
        if self._failed_starts >= HELPER_TRIES:
            self._report(self._queue.directories)
        self._failed_starts = 0
        return helper

    # Results ------------------------------------------------------------------------------------

    def _finish(self, check: Check, result: Report | LimitReached) -> None:
        if isinstance(result, LimitReached):
            check.limits += 1
            check.slow = True
            if check.limits < LIMIT_TRIES:
                self._queue.requeue(check)
                return
            why = f"the check took {result.limit}"
            check.verdict = languages.does_not_compile(why, hint="make it simpler")
        else:
            check.verdict = languages.verdict(result)
        check.source, check.trouble = b"", None
        self._report(self._queue.concerned(check))

    def _failed(self, check: Check, error: Exception) -> None:
        """Have a check made again that could not be made. That says nothing about the source."""
        check.failures += 1
        if check.failures < HELPER_TRIES:
            self._queue.requeue(check)
            return
        before, check.trouble = check.trouble, str(error) or repr(error)
        if check.trouble != before:
            self._report(set(check.directories))
        pause = self._pause(check.failures - HELPER_TRIES + 1)
        asyncio.get_running_loop().call_later(pause, self._queue.requeue, check)

    def _report(self, directories: set[str]) -> None:
        if directories:
            self._done(directories)
            self._changed.set()
            self._changed = anyio.Event()

    def _pause(self, failures: int) -> float:
        """Seconds until the next try after this number of failures in a row."""
        return min(FIRST_PAUSE * 2.0 ** min(failures - 1, 20), self.limits.max_pause)
