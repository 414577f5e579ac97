"""Counts the lookups that are answered: how many, how long they take, and what they find.

A lookup itself pays for one counter, that of its result in the cache (`Tally` in
`agent.rpc.lookup_cache`). Everything else is derived from these counters once a second.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

import anyio
import anyio.lowlevel

from agent.core.index import Index
from agent.rpc.lookup_cache import LookupCache
from agent.rpc.results import Counted, Found
from agent.server.batcher import MEASURED_TURNS
from agent.server.histogram import Histogram
from agent.server.matches import Matches

#: Seconds between two readings of the counters.
TICK = 1.0
#: Ticks over which `per_second` is averaged.
RATE_TICKS = 5
#: Seconds for which matches are counted in one turn of the loop.
_SLICE = 0.001
#: Callbacks that are counted at once.
_CHUNK = 500
#: Upper bounds of the durations of lookups, in seconds. Usual ones take some 20 us, the longest
#: that are accepted 20 s.
BOUNDS = (
    *(0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005),
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)


class Lookups:
    """The counters. For the event loop, except for `offloaded`."""

    def __init__(self, index: Index, matches: Matches) -> None:
        #: Answers lookups on the current index, and counts them.
        self.cache = LookupCache(index)
        self.matches = matches
        #: How long lookups took.
        self.durations = Histogram(BOUNDS)
        #: How many lookups were counted by the last `collect`.
        self.collected = 0
        #: What each lookup found that was computed in a thread, and the seconds that it took.
        self._offloaded: deque[tuple[Counted, float]] = deque()
        #: Callbacks, and a number of matches of each, which are not in `matches` yet.
        self._found: deque[tuple[Found, int]] = deque()
        #: The monotonic time in seconds and the total, at the last ticks.
        self._ticks = deque([(time.monotonic(), 0)], RATE_TICKS + 1)
        self._collecting = anyio.Lock()
        #: Lookups until one of those that are answered alone is measured.
        self._unmeasured = 0

    def use(self, index: Index) -> None:
        """Answer from another index from now on."""
        self._drain()
        self.cache = LookupCache(index)

    def answered(self, began: float) -> None:
        """Measure a lookup that was answered alone and began at this monotonic time in seconds."""
        self._unmeasured -= 1
        if self._unmeasured < 0:
            self._unmeasured = MEASURED_TURNS - 1
            self.durations.observe(time.monotonic() - began, MEASURED_TURNS)

    def offloaded(self, began: float, counted: Counted) -> None:
        """Count and measure a lookup that was computed in this thread, and what it found."""
        self._offloaded.append((counted, time.monotonic() - began))

    @property
    def total(self) -> int:
        """How many lookups were answered since the start. Those that were refused do not count."""
        return self.collected + self.cache.counted + len(self._offloaded)

    @property
    def per_second(self) -> float:
        """How many were answered in a second, on average over the last ticks."""
        since, before = self._ticks[0]
        return (self.total - before) / max(time.monotonic() - since, 1e-3)

    async def run(self) -> None:
        """Read the counters every TICK, until cancelled."""
        while True:
            await anyio.sleep(TICK)
            self._ticks.append((time.monotonic(), self.total))
            await self.collect()

    async def collect(self) -> None:
        """Add to `matches` what was found before this call."""
        self._drain()
        async with self._collecting:
            until = time.monotonic() + _SLICE
            for _ in self._count_matches():
                if time.monotonic() > until:
                    await anyio.lowlevel.checkpoint()
                    until = time.monotonic() + _SLICE

    def _drain(self) -> None:
        """Take what was counted since the last call."""
        while self._offloaded:
            counted, seconds = self._offloaded.popleft()
            self.durations.observe(seconds)
            self.collected += 1
            self._found += counted
        counted = self.cache.drain()
        self.collected += sum(number for _, number in counted)
        self._found += counted

    def _count_matches(self) -> Iterator[None]:
        now = time.time()
        while self._found:
            found, number = self._found.popleft()
            for start in range(0, len(found), _CHUNK):
                self.matches.add(found[start : start + _CHUNK], number, now)
                yield
            yield
