"""Continues without a file system that does not answer.

If the server of a hard NFS mount is down, or the process behind a FUSE mount is stopped, a system
call blocks, perhaps for ever, and cannot be ended. So such calls are made in threads of their own,
and lookups continue. Whoever waits for such a thread stops waiting after some seconds. Until the
call returns, its path is `stalled`, and nothing else is asked there: at most two threads are
lost.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from functools import partial
from typing import TypeVar, TypeVarTuple

import anyio
from anyio import CancelScope

#: Seconds for which edits elsewhere wait for a file system that may still answer; and those for
#: which the start waits.
PROMPT = 0.5
PROMPT_AT_START = 3.0

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@dataclass(slots=True, eq=False)
class _Question:
    """A thread that asks a file system: at which path, and what waits for it."""

    path: str
    #: Ticks since its last heartbeat. Ticks, not seconds: the process may have been suspended.
    ticks: int
    #: The mount that `path` was on.
    mount: object
    waits: CancelScope | None
    #: Whether the thread computes at the moment, and asks nothing.
    computing: bool = False


_waiting: ContextVar[CancelScope | None] = ContextVar("waiting", default=None)
_asked: ContextVar[_Question | None] = ContextVar("asked", default=None)


def heartbeat() -> None:
    """Note that the last call of this thread returned: the file system is slow, not stalled."""
    question = _asked.get()
    if question is not None:
        question.ticks = 0


@contextmanager
def computing() -> Iterator[None]:
    """While this lasts, the thread asks no file system, however long it takes."""
    question = _asked.get()
    if question is None:
        yield
        return
    question.computing = True
    try:
        yield
    finally:
        question.ticks = 0
        question.computing = False


class StallMonitor:
    """Which file systems are asked at the moment, and which of them are stalled."""

    def __init__(
        self, notice: Callable[[], None], mount: Callable[[str], object], seconds: float
    ) -> None:
        """A file system that takes more than `seconds` for a call is stalled. `notice` is called
        when paths become stalled, or answer again. `mount` gives the mount that a path is on."""
        self._notice = notice
        self._mount = mount
        self._seconds = seconds
        self._questions: set[_Question] = set()
        #: The paths of the calls that are overdue.
        self.stalled: frozenset[str] = frozenset()
        #: The file systems that were asked by `responding` and did not answer yet.
        self._late: dict[str, str] = {}

    @contextmanager
    def asking(self, path: str) -> Iterator[None]:
        """While this lasts, this thread asks the file system at `path`. From any thread."""
        question = _Question(path, 0, self._mount(path), _waiting.get())
        self._questions.add(question)
        token = _asked.set(question)
        try:
            yield
        finally:
            _asked.reset(token)
            self._questions.discard(question)

    async def wait(self, work: Callable[[*Ts], T], *args: *Ts) -> T | None:
        """Run `work`, which asks file systems, in a thread, and return its result; None as soon as
        one of them is stalled. Then the work may still be done, much later."""
        with CancelScope() as scope:
            token = _waiting.set(scope)
            try:
                return await _in_a_thread(partial(work, *args))
            finally:
                _waiting.reset(token)
        return None

    async def responding(self, paths: Mapping[str, str], file: str, seconds: float) -> set[str]:
        """The names of those file systems that answer within `seconds`.

        `paths` has by name a directory on each, in which `file` is opened. `notice` is called when
        one of the others answers, or becomes stalled.
        """
        prompt: set[str] = set()

        async def ask(name: str, path: str) -> None:
            await _in_a_thread(partial(self._ask, path, file))
            prompt.add(name)

        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as tasks:
                for name, path in paths.items():
                    if name not in self._late:
                        tasks.start_soon(ask, name, path)
        self._late |= {name: path for name, path in paths.items() if name not in prompt}
        return prompt

    def _ask(self, path: str, file: str) -> None:
        # No cache answers the opening of a file; a directory may be opened without its server.
        with self.asking(path), suppress(OSError):
            os.close(os.open(os.path.join(path, file), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))

    async def run(self) -> None:
        """Tick every second, until cancelled."""
        while True:
            await anyio.sleep(1.0)
            overdue = []
            for question in list(self._questions):
                if question.computing:
                    continue
                question.ticks += 1
                if question.ticks > self._seconds:
                    overdue.append(question)
            # A call on a file system that is not mounted there any more says nothing of the one
            # that is.
            before, self.stalled = (
                self.stalled,
                frozenset(q.path for q in overdue if self._mount(q.path) == q.mount),
            )
            for question in overdue:
                if question.waits is not None:
                    question.waits.cancel()
            asked = {q.path for q in list(self._questions) if self._mount(q.path) == q.mount}
            late = {name: path for name, path in self._late.items() if path in asked}
            answered_late, self._late = len(late) < len(self._late), late
            if self.stalled != before or answered_late:
                self._notice()


async def _in_a_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread that nothing waits for, not even the end of this process."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()
    args = (partial(copy_context().run, work), done, loop)
    threading.Thread(target=_run, args=args, name="asks a file system", daemon=True).start()
    try:
        return await done
    finally:
        # The traceback of an error has the variables of here, which must not have the error.
        del done, args


def _run(work: Callable[[], T], done: asyncio.Future[T], loop: asyncio.AbstractEventLoop) -> None:
    try:
        result = work()
    except BaseException as error:
        # Without its traceback, which has the variables of here.
        what = partial(done.set_exception, error.with_traceback(None))
    else:
        what = partial(done.set_result, result)
    with suppress(RuntimeError):  # The loop may be closed by now.
        loop.call_soon_threadsafe(_settle, done, what)


def _settle(done: asyncio.Future[T], set_it: Callable[[], None]) -> None:
    if not done.done():
        set_it()
