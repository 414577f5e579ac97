"""What `callback-agent check` does: reads directories and judges them as `serve` does.

A directory is judged as an edit of what is accepted of it, or, where nothing is given as accepted,
as `serve` judges it at the first reading.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar, TypeVarTuple, Unpack

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from agent import settings
from agent.core.diagnostic import MORE_FINDINGS, Diagnostic
from agent.core.index import ServedDirectory
from agent.core.quoting import shown
from agent.core.unit import CONF, Implementation, Reading
from agent.disk import second_look
from agent.disk.containment import first_error
from agent.disk.mounts import Mounts
from agent.disk.near_directory import near_directory
from agent.disk.permissions import IGNORE, Trust
from agent.disk.snapshot import Snapshot
from agent.disk.stalls import StallMonitor
from agent.disk.watch.combined import Watch
from agent.disk.watch.interface import POLL_INTERVAL, Target
from agent.reload.checks import python_sources
from agent.reload.directory_state import DirectoryState
from agent.reload.looker import Looker
from agent.reload.settle import Settled, Settler
from agent.reload.stored import StoredUnit
from agent.reload.syntax_check import Checker
from agent.timing import DEFAULTS, Timing

#: The most folders in which a callbacks.conf is looked for, below a directory that has none.
MAX_FOLDERS = 1_000

_T = TypeVar("_T")
_Arguments = TypeVarTuple("_Arguments")


@dataclass(frozen=True, slots=True)
class Subject:
    """A directory that is to be checked."""

    path: str
    #: The language flags of the supervisor.
    languages: frozenset[str]
    #: The setting of that name, and the id of a group whose members may write.
    unsafe_permissions: str = IGNORE
    trusted_group: int | None = None
    #: The agent's user, who may write too; None: the user of this process.
    uid: int | None = None
    #: What is accepted of it; None: it is read for the first time.
    accepted: StoredUnit | None = None

    @property
    def trust(self) -> Trust:
        """Who may write there."""
        groups = frozenset() if self.trusted_group is None else frozenset({self.trusted_group})
        uid = os.geteuid() if self.uid is None else self.uid
        return Trust(self.unsafe_permissions, uid, groups)


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found in one directory."""

    path: str
    findings: tuple[Diagnostic, ...]
    #: Why it would be held; None if it would be served as it is.
    held: str | None
    reading: Reading
    #: The bytes of its callbacks.conf; empty where it was not read.
    conf: bytes

    def at(self, path: str) -> Checked:
        """The same under another path of the directory."""
        findings = (
            replace(f, path=path + f.path.removeprefix(self.path))
            if f.path == self.path or f.path.startswith(f"{self.path}/")
            else f
            for f in self.findings
        )
        return replace(self, path=path, findings=tuple(findings))

    def source(self, path: str) -> bytes | None:
        """The bytes of a file as it was read; None if it was not."""
        if path == f"{self.path}/{CONF}":
            return self.conf
        file = self.reading.files.get(path.removeprefix(f"{self.path}/"))
        return file.code if isinstance(file, Implementation) else None


def check_directories(subjects: Iterable[Subject], timing: Timing = DEFAULTS) -> list[Checked]:
    """What is wrong with each of these directories, in the order given.

    Raises OSError or RuntimeError where the system lacks what this needs.
    """
    return _run(_check, list(subjects), timing)


def watch_directories(
    subjects: Callable[[], Sequence[Subject]],
    qb_conf: str,
    report: Callable[[list[Checked]], bool],
    timing: Timing = DEFAULTS,
) -> None:
    """Check directories, and again at each change of one of them or of `qb_conf`.

    `subjects` is called before each round, in a thread. `report` is called with the results of the
    first round, and of each in which the content of a file or a finding changed. It ends when
    `report` returns false, or with KeyboardInterrupt. Raises as `check_directories`, and what
    `subjects` and `report` raise.
    """
    _run(_watch, subjects, qb_conf, report, timing)


def in_order(findings: Iterable[Diagnostic]) -> list[Diagnostic]:
    """Findings by path, line and column; the count of those that are left out comes last."""
    return sorted(
        findings,
        key=lambda f: (f.path, f.code == MORE_FINDINGS, f.line or 0, f.column or 0),
    )


def with_hint_for_path(finding: Diagnostic, named: Collection[str]) -> Diagnostic:
    """The finding; if it says that one of the `named` paths is not a callback directory, with a
    hint for the person who typed the path. Blocks."""
    directory = finding.path.removesuffix(f"/{CONF}")
    if directory not in named:
        return finding
    hint = None
    if finding.code == "missing":
        near = near_directory(directory)
        hint = f"did you mean {shown(near)}?" if near else "correct the path"
    elif finding.code == "not-a-directory":
        hint = f"name the directory or its {CONF}"
    elif finding.code == "no-conf" and (below := _below(directory)):
        hint = f"did you mean {shown(below)}? There is a {CONF}"
    return finding if hint is None else replace(finding, hint=hint)


def _below(directory: str) -> str | None:
    """The first folder in a directory that has a callbacks.conf, None if none has."""
    try:
        with os.scandir(directory) as entries:
            folders = sorted(e.path for e in islice(entries, MAX_FOLDERS) if e.is_dir())
    except OSError:
        return None
    return next((path for path in folders if os.path.isfile(f"{path}/{CONF}")), None)


def _run(work: Callable[[Unpack[_Arguments]], Awaitable[_T]], *arguments: *_Arguments) -> _T:
    """What `work` returns. Raises its first error, without the group that task groups put around
    it."""
    try:
        return anyio.run(work, *arguments)
    except BaseExceptionGroup as errors:
        raise first_error(errors) from errors


async def _check(subjects: list[Subject], timing: Timing) -> list[Checked]:
    session = _Session(_ignore, timing)
    async with anyio.create_task_group() as tasks:
        session.start(tasks)
        checked = await session.check(subjects)
        tasks.cancel_scope.cancel()
    return checked


async def _watch(
    subjects: Callable[[], Sequence[Subject]],
    qb_conf: str,
    report: Callable[[list[Checked]], bool],
    timing: Timing,
) -> None:
    changes = _Changes()
    session = _Session(changes.notice, timing)
    before: list[object] | None = None
    async with anyio.create_task_group() as tasks:
        session.start(tasks)
        tasks.start_soon(session.watch.run)
        while True:
            changes.begin_round()
            settings_file = await to_thread.run_sync(_content, qb_conf)
            session.also = {"qb.conf": _target(qb_conf, settings_file)}
            wanted = await to_thread.run_sync(subjects, abandon_on_cancel=True)
            checked = await session.check(wanted)
            now = [settings_file, *((c.reading, c.findings) for c in checked)]
            if now != before and not report(checked):
                break
            before = now
            unchanged = await session.is_unchanged()
            # On some file systems, stat differs at every call: then check again after a while,
            # not at once.
            with anyio.move_on_after(POLL_INTERVAL if unchanged is False else None):
                await changes.wait()
        tasks.cancel_scope.cancel()


class _Changes:
    """Whether something changed since the beginning of a round."""

    def __init__(self) -> None:
        self._changed = anyio.Event()

    def notice(self, _: Iterable[str] | None = None) -> None:
        self._changed.set()

    def begin_round(self) -> None:
        self._changed = anyio.Event()

    async def wait(self) -> None:
        await self._changed.wait()


class _Session:
    """Reads directories again and again. `notice` is called when some may have changed."""

    def __init__(self, notice: Callable[[Iterable[str] | None], None], timing: Timing) -> None:
        self._timing = timing
        self._mounts = Mounts()
        self._monitor = StallMonitor(lambda: notice(None), self._mounts.mount, timing.stalled)
        self.watch = Watch(notice, self._monitor, self._mounts, timing.rescan)
        self._checker = Checker(_ignore, timing.checks)
        #: What is watched besides the directories; None: nothing is watched.
        self.also: Mapping[str, Target] | None = None
        self._states: dict[str, DirectoryState] = {}

    def start(self, tasks: TaskGroup) -> None:
        """Start the tasks that reading needs."""
        tasks.start_soon(self._monitor.run)
        tasks.start_soon(self._checker.run)

    async def check(self, subjects: Sequence[Subject]) -> list[Checked]:
        """What is in these directories now. Nothing of an earlier call counts."""
        states = {}
        for s in subjects:
            state = states[s.path] = DirectoryState(s.path)
            if s.accepted is not None:
                state.unit, state.device = s.accepted.unit, s.accepted.device
        for path in self._states.keys() - states.keys():
            self._checker.use(path, {})
        self._states = states
        checked = {}
        for trust in dict.fromkeys(s.trust for s in subjects):
            judged = [s for s in subjects if s.trust == trust]
            looker = Looker(self._mounts.kind, self._monitor, self._checker, trust, self._follow)
            settler = Settler(
                looker, self.watch, self._monitor, self._checker, _ignore, self._timing
            )
            settler.start()
            languages = {s.path: s.languages for s in judged}
            wanted = [states[s.path] for s in judged]
            for state, snapshot in await _settled(wanted, settler, self._timing.quiet_period):
                await self._wait_for_checks(state, snapshot)
                state.evaluate(snapshot, self._checker)
                flags = languages[state.path]
                state.serve(ServedDirectory.of(state.path, state.unit, flags), flags)
                checked[state.path] = _checked(state)
        return [checked[s.path] for s in subjects]

    async def _wait_for_checks(self, state: DirectoryState, snapshot: Snapshot) -> None:
        """Wait until the Python of a settled reading is checked, however long that takes."""
        await self._checker.wait(state.path)
        if snapshot.busy:
            return
        # An accepted source is checked only once it is known that its edit does not compile.
        python = python_sources(self._checker, snapshot.reading, state.unit)
        if python is not None:
            self._checker.use(state.path, *python)
            await self._checker.wait(state.path)

    def _follow(self, names: Collection[str], everything: bool) -> None:
        """Watch everything, before some of it is read. Blocks."""
        if self.also is not None:
            targets = {path: state.target() for path, state in self._states.items()}
            self.watch.follow({**self.also, **targets}, {*self.also, *names}, everything)

    async def is_unchanged(self) -> bool | None:
        """Whether everything is as it was read; None where a file system does not answer. From now
        on, what the links lead to that were found is watched too."""
        return await self._monitor.wait(self._is_unchanged)

    def _is_unchanged(self) -> bool:
        self._follow(self._states.keys(), False)
        for path, state in self._states.items():
            if state.snapshot is not None and not state.snapshot.retry:
                with self._monitor.asking(path):
                    if not second_look.unchanged(state.snapshot):
                        return False
        return True


def _checked(state: DirectoryState) -> Checked:
    assert state.snapshot is not None
    return Checked(
        state.path,
        tuple(state.findings),
        state.held,
        state.snapshot.reading,
        state.snapshot.details.conf,
    )


async def _settled(
    directories: list[DirectoryState], settler: Settler, pause: float
) -> list[Settled]:
    """Read directories until each is settled, with pauses of `pause` seconds."""
    settled: list[Settled] = []
    left = directories
    while left:
        settled += await settler.read_until_quiet(left)
        done = {directory.path for directory, _ in settled}
        left = [directory for directory in directories if directory.path not in done]
        if left:
            await anyio.sleep(pause)
    return settled


def _target(qb_conf: str, content: object) -> Target:
    return Target((qb_conf,), lambda: _content(qb_conf) == content)


def _content(qb_conf: str) -> object:
    """What is in qb.conf, or why it cannot be read. Blocks."""
    found = settings.read_qb_conf(qb_conf)
    return str(found) if isinstance(found, OSError) else found


def _ignore(_: Iterable[str] | None = None) -> None:
    """Everything is read until it is settled: no notice is needed."""
