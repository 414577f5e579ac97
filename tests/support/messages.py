"""What the agent's modules log, in this process."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


class _Recorder(logging.Handler):
    def __init__(self, texts: list[str]) -> None:
        super().__init__()
        self._texts = texts

    def emit(self, record: logging.LogRecord) -> None:
        self._texts.append(record.getMessage())


@contextmanager
def logged() -> Iterator[list[str]]:
    """The texts of all that is logged from now on, while the block runs."""
    texts: list[str] = []
    recorder = _Recorder(texts)
    logger = logging.getLogger("agent")
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(recorder)
    try:
        yield texts
    finally:
        logger.removeHandler(recorder)
        logger.setLevel(before)
