"""Goes on without a file system that does not answer.

Where the server of a hard NFS mount is gone, or the process behind a FUSE one stands still, a call
waits, perhaps for ever, and nobody can end it. What waits is a thread of its own, so lookups go on.
Whoever waits for that thread is told to go on without it after SLOW seconds. While the call has not
returned, its path is `silent` and is not asked again: a thread or two are lost to it, and no more.
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

#: Seconds after which a file system counts as one that does not answer. A disk that has to wake up
#: takes some.
SLOW = 10.0
#: Seconds for which others wait for one that may answer yet, and for which a start does.
PROMPT = 0.5
PROMPT_AT_START = 3.0

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@dataclass(slots=True, eq=False)
class _Question:
    """A file system is asked: at which path, for how long, and what waits for the answer."""

    path: str
    #: Looks at it since it last answered something. Not time: this process may stand still.
    looks: int
    #: The mount that `path` lay on.
    mount: object
    waits: CancelScope | None
    #: Whether the thread computes at the moment, and asks nothing.
    computing: bool = False


_waiting: ContextVar[CancelScope | None] = ContextVar("waiting", default=None)
_asked: ContextVar[_Question | None] = ContextVar("asked", default=None)


def answered() -> None:
    """What this thread asked has answered something, and is asked more: slow is not silent."""
    question = _asked.get()
    if question is not None:
        question.looks = 0


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
        question.looks = 0
        question.computing = False


class Patience:
    """What file systems are asked at the moment, and which of them do not answer."""

    def __init__(self, notice: Callable[[], None], mount: Callable[[str], object]) -> None:
        #: Told that paths fell silent, or answer again.
        self._notice = notice
        self._mount = mount
        self._questions: set[_Question] = set()
        self.silent: frozenset[str] = frozenset()
        #: The file systems that were asked by `answering` and have not answered yet.
        self._late: dict[str, str] = {}

    @contextmanager
    def asking(self, path: str) -> Iterator[None]:
        """While this lasts, the file system at `path` is asked. From any thread."""
        question = _Question(path, 0, self._mount(path), _waiting.get())
        self._questions.add(question)
        token = _asked.set(question)
        try:
            yield
        finally:
            _asked.reset(token)
            self._questions.discard(question)

    async def wait(self, work: Callable[[*Ts], T], *args: *Ts) -> T | None:
        """What `work` gives, which runs in a thread, and which asks file systems; None as soon as
        one of them counts as silent. Then the work may still be done, much later."""
        with CancelScope() as scope:
            token = _waiting.set(scope)
            try:
                return await _in_a_thread(partial(work, *args))
            finally:
                _waiting.reset(token)
        return None

    async def answering(self, paths: Mapping[str, str], file: str, seconds: float) -> set[str]:
        """Those file systems, each with a directory on it to ask for a file, that answer within so
        many seconds. The others are noticed when they do, or when they count as silent."""
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
        # Opening a file is what no cache answers; a directory may be opened without its server.
        with self.asking(path), suppress(OSError):
            os.close(os.open(os.path.join(path, file), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))

    async def run(self) -> None:
        """Look each second, until cancelled."""
        while True:
            await anyio.sleep(1.0)
            overdue = []
            for question in list(self._questions):
                if question.computing:
                    continue
                question.looks += 1
                if question.looks > SLOW:
                    overdue.append(question)
            # What waits for a file system that is mounted there no more says nothing of another.
            before, self.silent = (
                self.silent,
                frozenset(q.path for q in overdue if self._mount(q.path) == q.mount),
            )
            for question in overdue:
                if question.waits is not None:
                    question.waits.cancel()
            asked = {q.path for q in list(self._questions) if self._mount(q.path) == q.mount}
            late = {name: path for name, path in self._late.items() if path in asked}
            answered_late, self._late = len(late) < len(self._late), late
            if self.silent != before or answered_late:
                self._notice()


async def _in_a_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread that nobody needs to wait for, not even the end of this process."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()
    context = copy_context()

    def settle(set_it: Callable[[], None]) -> None:
        if not done.done():
            set_it()

    def run() -> None:
        try:
            result = context.run(work)
        except BaseException as error:
            what = partial(done.set_exception, error)
        else:
            what = partial(done.set_result, result)
        with suppress(RuntimeError):  # The loop may be closed by now.
            loop.call_soon_threadsafe(settle, what)

    threading.Thread(target=run, name="asks a file system", daemon=True).start()
    return await done
