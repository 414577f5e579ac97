"""Storms of edits against the reloader, each followed by a barrier: what is served then must be
what a fresh start serves.

Several sites run in this process, each with a reloader of its own over real files. A storm is a
random sequence of edits, some of them only microseconds apart: writes in place that stay open,
renames away and back, new times, removals, `git checkout` of one commit and another, switched
links, directories that are moved away or made again, broken and emptied callbacks.conf files, and
edits of qb.conf. The reloader lives on from one storm to the next.

After each storm:

- a directory that is not held serves what a fresh start serves;
- a directory that is held serves what it did, and judging the disk once more changes nothing;
- the index is what the accepted units give, and `state` is what the findings say;
- each record that changed what is served named a cause for each directory that changed.

It prints what was wrong with the steps that led there, and exits 1 if anything was.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import anyio
import msgspec

from agent import settings
from agent.core.diagnostic import Diagnostic, Severity
from agent.core.index import Index, ServedDirectory
from agent.core.unit import CONF, evaluate
from agent.disk import directory
from agent.disk.permissions import IGNORE, Trust
from agent.reload import checks
from agent.reload.directory_state import DirectoryState
from agent.reload.last_good import LastGood
from agent.reload.log import Log
from agent.reload.reloader import Reloader
from support.agents import PATIENT
from support.given import by_flag
from support.messages import logged

TRUST = Trust(IGNORE)
#: Sites that run at the same time: while one waits for a quiet period, others go on.
SITES = 12
#: Steps of one storm.
STEPS = (2, 14)
#: Pauses in seconds after a step, shorter and longer than the quiet period.
PAUSES = (0.0, 0.0, 0.0, 0.0005, 0.002, 0.004, 0.007, 0.015)
#: Seconds until a barrier that does not return is an error.
NEVER = 120.0
#: Every so many storms of a site, a fresh reloader is really started and compared.
FRESH = 25

CODE = {
    "a.pl": ("print 1\n", "print 2\n"),
    "b.qcb": ("block-self\n", "mail-status\n", "no-such-code\n"),
    "c.py": ("a = 1\n", "a = 2\n", "a = = 1\n"),
    "d.qcb": ("kill-self\n", "retry-work-self\n"),
}
NAMES = tuple(CODE)
LINES = (
    *("a.pl = failed-job-self", "b.qcb = done-work-self-*", "c.py = submit-job-self"),
    *("d.qcb = done-job-self", "a.pl = x-job-1 || y-job-1", "d.qcb = done-work-self"),
)
BROKEN = ("nonsense", "e.py = done-job-self", "a.txt = done-job-self", "a.pl = (x")
LANGUAGES = ("qube,mail,perl,python", "qube,mail", "qube,python")


def run_git(*arguments: str, cwd: Path) -> None:
    """Run git, without the configuration of this user."""
    environ = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    who = ("-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "gc.auto=0")
    subprocess.run(["git", *who, *arguments], cwd=cwd, env=environ, check=True, capture_output=True)


class Site:
    """Callback directories, the edits of them, and the reloader that follows."""

    def __init__(self, folder: Path, seed: int, said: list[str]) -> None:
        self.folder = folder
        #: What the agent's modules logged, of all sites.
        self.said = said
        self.chance = random.Random(seed)
        self.open: list[IO[str]] = []
        self.away: list[tuple[Path, Path]] = []
        self.steps: list[str] = []
        self.records: list[bytes] = []
        self.kinds: Counter[str] = Counter()
        self.paths = [folder / name for name in ("one", "two", "link")]
        self.git = shutil.which("git") is not None
        folder.mkdir(parents=True)
        for name in ("one", "two", "releases/a", "releases/b"):
            self.fill(folder / name)
        (folder / "link").symlink_to("releases/a")
        if self.git:
            self.commit(folder / "two")
        self.write_settings()

    # What is edited ---------------------------------------------------------------------------

    def fill(self, path: Path) -> None:
        """Make a directory whole: all files, and lines for most of them."""
        path.mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            (path / name).write_text(self.chance.choice(CODE[name][:2]))
        (path / CONF).write_text(self.conf(0))

    def conf(self, broken: float) -> str:
        lines = self.chance.sample(LINES, self.chance.randint(1, len(LINES)))
        if self.chance.random() < broken:
            lines.insert(self.chance.randint(0, len(lines)), self.chance.choice(BROKEN))
        return "".join(f"{line}\n" for line in lines)

    def commit(self, path: Path) -> None:
        """Make a directory a repository with two commits, A and B, that differ in all files."""
        run_git("init", "-q", "-b", "A", cwd=path)
        for branch in "AB":
            if branch == "B":
                run_git("checkout", "-q", "-b", "B", cwd=path)
            for name in NAMES:
                (path / name).write_text(CODE[name]["AB".index(branch)])
            (path / CONF).write_text("".join(f"{line}\n" for line in LINES[:4]))
            if branch == "B":
                (path / "d.qcb").unlink()
                (path / CONF).write_text("".join(f"{line}\n" for line in LINES[:3]))
            run_git("add", "-A", cwd=path)
            run_git("commit", "-q", "-m", branch, cwd=path)

    def write_settings(self, paths: list[Path] | None = None) -> None:
        listed = ",".join(map(str, paths or self.paths))
        flags = self.chance.choice(LANGUAGES) if paths else LANGUAGES[0]
        text = f"supervisor_language_flags = {flags}\n"
        text += f"supervisor_universal_callback_path = {listed}\n"
        new = self.folder / "qb.conf.new"
        new.write_text(text)
        new.rename(self.folder / "qb.conf")

    # The steps ---------------------------------------------------------------------------------

    def target(self) -> Path:
        return self.chance.choice([*self.paths, self.paths[1], self.folder / "releases/b"])

    def content(self, name: str) -> str:
        return self.conf(0.2) if name == CONF else self.chance.choice(CODE[name])

    def file(self) -> Path:
        return self.target() / self.chance.choice([*NAMES, CONF, CONF])

    def in_place(self) -> str:
        path = self.file()
        path.write_text(self.content(path.name))
        return f"write {path}"

    def same_again(self) -> str:
        path = self.file()
        path.write_bytes(path.read_bytes())
        return f"write the same into {path}"

    def by_rename(self) -> str:
        path = self.file()
        new = path.with_name(f".{path.name}.new")
        new.write_text(self.content(path.name))
        new.rename(path)
        return f"replace {path}"

    def keep_open(self) -> str:
        path = self.file()
        self.open.append(path.open(self.chance.choice("aw")))
        return f"open {path} for {self.open[-1].mode}"

    def write_on(self) -> str:
        one = self.chance.choice(self.open)
        one.write(self.content(Path(one.name).name))
        one.flush()
        return f"write on in {one.name}"

    def close(self) -> str:
        one = self.open.pop(self.chance.randrange(len(self.open)))
        one.close()
        return f"close {one.name}"

    def touch(self) -> str:
        path = self.file()
        os.utime(
            path, (self.chance.choice((0, 10**9)),) * 2 if self.chance.random() < 0.5 else None
        )
        return f"utime {path}"

    def remove(self) -> str:
        path = self.file()
        path.unlink()
        return f"rm {path}"

    def move_away(self) -> str:
        path = self.chance.choice([self.file(), self.file(), self.target()])
        there = self.folder / f"away{len(self.steps)}-{len(self.away)}"
        path.rename(there)
        self.away.append((path, there))
        return f"mv {path} {there}"

    def move_back(self) -> str:
        path, there = self.away.pop(self.chance.randrange(len(self.away)))
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        there.rename(path)
        return f"mv {there} {path}"

    def there_and_back(self) -> str:
        path = self.file()
        there = self.folder / "there"
        path.rename(there)
        time.sleep(self.chance.choice(PAUSES))
        there.rename(path)
        return f"mv {path} away and back"

    def switch_link(self) -> str:
        new = self.folder / "link.new"
        target = self.chance.choice("ab")
        new.symlink_to(f"releases/{target}")
        new.replace(self.folder / "link")
        return f"link to {target}"

    def make_again(self) -> str:
        path = self.chance.choice([self.folder / "one", self.folder / "releases/a"])
        shutil.rmtree(path)
        self.fill(path)
        return f"rm -r and make {path} again"

    def file_link(self) -> str:
        path = self.target() / self.chance.choice(NAMES)
        target = self.folder / f"target-{self.chance.choice('xy')}-{path.name}"
        target.write_text(self.content(path.name))
        new = path.with_name("link.new")
        new.symlink_to(target)
        new.replace(path)
        return f"ln -sf {target} {path}"

    def empty(self) -> str:
        path = self.target() / CONF
        path.write_text("")
        return f"empty {path}"

    def checkout(self) -> str:
        branches = self.chance.choice(("B", "A", "BA", "AB", "BAB"))
        for branch in branches:
            run_git("checkout", "-qf", branch, cwd=self.folder / "two")
        return f"git checkout {branches}"

    def edit_settings(self) -> str:
        paths = self.chance.sample(self.paths, self.chance.randint(1, len(self.paths)))
        self.write_settings(paths)
        return f"list {[p.name for p in paths]}"

    STEPS: tuple[tuple[int, Callable[[Site], str]], ...] = (
        (8, in_place),
        (3, same_again),
        (6, by_rename),
        (5, keep_open),
        (5, write_on),
        (5, close),
        (5, touch),
        (3, remove),
        (8, move_away),
        (9, move_back),
        (6, there_and_back),
        (3, switch_link),
        (1, make_again),
        (1, file_link),
        (1, empty),
        (1, checkout),
        (1, edit_settings),
    )

    def step(self) -> None:
        """One random edit. What cannot be done as things stand is left out."""
        weights, kinds = zip(*self.STEPS, strict=True)
        (kind,) = self.chance.choices(kinds, weights)
        with contextlib.suppress(OSError, ValueError, IndexError, subprocess.CalledProcessError):
            self.steps.append(kind(self))
            self.kinds[kind.__name__] += 1

    def storm(self) -> None:
        """Some edits, after which no file is open. Blocks."""
        for _ in range(self.chance.randint(*STEPS)):
            self.step()
            time.sleep(self.chance.choice(PAUSES))
        for one in self.open:
            one.close()
        self.open.clear()

    def repair(self) -> None:
        """Bring back what has been missing for a while, so that storms do not run dry."""
        for path, there in self.away:
            with contextlib.suppress(OSError):
                if not os.path.lexists(path):
                    there.rename(path)
            shutil.rmtree(there, ignore_errors=True)
            there.unlink(missing_ok=True)
        self.away.clear()
        for name in ("one", "two", "releases/a", "releases/b"):
            path = self.folder / name
            if self.chance.random() < 0.5 or not path.is_dir():
                self.fill(path)
        if self.git and not (self.folder / "two/.git").is_dir():
            self.commit(self.folder / "two")

    # The reloader ------------------------------------------------------------------------------

    def reloader(self, name: str = "running") -> Reloader:
        """Put together as `serve` does."""
        state = self.folder / name
        flags = {
            "qb_conf": str(self.folder / "qb.conf"),
            "log": str(state / "log"),
            "log_format": "json",
            "pipe": str(state / "pipe"),
            "state": str(state / "state"),
        }
        kept = LastGood(flags["state"], flags["pipe"], TRUST)
        kept.open()
        log = Log(flags["log"], "json", "")
        read = partial(settings.read, by_flag(flags))
        # A check that is late is no fault, and would be judged otherwise a moment later.
        return Reloader(read, settings.read(by_flag(flags)), kept, log, TRUST, PATIENT)


@dataclass
class Wrong:
    """What a storm showed that must not be."""

    storm: int
    what: str
    steps: list[str]

    def __str__(self) -> str:
        return "\n  ".join([f"storm {self.storm}: {self.what}", *self.steps])


class Storms:
    """The storms of one site, one after the other."""

    def __init__(self, site: Site, storms: int) -> None:
        self.site = site
        self.storms = storms
        self.done = 0
        self.held = 0
        self.wrong: list[Wrong] = []

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            reloader = self.site.reloader()
            reloader.records.listeners.append(self.site.records.append)
            tasks.start_soon(reloader.run)
            with anyio.fail_after(NEVER):
                await reloader.ready.wait()
            while self.done < self.storms:
                self.site.steps.clear()
                self.site.records.clear()
                await anyio.to_thread.run_sync(self.site.storm)
                await self.barrier(reloader)
                for what in await self.found(reloader):
                    self.wrong.append(Wrong(self.done, what, [*self.site.steps]))
                self.done += 1
                if self.site.chance.random() < 0.3:
                    self.site.repair()
            tasks.cancel_scope.cancel()

    async def barrier(self, reloader: Reloader) -> None:
        with anyio.move_on_after(NEVER) as scope:
            await reloader.reload()
        if scope.cancelled_caught:
            raise AssertionError(f"`reload` did not return in {NEVER:.0f} s: {self.site.steps}")

    async def found(self, reloader: Reloader) -> list[str]:
        """What is wrong now."""
        wrong = await anyio.to_thread.run_sync(self.compared, reloader)
        wrong += self.site.said
        self.site.said.clear()
        if self.done % FRESH == 0 and not any(d.held for d in units(reloader)):
            async with anyio.create_task_group() as tasks:
                fresh = self.site.reloader("fresh")
                tasks.start_soon(fresh.run)
                with anyio.fail_after(NEVER):
                    await fresh.ready.wait()
                if fresh.index.digest != reloader.index.digest:
                    wrong.append("a fresh start serves something else")
                tasks.cancel_scope.cancel()
            shutil.rmtree(self.site.folder / "fresh", ignore_errors=True)
        return wrong

    def compared(self, reloader: Reloader) -> list[str]:
        wrong: list[str] = []
        flags = reloader.settings.languages
        for d in units(reloader):
            before = d.snapshot
            also = d.unit.files() if d.unit else frozenset()
            device = before.device if before else None
            reading = directory.read(d.path, None, also, device=device).reading
            reading = checks.checked_reading(reloader._settler.checker, reading, d.unit)
            again = evaluate(reading, d.unit)
            fresh = ServedDirectory.of(d.path, evaluate(reading, None).unit, flags)
            after = ServedDirectory.of(d.path, again.unit, flags)
            if (after.digest, again.held) != (d.served.digest, d.held):
                wrong.append(f"{d.path} would be judged otherwise: {d.held}, {again.held}")
            if d.evaluation is None or settled(again.findings) != settled(d.evaluation.findings):
                wrong.append(f"{d.path} has other findings: {list(map(str, again.findings))}")
            if d.held is not None:
                self.held += 1
            elif fresh.digest != d.served.digest:
                wrong.append(f"{d.path} serves {names(d.served)}, a fresh start {names(fresh)}")
            if ServedDirectory.of(d.path, d.unit, flags).digest != d.served.digest:
                wrong.append(f"{d.path} serves what is not accepted")
        index = Index.of(1, [d.served for d in units(reloader)])
        if index.digest != reloader.index.digest:
            wrong.append("the index is not what the directories serve")
        listed = tuple(map(str, reloader.settings.directories))
        if (
            listed
            != settings.read(by_flag({"qb_conf": str(self.site.folder / "qb.conf")})).directories
        ):
            wrong.append("the path list is not that of qb.conf")
        wrong += self.told(reloader)
        return wrong

    def told(self, reloader: Reloader) -> list[str]:
        """What is wrong with the records and the state."""
        wrong = []
        errors = any(f.severity is Severity.ERROR for d in units(reloader) for f in d.findings)
        held = any(d.held for d in units(reloader))
        if (reloader.state == "degraded") != (errors or held):
            wrong.append(f"state is {reloader.state}, errors {errors}, held {held}")
        for record in map(msgspec.json.decode, self.site.records):
            causes = {cause["path"] for cause in record["causes"]}
            for path in {os.path.dirname(change["path"]) for change in record["changes"]}:
                near = any(c == path or c.startswith(f"{path}/") for c in causes)
                if not near and str(self.site.folder / "qb.conf") not in causes:
                    wrong.append(f"changes of {path} have no cause: {record['changes']}")
        return wrong


def units(reloader: Reloader) -> list[DirectoryState]:
    return list(reloader.listing)


def names(served: ServedDirectory) -> list[str]:
    return [f"{c.registration.file}:{c.registration.line}" for c in served.callbacks]


def settled(findings: tuple[Diagnostic, ...]) -> set[str]:
    """The findings without those of checks, which may come in later."""
    return {str(f) for f in findings if not f.path.endswith(".py")}


async def run_all(storms: list[Storms], until: float) -> None:
    async def report() -> None:
        while True:
            await anyio.sleep(30)
            print(f"{sum(s.done for s in storms)} storms", flush=True)

    with anyio.move_on_at(until):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(report)
            async with anyio.create_task_group() as sites:
                for one in storms:
                    sites.start_soon(one.run)
            tasks.cancel_scope.cancel()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--storms", type=int, default=10_000, help="how many in all")
    parser.add_argument("--seed", type=int, default=None, help="of the edits; their times vary")
    parser.add_argument("--sites", type=int, default=SITES, help="how many at the same time")
    parser.add_argument("--folder", type=Path, default=None, help="for the files; made, removed")
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    if sys.platform == "linux":
        # As the agent does, so that it may ask for leases.
        signal.signal(signal.SIGIO, signal.SIG_IGN)
    began = time.monotonic()
    with logged() as said, tempfile.TemporaryDirectory(prefix="storm-", dir=options.folder) as temp:
        sites = min(options.sites, options.storms)
        share = -(-options.storms // sites)
        folders = [Path(temp) / str(n) for n in range(sites)]
        storms = [
            Storms(Site(folder, seed * 1000 + n, said), share) for n, folder in enumerate(folders)
        ]
        anyio.run(run_all, storms, float("inf"))
    wrong = [w for s in storms for w in s.wrong]
    for one in wrong[:10]:
        print(one)
    kinds = sum((s.site.kinds for s in storms), Counter[str]())
    print("edits:", ", ".join(f"{n} {kind}" for kind, n in kinds.most_common()))
    print(
        f"seed {seed}: {sum(s.done for s in storms)} storms in {time.monotonic() - began:.0f} s,"
        f" {sum(s.held for s in storms)} times a directory was held, {len(wrong)} wrong"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
