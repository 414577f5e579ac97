"""Everything that goes wrong, all at once, for some minutes: does the agent stay as it is?

Clients misbehave in every way that a client can; files are edited, broken, made unsafe and
removed; Python sources try to eat the check; the log is rotated in both styles and, where root may
mount one, its disk is full half of the time; SIGHUP comes all the while. Meanwhile clients that
behave hold every answer to what stood on disk.

Once in a while all misbehaviour pauses, and the agent's memory and open descriptors are measured
at rest. They must not grow once the agent's history, which is bounded, is full (in a run too short
for that: from minute 2, or its first fifth): the least of the last third of these measures is
compared with the least of the first third. Prints the measures and the latencies of those who
behave; exits 1 on a wrong answer, on growth, or if a misbehaviour could not be shown.

    scripts/soak --minutes 10
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import mmap
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.client import AgentError, Client, Refused
from agent.rpc.messages import REFUSED
from support.agents import Agent, wait_for, write
from support.rogues import MISBEHAVIOURS, Signs, rogues
from support.versions import NoVersion, Versions

#: How much more memory the agent may have in the last third than in the first, in MiB. A run that
#: is too short to fill the history must be told to allow more.
MAX_GROWTH_MIB = 16.0
#: How many more descriptors: none but a check's child or a log that is just being written.
MAX_GROWTH_DESCRIPTORS = 4
#: Seconds for which those that are more are looked at again.
LONGEST_LOOK = 10.0
#: Minutes from which on both must be flat where the history does not get full.
WARM = 2.0
#: Seconds between two measures at rest.
EVERY = 20.0
#: Seconds until a client that behaves counts as not answered. A shared machine may be suspended.
NEVER = 60.0
#: Seconds between two lookups of a client that behaves.
PACE = 0.003
#: Bytes of the disk for the log.
LOG_DISK = 1 << 20
#: How many of the errors are shown.
MAX_SHOWN = 5


# Those who edit ----------------------------------------------------------------------------------

#: Python that is none, that takes the compiler minutes, or all memory, or all stack.
HOSTILE = (
    b"(" * 5000,
    b"-" * 200_000 + b"1",
    b"def f():\n    pass\n" * 40_000,
    b"x = " + b"[" * 90 + b"]" * 90 + b"\n" + b"y = 1 ** 2\n" * 20_000,
    b"a" * 1_000_000 + b" = 1\n",
    b"\0\xff" * 10_000,
    b"# coding: nonsense\n",
    b"f'" + b"{" * 3000 + b"'",
)


def editor(folder: Path, pipe: str, signs: Signs, seed: int) -> dict[str, Any]:
    """Edit all directories, in every way; what was wrong, and how many edits there were."""
    chance = random.Random(seed)
    moving = Versions("k1", str(folder / "moving"), conf=True, code=True)
    place = folder / "moving"
    hostile = folder / "hostile"
    wrong: list[str] = []
    count: Counter[str] = Counter()
    version = 1
    agent = Client(pipe, timeout=NEVER)
    for _ in signs.rounds():
        kind = chance.choices(
            ("version", "broken", "unsafe", "unreadable", "hostile", "burst"),
            (60, 10, 5, 5, 2, 5),
        )[0]
        count[kind] += 1
        if kind == "version":
            version += 1
            put(place, moving.files(version))
            with contextlib.suppress(AgentError):
                agent.call("reload")
                shown = moving.read(agent.lookup(moving.event, code=True)["callbacks"])
                if shown != moving.shown(version):
                    wrong.append(f"version {version} was not served after `reload`: {shown}")
        elif kind == "broken":
            (place / "callbacks.conf").write_text("this is = none &&\n\0\xff\n" * 50)
            signs.wait(0.02)
            put(place, moving.files(version))
        elif kind == "unsafe":
            (place / "a.pl").chmod(0o666)
            signs.wait(0.02)
            (place / "a.pl").chmod(0o644)
        elif kind == "unreadable":
            place.rename(folder / "away")
            signs.wait(0.02)
            (folder / "away").rename(place)
        elif kind == "hostile":
            (hostile / "h.py").write_bytes(chance.choice(HOSTILE) + b"\n#%d" % chance.randrange(99))
        else:
            for number in range(30):
                (hostile / "b.pl").write_text(f"# {number}\n")
        signs.wait(chance.random() * 0.1)
    # At rest again, all is as it was written last.
    put(place, moving.files(version))
    (hostile / "h.py").write_text("0\n")
    wait_for(lambda: answer(agent, "reload"), "the last reload", NEVER)
    shown = moving.read(agent.lookup(moving.event, code=True)["callbacks"])
    if shown != moving.shown(version):
        wrong.append(f"at the end, version {version} is not served: {shown}")
    return {"count": count, "wrong": wrong}


def answer(agent: Client, method: str) -> Any:
    """The agent's answer; None where there is none, such as while there are too many clients."""
    with contextlib.suppress(AgentError):
        return agent.call(method)
    return None


def put(place: Path, files: dict[str, str]) -> None:
    """Change a directory's files at once: another directory takes its place, and its links."""
    new = place.with_name(f".{place.name}.new")
    new.mkdir()
    for name, text in files.items():
        (new / name).write_text(text)
    old = place.with_name(f".{place.name}.old")
    place.rename(old)
    new.rename(place)
    shutil.rmtree(old)


def log_keeper(log: Path, full: bool, signs: Signs, agent: int, seed: int) -> dict[str, Any]:
    """Rotate the log, fill its disk, and send SIGHUP."""
    chance = random.Random(seed)
    count: Counter[str] = Counter()
    filler = log.with_name("filler")
    for _ in signs.rounds():
        kind = chance.choice(("renamed", "truncated", "full" if full else "hangup", "hangup"))
        count[kind] += 1
        with contextlib.suppress(FileNotFoundError):
            if kind == "renamed":
                log.rename(log.with_name("reload.log.1"))
            elif kind == "truncated":
                with contextlib.suppress(OSError):
                    shutil.copyfile(log, log.with_name("reload.log.2"))
                os.truncate(log, 0)
            elif kind == "hangup":
                os.kill(agent, signal.SIGHUP)
            else:
                with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                    while file.write(b"\0" * 4096):
                        pass
                signs.wait(1.0)
                filler.unlink()
        signs.wait(chance.random())
    filler.unlink(missing_ok=True)
    return {"count": count}


# Those who behave --------------------------------------------------------------------------------


def client(folder: Path, pipe: str, signs: Signs, seed: int) -> dict[str, Any]:
    """Look up, and hold every answer to what stood on disk."""
    chance = random.Random(seed)
    still = Versions("k0", str(folder / "still"), conf=True, code=True)
    moving = Versions("k1", str(folder / "moving"), conf=True, code=True)
    wrong: list[str] = []
    seconds = array("d")
    refused = late = 0
    agent = Client(pipe, timeout=NEVER)
    newest = 0
    while not signs.stop.is_set():
        versions = chance.choice((still, moving))
        if chance.random() < 0.005:
            # A new connection: it may be refused while there are too many.
            agent.close()
        began = time.monotonic()
        try:
            found = agent.lookup(versions.event, code=True)
            shown = versions.read(found["callbacks"])
            version = versions.version(shown)
            if versions is still and version != 1:
                wrong.append(f"not what always stood on disk: {shown}")
            elif version is None or found["partial"]:
                wrong.append(f"of no version: {shown}")
            elif versions is moving and version < newest:
                wrong.append(f"version {version} after {newest}")
            elif versions is moving:
                newest = version
        except NoVersion as strange:
            wrong.append(str(strange))
        except Refused as refusal:
            if refusal.code != REFUSED:
                wrong.append(f"an error: {refusal}")
            refused += 1
            continue
        except AgentError as failure:
            # Refused before it could ask, most often.
            late += 1
            if time.monotonic() - began > NEVER * 0.9:
                wrong.append(f"no answer: {failure}")
            continue
        finally:
            took = time.monotonic() - began
        seconds.append(took)
        time.sleep(PACE)
    return {"wrong": wrong, "refused": refused, "late": late, "seconds": seconds.tolist()}


# The whole ---------------------------------------------------------------------------------------


class Children:
    """Processes, each of which leaves what came of it."""

    def __init__(self) -> None:
        self._all: list[tuple[str, Any, Any]] = []
        self._fork = multiprocessing.get_context("fork")

    def start(self, name: str, work: Callable[..., dict[str, Any]], *arguments: Any) -> None:
        here, there = self._fork.Pipe(duplex=False)

        def run() -> None:
            try:
                there.send(work(*arguments))
            except BaseException:
                traceback.print_exc()
                there.send(None)

        process = self._fork.Process(target=run, daemon=True)
        process.start()
        self._all.append((name, process, here))

    def failed(self) -> bool:
        return any(process.exitcode not in (None, 0) for _, process, _ in self._all)

    def results(self) -> dict[str, dict[str, Any] | None]:
        """What each left, by name; None where it failed."""
        found: dict[str, dict[str, Any] | None] = {}
        for name, process, here in self._all:
            found[name] = here.recv() if here.poll(3 * NEVER) else None
            process.join(NEVER)
        return found

    def end(self) -> None:
        for _, process, _ in self._all:
            process.kill()
            process.join()


@dataclass(frozen=True)
class Measure:
    """The agent at rest: minutes since the start, memory in MiB, open descriptors, and whether its
    history has dropped the first record."""

    minutes: float
    memory: float
    descriptors: int
    full: bool = False


def measure(agent: Agent, signs: Signs, began: float, most: float) -> Measure:
    """Wait until all is at rest, and measure. More than `most` descriptors may be closed soon: a
    client that was refused may still read why."""
    assert agent.process is not None
    signs.lull.set()
    wait_for(lambda: signs.active.value == 0, "all who misbehave to pause", NEVER)
    # Those who were told to go may take their time; those who behave stay.
    one = Client(str(agent.pipe), timeout=NEVER)
    status = wait_for(
        lambda: (s := answer(one, "status")) and s["clients"] <= 6 and s,
        "all others to be gone",
        NEVER,
    )
    proc = Path(f"/proc/{agent.process.pid}")
    pages = int((proc / "statm").read_text().split()[1])
    # Without those of the clients who stay, who may just connect again; and the fewest of some
    # looks: a log that is just written, or a watcher that just ends, is no growth.
    looks: list[int] = []
    end = time.monotonic() + LONGEST_LOOK
    while len(looks) < 10 or (min(looks) > most and time.monotonic() < end):
        # The one who asks is not counted among the clients.
        looks.append(len(os.listdir(proc / "fd")) - status["clients"] - 1)
        time.sleep(0.01)
    descriptors = min(looks)
    full = one.history()["records"][0]["event"] != "started"
    one.close()
    signs.lull.clear()
    minutes = (time.monotonic() - began) / 60
    return Measure(minutes, pages * mmap.PAGESIZE / (1 << 20), descriptors, full)


def compared(measures: list[Measure], minutes: float) -> tuple[list[Measure], list[Measure]]:
    """The first and the last third of the measures that count. Both are empty if these are fewer
    than two."""
    counted = [m for m in measures if m.full]
    if len(counted) < 3:
        counted = [m for m in measures if m.minutes >= min(WARM, minutes / 5)]
    third = max(1, len(counted) // 3)
    return (counted[:third], counted[-third:]) if len(counted) > 1 else ([], [])


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A disk that is soon full, mounted at the folder; whether it could be."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={LOG_DISK}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or not shutil.which("mount") or subprocess.call(mount) != 0:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.call(["umount", "-l", str(folder)])


def run(minutes: float, growth: float, seed: int, folder: Path) -> bool:
    """Whether all was well."""
    for name, key in (("still", "k0"), ("moving", "k1")):
        versions = Versions(key, str(folder / name), conf=True, code=True)
        (folder / name).mkdir()
        for file, text in versions.files(1).items():
            (folder / name / file).write_text(text)
    write(folder / "hostile", "h.py = h-job-self\nb.pl = b-job-self\n", h_py="0\n", b_pl="#\n")
    context = multiprocessing.get_context("fork")
    shown = context.Array("i", len(MISBEHAVIOURS))
    signs = Signs(context.Event(), context.Event(), context.Value("i", 0), shown)
    children = Children()
    with small_disk(folder / "log") as full:
        agent = Agent(folder, *(folder / n for n in ("still", "moving", "hostile")))
        agent.log = folder / "log/reload.log"
        agent.start()
        assert agent.process is not None
        pipe = str(agent.pipe)
        began = time.monotonic()
        measures: list[Measure] = []
        try:
            for number in range(2):
                children.start(f"client {number}", client, folder, pipe, signs, seed + number)
            children.start("rogues", rogues, pipe, signs, seed)
            children.start("editor", editor, folder, pipe, signs, seed)
            children.start("log", log_keeper, agent.log, full, signs, agent.process.pid, seed)
            pause = min(EVERY, minutes * 60 / 8)
            last = began + minutes * 60
            while agent.process.poll() is None:
                # A short run on a slow machine goes on until it has shown and measured enough.
                enough = all(shown[:]) and len(measures) > 2
                if time.monotonic() > last + (0 if enough else 3 * NEVER):
                    break
                time.sleep(pause)
                if children.failed():
                    break
                least = min((m.descriptors for m in measures), default=math.inf)
                most = least + MAX_GROWTH_DESCRIPTORS
                measures.append(measure(agent, signs, began, most))
            signs.lull.clear()
            signs.stop.set()
            results = children.results()
            one = Client(pipe, timeout=NEVER)
            left = wait_for(lambda: answer(one, "status"), "an answer at the end", NEVER)
        finally:
            children.end()
            status = agent.stop()
        # Only now is nobody in the middle of a line.
        log = agent.log.read_text() if agent.log.exists() else ""
    said = agent.errors.read_text()
    return report(minutes, growth, measures, results, left, log, status, said, full)


def report(
    minutes: float,
    growth: float,
    measures: list[Measure],
    results: dict[str, dict[str, Any] | None],
    left: dict[str, Any],
    log: str,
    status: int,
    said: str,
    full: bool,
) -> bool:
    """Print what came of it. Whether all was well."""
    bad = [f"{name} failed; its message is above" for name, result in results.items() if not result]
    done = {name: result for name, result in results.items() if result}
    for name, result in done.items():
        bad += [f"{name}: {wrong}" for wrong in result.get("wrong", [])[:MAX_SHOWN]]
    print("minute  memory MiB  descriptors   (at rest)")
    for m in measures:
        print(f"{m.minutes:6.2f}{m.memory:12.1f}{m.descriptors:13}")
    first, last = compared(measures, minutes)
    if not first:
        bad.append("too few measures to tell whether anything grows")
    else:
        memory = min(m.memory for m in last) - min(m.memory for m in first)
        descriptors = min(m.descriptors for m in last) - min(m.descriptors for m in first)
        print(
            f"least of minutes {last[0].minutes:.1f} to {last[-1].minutes:.1f} against least of"
            f" {first[0].minutes:.1f} to {first[-1].minutes:.1f}: memory"
            f" {memory:+.1f} MiB (at most +{growth:.0f}), descriptors {descriptors:+}"
            f" (at most +{MAX_GROWTH_DESCRIPTORS})"
        )
        if memory > growth:
            bad.append(f"memory grew by {memory:.1f} MiB")
        if descriptors > MAX_GROWTH_DESCRIPTORS:
            bad.append(f"{descriptors} more descriptors are open")
    clients = [r for name, r in done.items() if name.startswith("client")]
    seconds = sorted(s for r in clients for s in r["seconds"])
    if seconds:
        p50, p99 = (seconds[int(len(seconds) * part)] * 1000 for part in (0.5, 0.99))
        print(
            f"{len(seconds)} lookups of those who behave: p50 {p50:.2f} ms, p99 {p99:.2f} ms,"
            f" longest {seconds[-1] * 1000:.0f} ms; {sum(r['refused'] for r in clients)} times"
            f" refused while there were too many, {sum(r['late'] for r in clients)} hung up on"
        )
    else:
        bad.append("nobody who behaved got an answer")
    for name in ("rogues", "editor", "log"):
        counts = done.get(name, {}).get("count", {})
        print(f"{name}: " + ", ".join(f"{what} {n}" for what, n in sorted(counts.items())))
    shown = done.get("rogues", {}).get("count", {})
    bad += [
        f"{way.__name__} was never tried" for way in MISBEHAVIOURS if not shown.get(way.__name__)
    ]
    if not full:
        print("no full disk: that takes root, and a mount")
    if left["state"] != "ok":
        errors = [d for d in left["last_reload"]["diagnostics"] if d["severity"] == "error"]
        bad.append(f"the state at the end is {left['state']}: {errors[:2]}")
    try:
        for line in log.splitlines():
            json.loads(line)
    except ValueError:
        bad.append(f"the log has a line that is none: {line[:200]}")
    if status != 0:
        bad.append(f"the agent ended with {status}")
    bad += [f"the agent said: {line}" for line in said.splitlines() if "internal" in line.lower()]
    if "Traceback" in said:
        bad.append(f"the agent said:\n{said[-3000:]}")
    for text in bad:
        print(f"WRONG: {text}")
    print("all was well" if not bad else f"{len(bad)} things were wrong")
    return not bad


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (%(default)s)")
    parser.add_argument(
        "--growth", type=float, default=MAX_GROWTH_MIB, help="at most, in MiB (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the random choices (%(default)s)")
    parser.add_argument("--folder", help="an existing folder to work in")
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    with tempfile.TemporaryDirectory(prefix="soak-", dir=options.folder) as folder:
        return (
            0 if run(options.minutes, options.growth, options.seed, Path(folder).resolve()) else 1
        )


if __name__ == "__main__":
    sys.exit(main())
