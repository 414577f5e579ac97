"""What `callback-agent check` does: reads directories as `serve` reads them the first time."""

from __future__ import annotations

from collections.abc import Iterable

import anyio

from agent.core.diagnostic import Diagnostic
from agent.core.index import ServedDirectory
from agent.disk.mounts import Mounts
from agent.disk.permissions import IGNORE, Trust
from agent.disk.stalls import StallMonitor
from agent.disk.watch.combined import Watch
from agent.reload.directory_state import DirectoryState
from agent.reload.looker import Looker
from agent.reload.settle import Settled, Settler
from agent.reload.syntax_check import Checker
from agent.timing import DEFAULTS, Timing


def check_directories(
    directories: Iterable[str],
    languages: frozenset[str],
    unsafe_permissions: str = IGNORE,
    trusted_group: int | None = None,
    timing: Timing = DEFAULTS,
) -> list[Diagnostic]:
    """All diagnostics of these directories, in order.

    `languages` are the language flags of the supervisor, `unsafe_permissions` is the setting of
    that name, `trusted_group` the id of a group whose members may write. Raises OSError or
    RuntimeError where the system lacks what this needs.
    """
    groups = frozenset() if trusted_group is None else frozenset({trusted_group})
    trust = Trust(unsafe_permissions, groups=groups)
    states = [DirectoryState(path) for path in directories]
    return anyio.run(_check, states, languages, trust, timing)


async def _check(
    directories: list[DirectoryState], languages: frozenset[str], trust: Trust, timing: Timing
) -> list[Diagnostic]:
    mounts = Mounts()
    monitor = StallMonitor(_ignore, mounts.mount, timing.stalled)
    watch = Watch(_ignore, monitor, mounts, timing.rescan)
    checker = Checker(_ignore, timing.checks)
    looker = Looker(mounts.kind, monitor, checker, trust)
    settler = Settler(looker, watch, monitor, checker, _ignore, timing)
    settler.start()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(monitor.run)
        tasks.start_soon(checker.run)
        for directory, snapshot in await _settled(directories, settler, timing.quiet):
            await checker.wait(directory.path)
            directory.evaluate(snapshot, checker)
            served = ServedDirectory.of(directory.path, directory.unit, languages)
            directory.serve(served, languages)
        tasks.cancel_scope.cancel()
    return [diagnostic for directory in directories for diagnostic in directory.findings]


async def _settled(
    directories: list[DirectoryState], settler: Settler, pause: float
) -> list[Settled]:
    """Read directories until each is settled, with pauses of so many seconds."""
    settled: list[Settled] = []
    left = directories
    while left:
        settled += await settler.read_until_quiet(left)
        done = {directory.path for directory, _ in settled}
        left = [directory for directory in directories if directory.path not in done]
        if left:
            await anyio.sleep(pause)
    return settled


def _ignore(_: Iterable[str] | None = None) -> None:
    """Everything is read until it is settled: no notice is needed."""
