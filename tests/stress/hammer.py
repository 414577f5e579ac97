"""Edits callback directories in every way that programs do, while clients look up as fast as they
can, and counts what went wrong.

One agent serves one directory for each way to edit. All that an edit writes carries its version
number, so each answer tells of which version it is, or that it is a mixture of several. It ends as
soon as both goals are reached, or when the time is over. It prints a table, and exits 1 if a count
that must be 0 is not, or a goal was not reached.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from support.agents import Agent
from support.versions import NoVersion, Part
from support.ways import Edit, Shared, Way, ways

#: Seconds until an edit that is not served counts as never served.
NEVER = 60.0
#: How often a client asks about each directory in one write.
PIPELINED = 3
#: How many of the wrong answers are shown.
MAX_SHOWN = 5


# The processes -----------------------------------------------------------------------------------


def writer(way: Way, shared: Shared, seed: int) -> dict[str, Any]:
    """Edit until told to stop. The time when each version was done, and what else was right."""
    chance = random.Random(seed)
    done: list[float] = []
    apart: list[tuple[Part, ...]] = []
    while not shared.no_more_edits:
        edit = Edit(way, len(done) + 1, shared, chance)
        way.edit(edit)
        done.append(time.monotonic())
        shared.done[way.place] = edit.version
        apart += edit.apart
        # Most edits are let be served; some follow at once, before the agent has read the last.
        if chance.random() < 0.8:
            until_served(way, shared, edit.version)
            time.sleep(chance.choice((0, 0, 0.005, 0.02)) * chance.random())
        else:
            time.sleep(chance.choice((0, 0.002, 0.006, 0.012)))
    until_served(way, shared, len(done))
    return {"done": done, "apart": apart}


def until_served(way: Way, shared: Shared, version: int) -> None:
    deadline = time.monotonic() + NEVER
    while shared.served()[way.place] < version and time.monotonic() < deadline:
        time.sleep(0.001)


@dataclass
class Seen:
    """What one client was served."""

    #: `place.version`: when it came first.
    first: dict[str, float] = field(default_factory=dict)
    #: By place, what was the whole of no version.
    mixtures: list[tuple[int, Any]] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)
    #: Versions that were served before they stood on disk whole, or after a newer one.
    early: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)


def client(number: int, pipe: str, listed: list[Way], shared: Shared) -> dict[str, Any]:
    """Look up until told to stop."""
    seen = Seen()
    #: By way, the version of each answer that was seen before, by its bytes.
    known: list[dict[bytes, int]] = [{} for _ in listed]
    asked = [way for _ in range(PIPELINED) for way in listed]
    requests = b"".join(
        json.dumps(
            {
                "jsonrpc": "2.0",
                "id": way.place,
                "method": "lookup",
                "params": {"event": way.versions.event, "code": True},
            }
        ).encode()
        + b"\n"
        for way in asked
    )
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(NEVER)
        connection.connect(pipe)
        while not shared.no_more_lookups:
            floor = shared.served()
            connection.sendall(requests)
            for way, line in zip(asked, answers(connection, len(asked)), strict=True):
                place = way.place
                _, _, tail = line.partition(b'"callbacks":')
                version = known[place].get(tail)
                if version is None:
                    version = look_closer(way, line, seen)
                    if version is None:
                        continue
                    if len(known[place]) > 1000:
                        known[place].clear()
                    known[place][tail] = version
                    seen.first.setdefault(f"{place}.{version}", time.monotonic())
                if version > shared.begun[place]:
                    seen.early.append(f"{way.name}: {version} was not whole yet")
                if version < floor[place]:
                    seen.late.append(f"{way.name}: {version} after {floor[place]}")
                elif version > floor[place]:
                    shared.saw(number, place, version)
                    floor[place] = version
            shared.lookups[number] += len(asked)
    return vars(seen)


def answers(connection: socket.socket, count: int) -> list[bytes]:
    """Receive this number of lines."""
    data = bytearray()
    lines = 0
    while lines < count:
        part = connection.recv(1 << 20)
        if not part:
            raise ConnectionError("the agent hung up")
        lines += part.count(b"\n")
        data += part
    return bytes(data).splitlines()


def look_closer(way: Way, line: bytes, seen: Seen) -> int | None:
    """The version that an answer is the whole of; else None, and it is noted."""
    answer = json.loads(line)
    try:
        shown = way.versions.read(answer["result"]["callbacks"])
        if answer["id"] != way.place or answer["result"]["partial"]:
            raise NoVersion("not the answer to this request")
    except (NoVersion, KeyError, TypeError) as wrong:
        seen.strange.append(f"{way.name}: {wrong}: {line[:400]!r}")
        return None
    version = way.versions.version(shown)
    if version is None:
        seen.mixtures.append((way.place, shown))
    return version


def forked(result: Path, work: Callable[[], dict[str, Any]]) -> int:
    """Do this in a child process, which leaves what came of it in a file."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        result.write_text(json.dumps(work()))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


# The whole ---------------------------------------------------------------------------------------


def run(options: argparse.Namespace, folder: Path) -> bool:
    """Whether all was well."""
    listed = ways(folder)
    for way in listed:
        way.make(Path(way.versions.path), way.versions)
    shared = Shared(len(listed), options.clients)
    agent = Agent(folder, *(Path(w.versions.path) for w in listed))
    agent.start()
    children: dict[int, Path] = {}
    try:
        began = time.monotonic()
        pipe = str(agent.pipe)
        memory = [resident(agent)]
        for n in range(options.clients):
            result = folder / f"client.{n}"
            children[forked(result, lambda n=n: client(n, pipe, listed, shared))] = result  # type: ignore[misc]
        writers = set()
        for way in listed:
            result = folder / f"writer.{way.place}"
            seed = options.seed * 1000 + way.place
            pid = forked(result, lambda w=way, s=seed: writer(w, shared, s))  # type: ignore[misc]
            children[pid] = result
            writers.add(pid)
        failed = goals(options, shared, children, began)
        memory.append(resident(agent))
        shared.end_edits()
        failed |= ended(writers, children)
        shared.end_lookups()
        failed |= ended(set(children), children)
        took = time.monotonic() - began
        end = final(agent, listed, shared)
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        agent.stop()
    if failed:
        print("a writer or client failed; its message is above")
        return False
    written = [json.loads((folder / f"writer.{w.place}").read_text()) for w in listed]
    seen = [json.loads((folder / f"client.{n}").read_text()) for n in range(options.clients)]
    ok = report(options, listed, shared, written, seen, took, end)
    print(f"memory of the agent (MiB): {memory[0]:.0f} at the start, {memory[1]:.0f} at the end")
    said = "\n".join(agent.messages())
    if said:
        print(f"the agent said:\n{said}")
    return ok


def goals(
    options: argparse.Namespace, shared: Shared, children: dict[int, Path], began: float
) -> bool:
    """Wait until the goals are reached, or the time is over. Whether a child ended before."""
    while time.monotonic() - began < options.seconds:
        if sum(shared.lookups) >= options.lookups and sum(shared.done) >= options.edits:
            return False
        pid, _ = os.waitpid(-1, os.WNOHANG)
        if pid in children:
            del children[pid]
            return True
        time.sleep(0.1)
    return False


def ended(pids: set[int], children: dict[int, Path]) -> bool:
    """Wait for these children to end. Whether one of them failed."""
    failed = False
    deadline = time.monotonic() + 2 * NEVER
    while (left := pids & children.keys()) and time.monotonic() < deadline:
        for pid in left:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                del children[pid]
                failed |= status != 0
        time.sleep(0.01)
    return failed or bool(left)


def resident(agent: Agent) -> float:
    """The agent's memory in MiB, 0 where the system does not say."""
    assert agent.process is not None
    try:
        pages = int(Path(f"/proc/{agent.process.pid}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * mmap.PAGESIZE / (1 << 20)


def final(agent: Agent, listed: list[Way], shared: Shared) -> list[str]:
    """What is wrong when all is quiet."""
    wrong = []
    agent.reload()
    status = agent.status()
    if status["state"] != "ok":
        wrong.append(f"state {status['state']}: {status['last_reload']['diagnostics'][:3]}")
    callbacks = agent.call("list", {"code": True})["callbacks"]
    for way in listed:
        mine = [c for c in callbacks if c["directory"] == way.versions.path]
        newest = shared.done[way.place]
        if way.versions.read(mine) != way.versions.shown(newest):
            wrong.append(f"{way.name}: not the newest version, {newest}")
    return wrong


def report(
    options: argparse.Namespace,
    listed: list[Way],
    shared: Shared,
    written: list[dict[str, Any]],
    seen: list[dict[str, Any]],
    took: float,
    end: list[str],
) -> bool:
    """Print the table. Whether all was well."""
    rows: list[tuple[str, int, list[float]]] = []
    never: list[str] = []
    for way, made in zip(listed, written, strict=True):
        first: dict[int, float] = {}
        for one in seen:
            for key, at in one["first"].items():
                place, version = map(int, key.split("."))
                if place == way.place:
                    first[version] = min(at, first.get(version, at))
        times = []
        served = float("inf")
        for version in range(len(made["done"]), 0, -1):
            # An edit that a newer one overtook is served with that one.
            served = min(served, first.get(version, served))
            if served == float("inf"):
                never.append(f"{way.name}: {version}")
            else:
                times.append(max(0.0, served - made["done"][version - 1]))
        rows.append((way.name, len(made["done"]), times))
    mixtures, empty, apart = [], [], 0
    right = [{json.dumps(s) for s in made["apart"]} for made in written]
    for place, shown in (m for one in seen for m in one["mixtures"]):
        if json.dumps(shown) in right[place]:
            apart += 1
        elif not shown:
            empty.append(listed[place].name)
        else:
            mixtures.append(f"{listed[place].name}: {shown}")
    lookups, edits = sum(shared.lookups), sum(shared.done)

    def milliseconds(times: list[float]) -> str:
        if not times:
            return f"{'-':>10}{'-':>10}"
        return f"{median(times) * 1000:10.1f}{max(times) * 1000:10.1f}"

    print(f"{'way to edit':32}{'edits':>8}{'to being served, ms:':>22}")
    print(f"{'':32}{'':8}{'median':>10}{'longest':>10}")
    for name, count, times in rows:
        print(f"{name:32}{count:8}{milliseconds(times)}")
    everything = [t for _, _, times in rows for t in times]
    print(f"{'all':32}{edits:8}{milliseconds(everything)}")
    print(f"{lookups} lookups in {took:.1f} s, {lookups / took:.0f} a second")
    print(f"{apart} answers of edits whose parts came further apart than the quiet period (right)")
    strange = [text for one in seen for text in one["strange"]]
    early = [text for one in seen for text in one["early"]]
    late = [text for one in seen for text in one["late"]]
    ok = True
    for what, found in (
        ("answers that match no version that was whole on disk", mixtures + strange),
        ("instants with no callbacks while the file always had some", empty),
        ("versions served before they were whole", early),
        ("versions served after a newer one", late),
        ("edits never served", never),
        ("faults when all was quiet again", end),
    ):
        print(f"{len(found):8} {what}{'' if not found else '   <-- must be 0'}")
        for text in found[:MAX_SHOWN]:
            print(f"         {text}")
        ok = ok and not found
    for what, goal, reached in (
        ("lookups", options.lookups, lookups),
        ("edits", options.edits, edits),
    ):
        if reached < goal:
            print(f"only {reached} of {goal} {what} in {options.seconds} s   <-- too few")
            ok = False
    return ok


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--lookups", type=int, default=1_000_000, help="at least so many (%(default)s)"
    )
    parser.add_argument("--edits", type=int, default=10_000, help="at least so many (%(default)s)")
    parser.add_argument("--seconds", type=float, default=300.0, help="no longer (%(default)s)")
    parser.add_argument("--clients", type=int, default=2, help="processes (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the random choices (%(default)s)")
    parser.add_argument("--folder", help="an existing folder to work in, on the file system to try")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hammer-", dir=options.folder) as folder:
        return 0 if run(options, Path(folder).resolve()) else 1


if __name__ == "__main__":
    sys.exit(main())
