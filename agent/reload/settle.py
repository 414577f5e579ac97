"""Reads directories until they are quiet and checked. `serve` and `check` both read this way.

A directory is read, and looked at again after a quiet period. If stat or the bytes say that nothing
changed meanwhile, the reading is settled. Otherwise the attempt goes on with the next call. Four
things can keep a directory from settling:

- Somebody writes. After `Timing.writing` seconds a reading says so, and that counts as
  settled: the directory is held until the writer is done.
- A file is missing that may come back (`removed_files.py`).
- An edited Python source is not checked yet. After `CheckLimits.max_wait` it is held for that.
- Its callbacks.conf is still being parsed (`plans.py`).

A directory on a file system that does not respond is settled with a reading that says so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

import anyio

from agent.core.unit import CONF, Reading
from agent.disk import being_written, second_look
from agent.disk.snapshot import Snapshot
from agent.disk.stalls import PROMPT, PROMPT_AT_START, StallMonitor
from agent.disk.watch.combined import Watch
from agent.reload import checks
from agent.reload.attempt import Look
from agent.reload.directory_state import DirectoryState
from agent.reload.looker import Looker
from agent.reload.syntax_check import Checker
from agent.timing import Timing

#: A directory, and its settled reading.
Settled = tuple[DirectoryState, Snapshot]


class Settler:
    """Reads directories until they are settled. For the event loop.

    `notice` is called with the paths of directories that are to be read again.
    """

    def __init__(
        self,
        looker: Looker,
        watch: Watch,
        monitor: StallMonitor,
        checker: Checker,
        notice: Callable[[Iterable[str]], None],
        timing: Timing,
    ) -> None:
        self._looker = looker
        self._watch = watch
        self._monitor = monitor
        self.checker = checker
        self._notice = notice
        self._timing = timing
        #: Whether a late file system, or a check, may delay only the directories that it concerns.
        #: Before the first index, everything waits for them, and less long.
        self.started = False

    async def read_until_quiet(
        self, directories: Sequence[DirectoryState], dirty: Collection[str] | None = None
    ) -> list[Settled]:
        """Read directories. Returns those that are settled, each with its reading.

        Directories that are not in `dirty` wait for something that was found before; None is all
        of them. Takes one quiet period, and up to 10 s where a file system does not respond.
        """
        stalled, directories = await self._responding(directories)
        settled: list[Settled] = []
        for d in stalled:
            d.attempt.end()
            settled.append((d, Snapshot.stalled(d.path, d.snapshot)))
        waiting = []
        if dirty is not None:
            waiting = [d for d in directories if d.path not in dirty and d.attempt.only_writers]
        written = await self._monitor.wait(self._still_written, waiting) if waiting else []
        if written is None:
            self.requeue(directories)
            return settled
        for d in written:
            d.attempt.unsettled_since = d.attempt.unsettled_since or time.monotonic()
            if d.attempt.writers is None:
                settled += await self._held_for_writer(d)
        left = [d for d in directories if d not in written]
        if left:
            settled += await self._look_twice(left, dirty is None)
        return settled

    def requeue(self, directories: Iterable[DirectoryState]) -> None:
        """Have directories read again that could not be read, because another one did not respond.

        Who wrote before may have ended meanwhile, and who writes then may have just begun.
        """
        paths = []
        for d in directories:
            d.attempt.unsettled_since = None
            paths.append(d.path)
        self._notice(paths)

    def start(self) -> None:
        """Note that the first index is served: from now on, only the directories concerned wait."""
        self.started = True
        self.checker.begin()

    def forget(self, directories: Collection[str]) -> None:
        """Forget these directories, which are not listed any more."""
        for path in directories:
            self.checker.use(path, {})
        self._looker.forget(directories)

    async def _responding(
        self, directories: Iterable[DirectoryState]
    ) -> tuple[list[DirectoryState], list[DirectoryState]]:
        """Those whose file systems do not respond, and those whose file systems do.

        The monitor notices the others when they respond, or when they count as stalled. At the
        first index they count as stalled at once, so that everything else is served, and what was
        stored of them.
        """
        stalled: list[DirectoryState] = []
        asked: list[DirectoryState] = []
        for d in directories:
            (stalled if self._watch.is_stalled(d.path) else asked).append(d)
        # By file system, the directories on it. A directory that was never read may be on any.
        remote: dict[str, list[DirectoryState]] = {}
        for d in asked:
            device = self._watch.remote_device(d.path)
            if device is not None or d.snapshot is None:
                remote.setdefault(device or d.path, []).append(d)
        if remote:
            prompt = await self._monitor.responding(
                {device: on_it[0].path for device, on_it in remote.items()},
                CONF,
                PROMPT if self.started else PROMPT_AT_START,
            )
            late = [d for device, on_it in remote.items() if device not in prompt for d in on_it]
            asked = [d for d in asked if d not in late]
            if not self.started:
                stalled += late
            for d in late:
                d.attempt.unsettled_since = None
        return stalled, asked

    # Two looks ----------------------------------------------------------------------------------

    async def _look_twice(
        self, directories: list[DirectoryState], everything: bool
    ) -> list[Settled]:
        looks = await self._monitor.wait(self._looker.first_looks, directories, everything)
        if looks is None:
            self.requeue(directories)
            return []
        for d, look in looks:
            self._ask_for_checks(d, look)
        await anyio.sleep(self._timing.quiet_period)
        if await self._monitor.wait(self._looker.second_looks, looks) is None:
            self.requeue(directories)
            return []
        settled: list[Settled] = []
        for d, look in looks:
            attempt = d.attempt
            attempt.only_absent = bool(look.awaited) and look.quiet
            self._ask_for_checks(d, look)
            if not look.settled:
                attempt.look = look
                # Counted from now on: the look may have taken long, on a suspended machine.
                attempt.unsettled_since = attempt.unsettled_since or time.monotonic()
                settled += await self._held_for_writer(d)
                d.stop_removed(look.snapshot, look.gone)
                continue
            attempt.end()
            if look.snapshot.unparsed or self._awaits_check(d, look):
                # It is noticed again when its callbacks.conf is parsed, or its Python checked.
                d.stop_removed(look.snapshot, look.gone)
            else:
                settled.append((d, look.snapshot))
        return settled

    # Writers ------------------------------------------------------------------------------------

    async def _held_for_writer(self, d: DirectoryState) -> list[Settled]:
        """The reading that says who writes, once the attempt took that long.

        Who writes is looked up when the directory becomes held, and then at most every
        `Timing.writing` seconds: if several processes take turns, a record of every turn would be
        too many.
        """
        attempt = d.attempt
        assert attempt.unsettled_since is not None
        assert attempt.look is not None
        now = time.monotonic()
        writing = self._timing.writing
        if now - attempt.unsettled_since < writing:
            return []
        look = attempt.look
        if attempt.writers is None or now - attempt.writers_at >= writing:
            attempt.writers = await self._monitor.wait(self._find_writers, look.snapshot)
            attempt.writers_at = now
        if attempt.writers is None:
            self.requeue([d])
            return []
        # A missing file counts as removed only if both looks missed it and it is not awaited.
        files = look.snapshot.reading.files if look.same else {}
        files = {name: found for name, found in files.items() if name not in look.awaited}
        return [(d, replace(look.snapshot, reading=replace(attempt.writers, files=files)))]

    def _find_writers(self, snapshot: Snapshot) -> Reading:
        with self._monitor.asking(snapshot.reading.directory):
            return being_written.held(snapshot, self._timing.writing)

    def _still_written(self, waiting: list[DirectoryState]) -> list[DirectoryState]:
        """Those in which a file that was open for writing still is. Blocks."""
        written = []
        for d in waiting:
            if d.attempt.look is not None:
                with self._monitor.asking(d.path):
                    if second_look.still_written(d.attempt.look.snapshot):
                        written.append(d)
        return written

    # Checks -------------------------------------------------------------------------------------

    def _ask_for_checks(self, d: DirectoryState, look: Look) -> None:
        if look.python is not None:
            self.checker.use(d.path, *look.python)

    def _awaits_check(self, d: DirectoryState, look: Look) -> bool:
        """Whether an edit waits for its check, and not for so long yet that it is held for it."""
        attempt = d.attempt
        if look.python is None or not look.python.urgent:
            attempt.check_since = None
            return False
        longest = self._timing.checks.max_wait if self.started else checks.MAX_WAIT_AT_START
        if attempt.check_since is None:
            attempt.check_since = time.monotonic()
            # A timer of the loop may be a little early.
            late = longest + self._timing.quiet_period
            asyncio.get_running_loop().call_later(late, self._notice, {d.path})
        self.checker.begin()
        early = time.monotonic() - attempt.check_since < longest
        return early and not self.checker.checks_done(d.path)
