"""A histogram of durations, with fixed upper bounds."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """How many durations are at most how long. Written by one thread, read by any."""

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` are in seconds, in rising order. What is longer is counted beyond the last."""
        self.bounds = tuple(bounds)
        self._counts = [0] * (len(self.bounds) + 1)
        #: Seconds, of all durations together.
        self.sum = 0.0

    def observe(self, seconds: float, number: int = 1) -> None:
        """Count `number` durations of this length."""
        self._counts[bisect_left(self.bounds, seconds)] += number
        self.sum += seconds * number

    def cumulative(self) -> list[int]:
        """How many are at most as long as each bound, and then how many there are."""
        total = 0
        result = []
        for count in self._counts:
            total += count
            result.append(total)
        return result
