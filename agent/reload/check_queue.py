"""The Python sources that directories have, and which of them is to be checked next."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import anyio
from anyio import CancelScope

from agent.core.languages import Verdict
from agent.timing import CheckLimits


@dataclass(slots=True, eq=False)
class Check:
    """The check of one source."""

    digest: str
    #: Empty as soon as there is a verdict.
    source: bytes
    #: The directories that have the source.
    directories: tuple[str, ...] = ()
    verdict: Verdict | None = None
    #: Seconds of processor time that it took in the slow lane.
    cpu: float = 0.0
    #: Whether it needs more than a slice.
    slow: bool = False
    #: How often it reached a limit, and how often its helper ended.
    limits: int = 0
    failures: int = 0
    #: Why it cannot be checked at present.
    trouble: str | None = None
    #: Whether a lane may take it: it is not running, nor paused after a failure.
    waiting: bool = True
    #: Ends the check while it runs.
    running: CancelScope | None = None

    @property
    def size(self) -> int:
        """About how many bytes it takes once there is a verdict."""
        return 500 + 200 * len(self.verdict.warnings if self.verdict else ())


class _RoundRobin:
    """Sources that wait, by directory. The directories take turns."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[str, None]] = {}

    def put(self, directory: str, digests: Collection[str]) -> None:
        """Set the sources of a directory that wait, in this order. Its turn stays as it is."""
        if digests:
            self._waiting[directory] = dict.fromkeys(digests)
        else:
            self._waiting.pop(directory, None)

    def add(self, directory: str, digest: str) -> None:
        """Let one more source wait, as the last of its directory."""
        self._waiting.setdefault(directory, {})[digest] = None

    def take(self, allowed: Callable[[str], bool] | None) -> str | None:
        """The first source of the next directory, of those that are allowed."""
        directories = filter(allowed, self._waiting) if allowed else iter(self._waiting)
        directory = next(directories, None)
        if directory is None:
            return None
        waiting = self._waiting.pop(directory)
        digest = next(iter(waiting))
        del waiting[digest]
        if waiting:
            self._waiting[directory] = waiting
        return digest

    def has(self, directory: str) -> bool:
        """Whether a source of this directory waits."""
        return directory in self._waiting


class CheckQueue:
    """The sources of all directories, and those that wait for each lane."""

    def __init__(self, limits: CheckLimits) -> None:
        self._limits = limits
        #: By digest. Those without a directory are remembered for a while.
        self._checks: dict[str, Check] = {}
        self._unused: dict[str, int] = {}
        self._unused_bytes = 0
        #: By directory: the digests that it has, those that it waits for, and the seconds of
        #: processor time that they took in the slow lane.
        self._by_directory: dict[str, dict[str, None]] = {}
        self._urgent: dict[str, set[str]] = {}
        self._spent: dict[str, float] = {}
        self._quick = _RoundRobin()
        self._slow = _RoundRobin()
        self._more = anyio.Event()

    @property
    def directories(self) -> set[str]:
        """The directories that have sources."""
        return set(self._by_directory)

    def get(self, digest: str) -> Check | None:
        """The check of a source, None if no directory has it. From any thread."""
        return self._checks.get(digest)

    def of(self, directory: str) -> Iterator[Check]:
        """The checks of a directory's sources. From any thread."""
        checks = map(self._checks.get, self._by_directory.get(directory, ()))
        return (check for check in checks if check is not None)

    def has_budget(self, directory: str) -> bool:
        """Whether a directory may use the slow lane. From any thread."""
        return self._spent.get(directory, 0.0) < self._limits.budget

    def use(self, directory: str, sources: Mapping[str, bytes], urgent: Collection[str]) -> None:
        """Set the sources that a directory has, by digest. The `urgent` ones are checked first.
        Sources that no directory has any more are not checked."""
        waited = {digest for digest in urgent if not self._has_verdict(digest)}
        before = self._by_directory.get(directory, {})
        if sources.keys() == before.keys() and waited <= self._urgent.get(directory, set()):
            return
        for digest, source in sources.items():
            self._take(digest, source, directory)
        for digest in before.keys() - sources.keys():
            self._release(self._checks[digest], directory)
        checks = [self._checks[digest] for digest in (*waited, *sources)]
        left = [check for check in checks if check.verdict is None]
        self._quick.put(directory, [check.digest for check in left if not check.slow])
        self._slow.put(directory, [check.digest for check in left if check.slow])
        if sources:
            self._by_directory[directory] = dict.fromkeys(sources)
            self._urgent[directory] = waited
            self._spent[directory] = sum(self._checks[digest].cpu for digest in sources)
        elif before:
            del self._by_directory[directory], self._urgent[directory], self._spent[directory]
        self.wake()

    def next(self, slow: bool) -> Check | None:
        """Take the check whose turn it is in a lane; None if none waits."""
        queue, allowed = (self._slow, self.has_budget) if slow else (self._quick, None)
        while (digest := queue.take(allowed)) is not None:
            check = self._checks.get(digest)
            if check is not None and check.waiting and check.slow is slow:
                check.waiting = False
                return check
        return None

    def requeue(self, check: Check) -> None:
        """Let a check wait again, as the last of its directories."""
        check.waiting = True
        for directory in check.directories:
            (self._slow if check.slow else self._quick).add(directory, check.digest)
        self.wake()

    def requeue_lost(self) -> None:
        """Let all checks wait again that are neither done nor waiting."""
        for check in self._checks.values():
            if check.verdict is None and not check.waiting:
                self.requeue(check)

    def spend(self, check: Check, seconds: float) -> None:
        """Count `seconds` of processor time that a check used in the slow lane."""
        check.cpu += seconds
        for directory in check.directories:
            self._spent[directory] += seconds

    def concerned(self, check: Check) -> set[str]:
        """The directories that something new about a check is reported to: those that need not
        wait for another quick check."""
        known = check.verdict is not None
        concerned = set()
        for directory in check.directories:
            urgent = self._urgent[directory]
            waited = known and check.digest in urgent
            if waited:
                urgent.remove(check.digest)
            if (known and check.slow) or (waited and not urgent) or not self._quick.has(directory):
                concerned.add(directory)
        return concerned

    async def wait(self) -> None:
        """Wait until there may be more to check."""
        await self._more.wait()

    def wake(self) -> None:
        """End every `wait`."""
        self._more.set()
        self._more = anyio.Event()

    def _has_verdict(self, digest: str) -> bool:
        check = self._checks.get(digest)
        return check is not None and check.verdict is not None

    def _take(self, digest: str, source: bytes, directory: str) -> None:
        check = self._checks.get(digest)
        if check is None:
            check = self._checks[digest] = Check(digest, source)
        elif not check.directories:
            self._unused_bytes -= self._unused.pop(digest)
        if directory not in check.directories:
            check.directories += (directory,)

    def _release(self, check: Check, directory: str) -> None:
        check.directories = tuple(d for d in check.directories if d != directory)
        if check.directories:
            return
        if check.verdict is None:
            del self._checks[check.digest]
            # In the quick lane it ends soon, and the helper stays.
            if check.slow and check.running is not None:
                check.running.cancel()
            return
        self._unused[check.digest] = check.size
        self._unused_bytes += check.size
        while self._unused_bytes > self._limits.max_unused_bytes:
            oldest = next(iter(self._unused))
            self._unused_bytes -= self._unused.pop(oldest)
            del self._checks[oldest]
