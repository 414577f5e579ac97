"""Goes on without a file system that does not answer.

Where the server of a hard NFS mount is gone, or the process behind a FUSE one stands still, a call
waits, perhaps for ever, and nobody can end it. What waits is a thread of its own, so lookups go on.
Whoever waits for that thread is told to go on without it after SLOW seconds. While the call has not
returned, its path is `silent` and is not asked again: one thread is lost to it, and no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar, TypeVarTuple

import anyio
from anyio import CancelScope, to_thread

#: Seconds after which a file system counts as one that does not answer. A disk that has to wake up
#: takes some.
SLOW = 10.0

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@dataclass(slots=True, eq=False)
class _Question:
    """A file system is asked: at which path, since when, and what waits for the answer."""

    path: str
    #: Looks at it since it last answered something. Not time: this process may stand still.
    looks: int
    #: The mount that `path` lay on.
    mount: object
    waits: CancelScope | None


_waiting: ContextVar[CancelScope | None] = ContextVar("waiting", default=None)
_asked: ContextVar[_Question | None] = ContextVar("asked", default=None)


def answered() -> None:
    """What this thread asked has answered something, and is asked more: slow is not silent."""
    question = _asked.get()
    if question is not None:
        question.looks = 0


class Patience:
    """What file systems are asked at the moment, and which of them do not answer."""

    def __init__(self, notice: Callable[[], None], mount: Callable[[str], object]) -> None:
        #: Told that paths fell silent, or answer again.
        self._notice = notice
        self._mount = mount
        self._questions: set[_Question] = set()
        self.silent: frozenset[str] = frozenset()

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

    @property
    def busy(self) -> bool:
        """Whether some thread waits for an answer."""
        return bool(self._questions)

    async def wait(self, work: Callable[[*Ts], T], *args: *Ts) -> T | None:
        """What `work` gives, which runs in a thread, and which asks file systems; None as soon as
        one of them counts as silent. Then the work may still be done, much later."""
        with CancelScope() as scope:
            token = _waiting.set(scope)
            try:
                return await to_thread.run_sync(work, *args, abandon_on_cancel=True)
            finally:
                _waiting.reset(token)
        return None

    async def run(self) -> None:
        """Look each second, until cancelled."""
        while True:
            await anyio.sleep(1.0)
            late = []
            for question in list(self._questions):
                question.looks += 1
                if question.looks > SLOW:
                    late.append(question)
            # What waits for a file system that is mounted there no more says nothing of another.
            before, self.silent = (
                self.silent,
                frozenset(q.path for q in late if self._mount(q.path) == q.mount),
            )
            for question in late:
                if question.waits is not None:
                    question.waits.cancel()
            if self.silent != before:
                self._notice()
