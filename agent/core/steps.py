"""Counts the work of long computations, so that a caller can stop them."""

from __future__ import annotations

from collections.abc import Callable

#: Elementary steps (about 0.1 to 1 microsecond each) between two calls of a checkpoint.
CHECKPOINT_STEPS = 1000


class Steps:
    """Counts the steps of one computation and calls `checkpoint` every CHECKPOINT_STEPS steps.

    An exception that `checkpoint` raises ends the computation and reaches its caller. Nothing is
    left half done, because the computations only read.
    """

    __slots__ = ("_checkpoint", "_left")

    def __init__(self, checkpoint: Callable[[], object] | None = None) -> None:
        self._checkpoint = checkpoint
        self._left = CHECKPOINT_STEPS

    def take(self, count: int = 1) -> None:
        """Count `count` more steps."""
        self._left -= count
        if self._left <= 0:
            self._left = CHECKPOINT_STEPS
            if self._checkpoint is not None:
                self._checkpoint()
