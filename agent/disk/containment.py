"""Keeps a task alive whose work raised, so that one failure does not end the agent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

#: Seconds until work is tried again that raised. Long enough for a shortage of threads or memory
#: to pass, short enough that nobody waits long for an edit.
PAUSE = 0.5


async def keep_running(
    name: str, work: Callable[[], Awaitable[None]], complain: Callable[[str], None]
) -> None:
    """Run `work` until it returns or is cancelled. Where it raises, complain once for each kind of
    error, and start it again after PAUSE."""
    said: set[str] = set()
    while True:
        try:
            await work()
        except Exception as error:  # of any kind: a shortage of threads or memory, or a defect
            text = describe(error)
            if text not in said:
                said.add(text)
                complain(f"{name} failed and is tried again: {text}")
            await anyio.sleep(PAUSE)
            continue
        return


def describe(error: BaseException) -> str:
    """An exception on one line, that of a group by its first member."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
