"""A client that looks up all the time while something happens, and remembers what it was told.

What must never be served cannot be seen by looking afterwards. So an `Onlooker` looks up all the
time in a thread of its own, and the test says which answers were ever right.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType

from agent import client
from support.agents import DEADLINE, MAX_PAUSE, Agent

#: What a lookup gave: path, trigger and code of each callback, in order.
Answer = tuple[tuple[str, str, str], ...]

EVENT = "failed-job-self"
#: Seconds between two lookups. Whatever is served is served for a quiet period (5 ms) at least, so
#: nothing is missed, and the processor is left to the agent.
PAUSE = 0.002

CONF = "callbacks.conf"


def files(version: int, *names: str) -> dict[str, str]:
    """A callback directory of one version: every file of it, callbacks.conf too, tells which.

    All versions have files of the same sizes, so that nothing but the content tells them apart.
    """
    names = names or ("a.pl", "b.pl")
    made = {name: f"# {name} of version {version:05d}\n" for name in names}
    made[CONF] = "".join(f"{name} = failed-job-self || v{version:05d}-job-self\n" for name in names)
    return made


def put(directory: Path, content: Mapping[str, str]) -> Path:
    """Write these files, each by rename, callbacks.conf last, and remove what else is there."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in sorted(content, key=lambda name: name == CONF):
        new = directory / f".{name}.new"
        new.write_text(content[name])
        new.rename(directory / name)
    for other in directory.iterdir():
        if other.name not in content and other.is_file():
            other.unlink()
    return directory


def answer(*directories: tuple[Path, Mapping[str, str]]) -> Answer:
    """What a lookup of EVENT gives when these directories are served with this content."""
    callbacks = []
    for directory, content in directories:
        for line in content.get(CONF, "").splitlines():
            name, _, trigger = line.partition(" = ")
            if name in content:
                callbacks.append((f"{directory}/{name}", trigger, content[name]))
    return tuple(callbacks)


class Onlooker:
    """Looks up each two milliseconds. `seen` are the answers in order, none twice in a row."""

    def __init__(self, agent: Agent, event: str = EVENT) -> None:
        self._pipe = str(agent.pipe)
        self._event = event
        self.seen: list[Answer] = []
        self.lookups = 0
        #: The longest that one lookup took, in seconds.
        self.longest = 0.0
        self._digests: dict[str, Answer] = {}
        self._generation = 0
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._first = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Onlooker:
        self._thread.start()
        assert self._first.wait(DEADLINE), "no answer to the first lookup"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(DEADLINE + 5)
        assert not self._thread.is_alive(), "a lookup never ended"
        if self._error is not None and error is None:
            raise AssertionError(f"a lookup failed: {self._error!r}") from self._error

    def sees(self, wanted: Answer, within: float = DEADLINE) -> float:
        """Wait until this is the answer; the seconds that it took."""
        began = time.monotonic()
        while not (self.seen and self.seen[-1] == wanted):
            assert self._error is None, f"a lookup failed: {self._error!r}"
            taken = time.monotonic() - began
            assert taken < within, f"after {taken:.1f} s the answer is {self.seen[-1:]}"
            time.sleep(min(max(PAUSE, taken / 20), MAX_PAUSE))
        return time.monotonic() - began

    def saw_only(self, *right: Answer) -> None:
        """Nothing was ever answered but these."""
        allowed = frozenset(right)
        wrong = [seen for seen in self.seen if seen not in allowed]
        assert not wrong, f"{len(wrong)} answers that were never whole on disk, such as {wrong[0]}"

    def _run(self) -> None:
        try:
            with client.Client(self._pipe, timeout=DEADLINE, restart=0) as one:
                while not self._stop.is_set():
                    began = time.monotonic()
                    self._take(one.lookup(self._event, code=True))
                    self.longest = max(self.longest, time.monotonic() - began)
                    self._first.set()
                    time.sleep(PAUSE)
        except BaseException as error:
            self._error = error
            self._first.set()

    def _take(self, found: Mapping[str, object]) -> None:
        self.lookups += 1
        generation, digest, callbacks = (
            found["generation"],
            found["digest"],
            found["callbacks"],
        )
        assert isinstance(generation, int)
        assert isinstance(digest, str)
        assert isinstance(callbacks, Iterable)
        now = tuple((c["path"], c["trigger"], c["code"]) for c in callbacks)
        assert generation >= self._generation, "the generation went back"
        self._generation = generation
        known = self._digests.setdefault(digest, now)
        assert known == now, f"one digest names two answers: {known} and {now}"
        # One look at it: a test may clear the list.
        if self.seen[-1:] != [now]:
            self.seen.append(now)
