"""Two agents are restarted in turn under a supervisor with eight threads, while callbacks change.

Both agents serve one directory, which is edited all the while. The threads share one client for
each agent, and hold every answer to the versions that may be served: none older than what a
`reload` has returned for, none that mixes two versions, and one version for each digest, whichever
agent has answered. A subscriber for each agent follows its records over the restarts; where it is
told that records are lost, it reads the history. In the end it must have each record that is in the
agent's log, once and in order.

No client may raise anything: each restart is shorter than their time limits. Prints what was done
and how long it took; exits 1 if anything was wrong.

    scripts/restarts --seconds 60
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from agent.client import Client, RecordsLost, TimedOut
from support.agents import DEADLINE, Agent, wait_for, write
from support.versions import NoVersion, Versions

#: Threads of the supervisor.
THREADS = 8
#: Seconds between two heartbeats.
HEARTBEAT = 1.0
#: The most seconds between two edits, and between two restarts.
EDIT_PAUSE = 0.05
RESTART_PAUSE = 1.0
#: How many of the mistakes are shown.
MAX_SHOWN = 10

#: The ways to ask. Each gives answers that have all callbacks, in the order of the requests.
WAYS: tuple[Callable[[Client, str], list[Any]], ...] = (
    lambda one, event: [one.lookup(event, code=True)],
    lambda one, event: [one.lookup(event, owners=[{"id": 1}, {"id": 2}], code=True)],
    lambda one, event: list(one.lookup_many([event] * 5, code=True)),
    lambda one, event: [one.explain(event, code=True)],
    lambda one, event: [one.list(code=True)],
)


class Run:
    """One run. What was wrong is in `wrong`, what was done in `count`."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._place = folder / "callback"
        self._versions = Versions("k1", str(self._place), conf=True, code=True)
        write(self._place, "")
        self._put(1)
        self.agents = []
        for number in range(2):
            (folder / str(number)).mkdir()
            self.agents.append(Agent(folder / str(number), self._place))
        self._clients = [
            Client(str(agent.pipe), timeout=DEADLINE, restart=DEADLINE) for agent in self.agents
        ]
        self._seed = seed
        self._over = threading.Event()
        self._ending = threading.Event()
        #: The newest version that is on disk, or is being written.
        self._written = 1
        #: For each agent, the version that it serves at least.
        self._floor = [1, 1]
        #: The version that each digest stands for.
        self._digests: dict[str, int] = {}
        #: For each agent, instance and sequence of the records that its subscriber has.
        self.seen: list[set[tuple[str, int]]] = [set(), set()]
        self._counting = threading.Lock()
        self.count: Counter[str] = Counter()
        #: Seconds that the longest call took.
        self.longest = 0.0
        self.wrong: list[str] = []

    def go(self, seconds: float) -> None:
        """Run for so many seconds, and at least until each agent was restarted."""
        chance = random.Random(self._seed)
        for agent in self.agents:
            agent.start()
        askers = [self._thread(self._ask, number) for number in range(THREADS)]
        askers.append(self._thread(self._edit))
        followers = [self._thread(self._follow, which) for which in range(2)]
        try:
            # As after each restart: what is stopped before it was asked cannot tell its records.
            wait_for(lambda: all(self.seen), "the subscribers")
            end = time.monotonic() + seconds
            while (time.monotonic() < end or self.count["restarts"] < 2) and not self.wrong:
                self._restart(self.count["restarts"] % 2)
                time.sleep(chance.random() * RESTART_PAUSE)
        except Exception:
            self.wrong.append(traceback.format_exc())
        self._over.set()
        for thread in askers:
            thread.join(2 * DEADLINE)
        self._ending.set()
        for agent in self.agents:
            agent.stop()
        for thread in followers:
            thread.join(DEADLINE)
        if any(thread.is_alive() for thread in (*askers, *followers)):
            self.wrong.append("a thread did not end")
        for which, agent in enumerate(self.agents):
            logged = [(r["instance"], r["sequence"]) for r in agent.records()]
            self.count["records"] += len(logged)
            self.wrong += lost(which, logged, self.seen[which])

    def _thread(self, act: Callable[..., None], *given: int) -> threading.Thread:
        def run() -> None:
            try:
                act(*given)
            except Exception:
                self.wrong.append(traceback.format_exc())

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def _restart(self, which: int) -> None:
        """Restart an agent, and wait until its subscriber is back: one that misses a whole run of
        the agent cannot get the records of that run."""
        agent = self.agents[which]
        status = agent.stop()
        if status:
            self.wrong.append(f"agent {which} ended with status {status}")
        agent.start()
        instance = agent.status()["instance"]
        wait_for(lambda: (instance, 1) in self.seen[which] or self.wrong, "the subscriber")
        self.count["restarts"] += 1

    def _edit(self) -> None:
        chance = random.Random(self._seed)
        while not self._over.wait(EDIT_PAUSE * chance.random()):
            version = self._written + 1
            self._written = version
            self._put(version)
            for which in chance.sample((0, 1), 2):
                self._clients[which].reload()
                self._floor[which] = version
            self.count["edits"] += 1

    def _put(self, version: int) -> None:
        """Write a version at once: another directory takes the place of this one."""
        new, old = (self._place.with_name(f".callback.{name}") for name in ("new", "old"))
        new.mkdir()
        for name, text in self._versions.files(version).items():
            (new / name).write_text(text)
        self._place.rename(old)
        new.rename(self._place)
        shutil.rmtree(old)

    def _ask(self, number: int) -> None:
        chance = random.Random(self._seed + number)
        while not self._over.is_set():
            which = chance.randrange(2)
            floor = self._floor[which]
            began = time.monotonic()
            answers = chance.choice(WAYS)(self._clients[which], self._versions.event)
            with self._counting:
                self.longest = max(self.longest, time.monotonic() - began)
                self.count["answers"] += len(answers)
            for one in answers:
                # A later answer on one connection is never older.
                floor = max(floor, self.check(which, floor, one))

    def check(self, which: int, floor: int, answer: Any) -> int:
        """The version of an agent's answer, 0 where it is wrong; `floor` is the oldest that it may
        be."""
        try:
            shown = self._versions.read(answer["callbacks"])
        except NoVersion as error:
            self.wrong.append(str(error))
            return 0
        version = self._versions.version(shown)
        if version is None:
            self.wrong.append(f"agent {which}: two versions in one answer: {shown}")
            return 0
        if not floor <= version <= self._written:
            found = f"version {version}, not one from {floor} to {self._written}"
            self.wrong.append(f"agent {which}: {found}")
        if self._digests.setdefault(answer["digest"], version) != version:
            self.wrong.append(f"agent {which}: version {version} has the digest of another")
        return version

    def _follow(self, which: int) -> None:
        """Have all records of an agent, over its restarts."""
        client = self._clients[which]
        with client.subscribe(heartbeat=HEARTBEAT) as records:
            self._read_again(which)
            last = ""
            while not (self._ending.is_set() and last == "stopped"):
                before = records.position
                try:
                    record = records.next(timeout=0.2)
                except TimedOut:
                    continue
                except RecordsLost:
                    with self._counting:
                        self.count["lost records"] += 1
                    self._read_again(which)
                    continue
                last = record["event"]
                found = (record["instance"], record["sequence"])
                if before is None or found != (before["instance"], before["sequence"] + 1):
                    self.wrong.append(f"agent {which}: record {found} after {before}")
                self.seen[which].add(found)
                with self._counting:
                    self.count["notifications"] += 1

    def _read_again(self, which: int) -> None:
        for record in self._clients[which].history()["records"]:
            self.seen[which].add((record["instance"], record["sequence"]))


def lost(which: int, logged: Iterable[tuple[str, int]], seen: set[tuple[str, int]]) -> list[str]:
    """What is wrong with the records that a subscriber has, given those in the log."""
    logged = list(logged)
    wrong = [f"agent {which}: the record {one} is lost" for one in logged if one not in seen]
    wrong += [f"agent {which}: {one} is not in the log" for one in seen - set(logged)]
    return wrong


def report(run: Run, seconds: float) -> bool:
    """Print what a run did; whether all was well."""
    count = run.count
    print(f"{count['restarts']} restarts and {count['edits']} edits in {seconds:.0f} s")
    print(f"{count['answers']} answers; the longest call took {run.longest:.2f} s")
    print(
        f"{count['records']} records in the logs, {count['notifications']} as notifications;"
        f" {count['lost records']} times told to read everything again"
    )
    for one in run.wrong[:MAX_SHOWN]:
        print(f"WRONG: {one}")
    print(f"{len(run.wrong)} mistakes" if run.wrong else "all was well")
    return not run.wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of edits and lookups (%(default)s)")
    parser.add_argument("--folder", help="an existing folder to work in")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="restarts-", dir=options.folder) as folder:
        run = Run(Path(folder).resolve(), options.seed)
        began = time.monotonic()
        run.go(options.seconds)
        return 0 if report(run, time.monotonic() - began) else 1


if __name__ == "__main__":
    sys.exit(main())
