"""Has Python sources checked by helper processes, so that no source can harm the agent or another.

Some sources take long to compile: 240 KB of `def f():` / `pass` takes 5 s under Python 3.11, 960 KB
takes 81 s. So there are two lanes, each with a helper of its own. The quick lane gives each source
SLICE seconds of processor time, the directories in turn. A source that needs more goes on in the
slow lane, which has one source at a time, the directories in turn. So an edit waits for one slice
of each other directory at most, whatever those hold. A directory may use CHECK_BUDGET seconds of
the slow lane for the sources that it has.

A verdict is what the compiler says of a source, or that the source has reached the same limit of
the helper's twice. Everything else (the helper was killed, or cannot be started) says nothing of
the source: there is no verdict, and the check is tried again after a growing pause.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import anyio
from anyio import CancelScope

from agent.core import languages as language
from agent.core.languages import Verdict
from agent.core.python_source import Report
from agent.reload.helper import SLICE, Helper, HelperError, LimitReached, SliceUsed

#: Seconds of processor time in the slow lane that the sources of one directory may use together.
#: Real callbacks use none of it.
CHECK_BUDGET = 30.0
#: How often a source must reach a limit until that is its verdict.
LIMIT_TRIES = 2
#: How often a helper may end in the middle of a source, or not start, until that is reported.
#: The machine may be short of something for an instant only.
HELPER_TRIES = 3
#: Seconds until a check that could not be made is tried again, at first and at most; they double.
FIRST_PAUSE, MAX_PAUSE = 0.1, 60.0
#: The most bytes of verdicts on sources that no directory has any more. An edit that is taken back
#: needs no new check. Those on sources that a directory has are never forgotten.
MAX_UNUSED_BYTES = 4 << 20

Result = Report | SliceUsed | LimitReached


@dataclass(slots=True, eq=False)
class _Check:
    """The check of one source."""

    digest: str
    #: Empty as soon as there is a verdict.
    source: bytes
    #: Which directories have the source.
    directories: tuple[str, ...] = ()
    verdict: Verdict | None = None
    #: Seconds of processor time that it took in the slow lane.
    cpu: float = 0.0
    #: Whether it needs more than a slice.
    slow: bool = False
    #: How often it has reached a limit, and how often its helper ended.
    limits: int = 0
    failures: int = 0
    #: Why it cannot be checked at present.
    trouble: str | None = None
    #: Whether a lane may take it: it is not being made, nor paused after a failure.
    waiting: bool = True
    #: Ends the check, where it is being made.
    running: CancelScope | None = None

    @property
    def size(self) -> int:
        """About how many bytes it takes once there is a verdict."""
        return 500 + 200 * len(self.verdict.warnings if self.verdict else ())


class _Turns:
    """Sources that wait, by directory. Each directory has its turn."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[str, None]] = {}

    def put(self, directory: str, digests: Collection[str]) -> None:
        """These wait for the directory, in this order, and no others. Its turn stays as it is."""
        if digests:
            self._waiting[directory] = dict.fromkeys(digests)
        else:
            self._waiting.pop(directory, None)

    def add(self, directory: str, digest: str) -> None:
        """This one waits too, as the last of its directory."""
        self._waiting.setdefault(directory, {})[digest] = None

    def take(self, allowed: Callable[[str], bool] | None) -> str | None:
        """The first source of the directory whose turn it is, of those that are allowed."""
        directories = filter(allowed, self._waiting) if allowed else iter(self._waiting)
        directory = next(directories, None)
        if directory is None:
            return None
        waiting = self._waiting.pop(directory)
        digest = next(iter(waiting))
        del waiting[digest]
        if waiting:
            self._waiting[directory] = waiting
        return digest

    def has(self, directory: str) -> bool:
        """Whether a source of this directory waits."""
        return directory in self._waiting


class Checker:
    """Checks the sources that directories have. For the event loop, except where it says else."""

    def __init__(self, done: Callable[[set[str]], None]) -> None:
        #: Called with the directories of which something has become known.
        self._done = done
        #: By digest. Those without a directory are remembered for a while.
        self._checks: dict[str, _Check] = {}
        self._unused: dict[str, int] = {}
        self._unused_bytes = 0
        #: Of each directory: the digests that it has, those that it waits for, and the seconds of
        #: processor time that they took in the slow lane.
        self._sources: dict[str, dict[str, None]] = {}
        self._urgent: dict[str, set[str]] = {}
        self._spent: dict[str, float] = {}
        self._quick = _Turns()
        self._slow = _Turns()
        #: A check that the quick lane hands over to the slow lane, which has nothing to do.
        self._handed: tuple[_Check, Helper] | None = None
        self._slow_idle = False
        #: Failed starts of a helper in a row, and why the last one failed.
        self._failed_starts = 0
        self._no_helper = ""
        self._more = anyio.Event()
        self._changed = anyio.Event()
        self._begin = anyio.Event()

    # What others ask ----------------------------------------------------------------------------

    def verdict(self, digest: str) -> Verdict | None:
        """What a check of this source said, None if there is no verdict. From any thread."""
        check = self._checks.get(digest)
        return check.verdict if check else None

    def trouble(self, digest: str) -> str | None:
        """Why this source cannot be checked at present; None if it was or will be checked. From
        any thread."""
        check = self._checks.get(digest)
        if check is None or check.verdict is not None:
            return None
        if self._failed_starts >= HELPER_TRIES:
            return self._no_helper
        return check.trouble

    def over_budget(self, directory: str) -> list[str]:
        """The digests of the sources that are not checked, because the directory has used its
        budget. From any thread."""
        if self._has_budget(directory):
            return []
        checks = map(self._checks.get, self._sources.get(directory, ()))
        return [c.digest for c in checks if c and c.verdict is None and c.slow and c.waiting]

    def checks_done(self, directory: str) -> bool:
        """Whether all is known of a directory that can be known now."""
        left = set(self.over_budget(directory))
        return all(
            self._checks[digest].verdict is not None or digest in left or self.trouble(digest)
            for digest in self._sources.get(directory, ())
        )

    async def wait(self, directory: str) -> None:
        """Wait until `checks_done`. `run` must be running."""
        while not self.checks_done(directory):
            await self._changed.wait()

    def use(
        self, directory: str, sources: Mapping[str, bytes], urgent: Collection[str] = ()
    ) -> None:
        """The directory has these sources, by digest, and no others. The `urgent` ones are checked
        first; those that no directory has any more are not checked."""
        waited = {digest for digest in urgent if self.verdict(digest) is None}
        before = self._sources.get(directory, {})
        if sources.keys() == before.keys() and waited <= self._urgent.get(directory, set()):
            return
        for digest, source in sources.items():
            self._take(digest, source, directory)
        for digest in before.keys() - sources.keys():
            self._release(self._checks[digest], directory)
        checks = [self._checks[digest] for digest in (*waited, *sources)]
        left = [check for check in checks if check.verdict is None]
        self._quick.put(directory, [check.digest for check in left if not check.slow])
        self._slow.put(directory, [check.digest for check in left if check.slow])
        if sources:
            self._sources[directory] = dict.fromkeys(sources)
            self._urgent[directory] = waited
            self._spent[directory] = sum(self._checks[digest].cpu for digest in sources)
        elif before:
            del self._sources[directory], self._urgent[directory], self._spent[directory]
        self._wake()

    def begin(self) -> None:
        """Begin to check. Until then what is asked for may wait: the first answer goes first."""
        self._begin.set()

    async def run(self) -> None:
        """Check what is asked for, until cancelled."""
        await self._begin.wait()
        # Where it failed before, some checks are in the hands of nobody.
        self._handed = None
        for check in self._checks.values():
            if check.verdict is None and not check.waiting:
                self._requeue(check)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._quick_lane)
            tasks.start_soon(self._slow_lane)

    # Which sources there are --------------------------------------------------------------------

    def _take(self, digest: str, source: bytes, directory: str) -> None:
        check = self._checks.get(digest)
        if check is None:
            check = self._checks[digest] = _Check(digest, source)
        elif not check.directories:
            self._unused_bytes -= self._unused.pop(digest)
        if directory not in check.directories:
            check.directories += (directory,)

    def _release(self, check: _Check, directory: str) -> None:
        check.directories = tuple(d for d in check.directories if d != directory)
        if check.directories:
            return
        if check.verdict is None:
            del self._checks[check.digest]
            # In the quick lane it ends soon, and the helper stays.
            if check.slow and check.running is not None:
                check.running.cancel()
            return
        self._unused[check.digest] = check.size
        self._unused_bytes += check.size
        while self._unused_bytes > MAX_UNUSED_BYTES:
            oldest = next(iter(self._unused))
            self._unused_bytes -= self._unused.pop(oldest)
            del self._checks[oldest]

    # The lanes ----------------------------------------------------------------------------------

    async def _quick_lane(self) -> None:
        helper: Helper | None = None
        try:
            while True:
                check = self._next(self._quick)
                if check is None:
                    await self._more.wait()
                    continue
                helper = helper or await self._helper(check)
                if helper is not None:
                    helper = await self._slice(check, helper)
        finally:
            if helper is not None:
                helper.kill()

    async def _slice(self, check: _Check, helper: Helper) -> Helper | None:
        """Give a source its slice. The helper, if it can be used for another source."""
        result = await self._result(check, helper, send=True)
        if isinstance(result, Report):
            self._judge(check, result)
            return helper
        if isinstance(result, SliceUsed):
            check.slow = True
            if self._slow_idle and any(map(self._has_budget, check.directories)):
                self._slow_idle = False
                self._handed = (check, helper)
                self._wake()
                self._news(check)
                return None
            self._requeue(check)
            self._news(check)
        elif result is not None:
            self._judge(check, result)
        helper.kill()
        return None

    async def _slow_lane(self) -> None:
        try:
            while True:
                if self._handed is not None:
                    check, helper = self._handed
                    self._handed = None
                    await self._to_the_end(check, helper, send=False)
                elif (waiting := self._next(self._slow)) is not None:
                    # A fresh one: what an earlier source left in memory does not count.
                    fresh = await self._helper(waiting)
                    if fresh is not None:
                        await self._to_the_end(waiting, fresh, send=True)
                else:
                    self._slow_idle = True
                    await self._more.wait()
                    self._slow_idle = False
        finally:
            if self._handed is not None:
                self._handed[1].kill()

    async def _to_the_end(self, check: _Check, helper: Helper, send: bool) -> None:
        helper.yield_to_others()
        try:
            while isinstance(result := await self._result(check, helper, send), SliceUsed):
                send = False
                check.cpu += SLICE
                for directory in check.directories:
                    self._spent[directory] += SLICE
        finally:
            helper.kill()
        if result is not None:
            self._judge(check, result)

    async def _result(self, check: _Check, helper: Helper, send: bool) -> Result | None:
        """What the helper says next. None if that failed, or no directory has the source now."""
        if check.directories:
            with CancelScope() as check.running:
                try:
                    if send:
                        await helper.send(check.source, check.limits > 0)
                    return await helper.result()
                except Exception as error:
                    self._failed(check, error)
        return None

    async def _helper(self, check: _Check) -> Helper | None:
        """A new helper for this source. None after a pause if there is none to be had."""
        try:
            helper = await Helper.start()
        except HelperError as error:
            self._requeue(check)
            self._failed_starts += 1
            self._no_helper = str(error)
            if self._failed_starts == HELPER_TRIES:
                self._tell(set(self._sources))
            await anyio.sleep(_pause(self._failed_starts))
            return None
        if self._failed_starts >= HELPER_TRIES:
            self._tell(set(self._sources))
        self._failed_starts = 0
        return helper

    # What came of a check -----------------------------------------------------------------------

    def _judge(self, check: _Check, result: Report | LimitReached) -> None:
        if isinstance(result, LimitReached):
            check.limits += 1
            check.slow = True
            if check.limits < LIMIT_TRIES:
                self._requeue(check)
                return
            why = f"the check took {result.limit}"
            check.verdict = language.does_not_compile(why, hint="make it simpler")
        else:
            check.verdict = language.verdict(result)
        check.source, check.trouble = b"", None
        self._news(check)

    def _failed(self, check: _Check, error: Exception) -> None:
        """The check could not be made: that says nothing of the source."""
        check.failures += 1
        if check.failures < HELPER_TRIES:
            self._requeue(check)
            return
        told, check.trouble = check.trouble, str(error) or repr(error)
        if check.trouble != told:
            self._tell(set(check.directories))
        pause = _pause(check.failures - HELPER_TRIES + 1)
        asyncio.get_running_loop().call_later(pause, self._requeue, check)

    def _news(self, check: _Check) -> None:
        """Tell the directories that need not wait for another quick check."""
        known = check.verdict is not None
        tell = set()
        for directory in check.directories:
            urgent = self._urgent[directory]
            waited = known and check.digest in urgent
            if waited:
                urgent.remove(check.digest)
            if (known and check.slow) or (waited and not urgent) or not self._quick.has(directory):
                tell.add(directory)
        if tell:
            self._tell(tell)

    def _tell(self, directories: set[str]) -> None:
        self._done(directories)
        self._changed.set()
        self._changed = anyio.Event()

    def _next(self, turns: _Turns) -> _Check | None:
        """The check whose turn it is; it waits no longer."""
        slow = turns is self._slow
        while (digest := turns.take(self._has_budget if slow else None)) is not None:
            check = self._checks.get(digest)
            if check is not None and check.waiting and check.slow is slow:
                check.waiting = False
                return check
        return None

    def _requeue(self, check: _Check) -> None:
        check.waiting = True
        for directory in check.directories:
            (self._slow if check.slow else self._quick).add(directory, check.digest)
        self._wake()

    def _has_budget(self, directory: str) -> bool:
        return self._spent.get(directory, 0.0) < CHECK_BUDGET

    def _wake(self) -> None:
        self._more.set()
        self._more = anyio.Event()


def _pause(failures: int) -> float:
    """Seconds until the next try after so many failures in a row."""
    return min(FIRST_PAUSE * 2.0 ** min(failures - 1, 20), MAX_PAUSE)
