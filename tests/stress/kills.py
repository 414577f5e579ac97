"""Kills an agent with SIGKILL at random moments during edits, again and again, and starts it again.

Every start must take the pipe over by itself and serve, of each directory, one version that was
whole on disk, and none older than one that was served before the kill. Between two versions of one
of the directories its callbacks.conf is broken, and many kills come while it is; what a start then
serves was kept by the agent before. It prints a table, and exits 1 if a count that must be 0 is
not, or if the time was too short.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from agent.client import AgentError, Client, NoAgent
from support.agents import DEADLINE, Agent
from support.versions import NoVersion, Versions

#: The longest time in seconds from an answer to the kill.
LONGEST_LIFE = 0.15
#: Seconds to wait for a new version where the kill is to come with it.
LONGEST_WAIT = 1.0
#: Of the agents, this part is killed before it has answered, at most so many seconds after it was
#: launched.
KILLED_EARLY = 0.25
LONGEST_START = 0.3
#: This part is killed the moment that a new version is served.
KILLED_AT_ONCE = 0.25
#: What is shown of what went wrong.
MAX_SHOWN = 5


class Writer:
    """Edits one directory in a thread, also while no agent lives, until the end."""

    def __init__(
        self, path: Path, edit: Callable[[Writer], None], seed: int, code: bool = False
    ) -> None:
        self.versions = Versions(path.name, str(path), code=code)
        self.path = path
        self.random = random.Random(seed)
        #: The version under way, and the newest that was served.
        self.version = 0
        self.served = 0
        self.moved = threading.Event()
        self._edit = edit
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.trouble: str | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        self.moved.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._end.is_set():
                self.version += 1
                self._edit(self)
                time.sleep(self.random.choice((0.0, 0.003, 0.01, 0.03)))
        except OSError as error:
            self.trouble = f"{self.versions.event_name}: {error}"

    def until_served(self) -> None:
        """Wait until this version is served, or the end has come."""
        while self.served < self.version and not self._end.is_set():
            self.moved.wait(1.0)
            self.moved.clear()


def replace(path: Path, text: str) -> None:
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.rename(path)


def in_place(w: Writer) -> None:
    text = w.versions.conf_text(w.version)
    cut = w.random.randrange(len(text))
    with (w.path / "callbacks.conf").open("w") as file:
        file.write(text[:cut])
        file.flush()
        time.sleep(w.random.choice((0.0, 0.01, 0.05)))
        file.write(text[cut:])


def by_rename(w: Writer) -> None:
    replace(w.path / "callbacks.conf", w.versions.conf_text(w.version))


def switched(w: Writer) -> None:
    old = os.readlink(w.path)
    new = w.path.with_name(f".{w.path.name}.new")
    new.symlink_to(release(w.path, w.versions, w.version))
    new.rename(w.path)
    shutil.rmtree(old)


def broken(w: Writer) -> None:
    """A whole version, and as soon as it is served a broken one."""
    replace(w.path / "callbacks.conf", w.versions.conf_text(w.version))
    w.until_served()
    half = w.versions.conf_text(w.version + 1)[: w.random.randrange(100)]
    replace(w.path / "callbacks.conf", f"this line is wrong\n{half}")
    # Now and then a kill finds it broken.
    time.sleep(w.random.choice((0.0, 0.3, 0.6)))


def release(path: Path, versions: Versions, version: int) -> Path:
    folder = path.with_name(f"{path.name}.releases") / str(version)
    write_all(folder, versions, version)
    return folder


def write_all(folder: Path, versions: Versions, version: int) -> None:
    folder.mkdir(parents=True)
    for name, text in versions.files(version).items():
        (folder / name).write_text(text)


def writers(folder: Path, seed: int) -> list[Writer]:
    """All directories at version 0, and who edits them."""
    made = [
        Writer(folder / "inplace", in_place, seed + 1),
        Writer(folder / "renamed", by_rename, seed + 2),
        Writer(folder / "switched", switched, seed + 3, code=True),
        Writer(folder / "broken", broken, seed + 4),
    ]
    for writer in made:
        if writer.path.name == "switched":
            writer.path.symlink_to(release(writer.path, writer.versions, 0))
        else:
            write_all(writer.path, writer.versions, 0)
    return made


class Trial:
    """The kills, and what was found."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.writers = writers(folder, seed)
        self.agent = Agent(folder, *(w.path for w in self.writers))
        self.random = random.Random(seed)
        self.kills = 0
        self.early = 0
        self.at_once = 0
        self.held = 0
        self.starts: list[float] = []
        self.refused: list[str] = []
        self.wrong: list[str] = []
        self.older: list[str] = []

    def run(self, kills: int, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        with self._edited():
            while self.kills < kills and time.monotonic() < deadline and not self.refused:
                self._once()
        self._end()

    @contextlib.contextmanager
    def _edited(self) -> Iterator[None]:
        self.agent.start()
        # From here on each directory has a version that is kept.
        self.agent.reload()
        self.agent.stop(signal.SIGKILL)
        for writer in self.writers:
            writer.start()
        try:
            yield
        finally:
            for writer in self.writers:
                writer.stop()
            if self.agent.process is not None:
                self.agent.stop(signal.SIGKILL)

    def _once(self) -> None:
        """Start an agent, see what it serves, and kill it."""
        began = time.monotonic()
        self.agent.launch()
        kind = self.random.random()
        if kind < KILLED_EARLY:
            self.early += 1
            self._watch(began + self.random.uniform(0, LONGEST_START))
        else:
            if not self._watch(began + DEADLINE, first=True) and not self.refused:
                self.refused.append(f"it gave no answer within {DEADLINE} s")
            self.starts.append(time.monotonic() - began)
            now = time.monotonic()
            if kind < KILLED_EARLY + KILLED_AT_ONCE:
                self.at_once += self._watch(now + LONGEST_WAIT, until_new=True)
            else:
                self._watch(now + self.random.uniform(0, LONGEST_LIFE))
        self.agent.stop(signal.SIGKILL)
        self.kills += 1

    def _watch(self, until: float, first: bool = False, until_new: bool = False) -> bool:
        """Look at what is served, again and again, until a time, the first answer, or a new version
        of the directory that is broken in between. Whether that came."""
        process = self.agent.process
        assert process is not None
        broken = self.writers[-1]
        before = broken.served
        with Client(str(self.agent.pipe), timeout=DEADLINE) as client:
            while (left := until - time.monotonic()) > 0:
                if process.poll() is not None:
                    last = self.agent.errors.read_text()[-500:]
                    self.refused.append(f"it ended with status {process.returncode}: {last}")
                    return False
                try:
                    self._look(client.call("list", {"code": True})["callbacks"])
                    if first:
                        self.held += any(d["held"] for d in client.status()["directories"])
                        return True
                except NoAgent:
                    time.sleep(min(left, 0.002))
                except AgentError as error:
                    self.refused.append(f"it gave no answer: {error}")
                    return False
                if until_new and broken.served > before:
                    return True
        return False

    def _look(self, callbacks: list[dict[str, object]]) -> None:
        for writer in self.writers:
            name = writer.versions.event_name
            mine = [c for c in callbacks if c["directory"] == writer.versions.path]
            try:
                shown = writer.versions.read(mine)
            except NoVersion as wrong:
                self.wrong.append(f"{name}: {wrong}")
                continue
            version = writer.versions.version(shown)
            if version is None or version > writer.version:
                self.wrong.append(f"{name}: {shown}")
            elif version < writer.served:
                self.older.append(f"{name}: {version} after {writer.served}")
            elif version > writer.served:
                writer.served = version
                writer.moved.set()

    def _end(self) -> None:
        """All is quiet: the newest versions are served."""
        for writer in self.writers:
            writer.version += 1
            replace(writer.path / "callbacks.conf", writer.versions.conf_text(writer.version))
            for name in writer.versions.names(writer.version):
                replace(writer.path / name, writer.versions.code_text(name, writer.version))
            if writer.trouble:
                self.wrong.append(writer.trouble)
        self.agent.start()
        self.agent.reload()
        self._look(self.agent.call("list", {"code": True})["callbacks"])
        state = self.agent.status()["state"]
        self.agent.stop()
        if state != "ok" or any(w.served != w.version for w in self.writers):
            self.wrong.append(f"at the end: state {state}")

    def report(self, kills: int) -> bool:
        """Print the table. Whether all was well."""
        print(f"{self.kills:8} kills")
        print(f"{self.early:8} of them within {LONGEST_START} s of the launch")
        print(f"{self.at_once:8} of them the moment that a new version was served")
        print(f"{sum(w.version for w in self.writers):8} edits")
        print(f"{self.held:8} starts that found a directory held, and served what was kept")
        if self.starts:
            middle, longest = median(self.starts) * 1000, max(self.starts) * 1000
            print(
                f"{middle:8.0f} ms from the launch to the first answer; the longest: {longest:.0f}"
            )
        ok = self.kills >= kills
        if not ok:
            print(f"only {self.kills} of {kills} kills   <-- too few")
        for what, found in (
            ("starts that were refused, or never answered", self.refused),
            ("answers that match no version that was whole on disk", self.wrong),
            ("answers older than what was served before", self.older),
        ):
            print(f"{len(found):8} {what}{'' if not found else '   <-- must be 0'}")
            for text in found[:MAX_SHOWN]:
                print(f"         {text[:1000]}")
            ok = ok and not found
        return ok


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="so many (%(default)s)")
    parser.add_argument("--seconds", type=float, default=300.0, help="no longer (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the random choices (%(default)s)")
    parser.add_argument("--folder", help="an existing folder to work in, on the file system to try")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kills-", dir=options.folder) as folder:
        trial = Trial(Path(folder).resolve(), options.seed)
        trial.run(options.kills, options.seconds)
        return 0 if trial.report(options.kills) else 1


if __name__ == "__main__":
    sys.exit(main())
