"""Starts a task again that raised, so that one failure does not end the agent."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import anyio

#: Seconds until a task that raised is started again. Long enough for a shortage of threads or
#: memory to end, short enough that nobody waits long for an edit.
PAUSE = 0.5

_logger = logging.getLogger(__name__)


async def keep_running(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Run `work` until it returns or is cancelled. If it raises, start it again after PAUSE.

    Each kind of error is logged once.
    """
    said: set[str] = set()
    while True:
        try:
            await work()
        except Exception as error:  # of any kind: a shortage of threads or memory, or a defect
            text = describe(error)
            if text not in said:
                said.add(text)
                _logger.error("%s failed and is tried again: %s", name, text)
            await anyio.sleep(PAUSE)
            continue
        return


def describe(error: BaseException) -> str:
    """An exception on one line; of a group, its first member."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def first_error(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first exception of a group that task groups made."""
    first: BaseException = errors
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first
