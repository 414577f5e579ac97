"""The measurements of what the agent takes: time to start, memory, and CPU when nothing happens."""

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bench import peers
from bench.agents import Agent, agent, lookup
from bench.generator import ID
from bench.measure import DISTINCT, KNOWN, SIXTEEN, Bench, in_turns
from bench.process import BenchError, cpu_share, resident, settle
from bench.report import Goal, Row

# Lookups of one burst: more than one, so that what the first left is used by the next.
BURST = 20
# The goal for CPU when nothing happens, in percent of a core.
IDLE = 0.5


def start(bench: Bench) -> list[Row]:
    """From nothing to the first answer, beside reading the same lines and files plainly."""
    large = bench.large

    def ours() -> float:
        with agent(bench.folder, large) as started:
            return started.started_in

    def read_and_hash() -> float:
        script = Path(__file__).resolve().parent / "read_and_hash.py"
        began = time.monotonic()
        read = subprocess.run(
            [sys.executable, script, *large.paths], capture_output=True, timeout=60, check=True
        )
        took = time.monotonic() - began
        if int(read.stdout) != large.callbacks:
            raise BenchError(f"plain Python read {read.stdout!r} lines of {large.callbacks}")
        return took

    read_and_hash()  # the files are in the page cache from here on, for both
    agents, readings = in_turns(bench.effort.starts, [ours, read_and_hash])
    title = f"start to first answer, {large.callbacks:,} callbacks, {len(large.paths)} directories"
    return [
        Row("start", title, "s", agents, readings, "plain Python reads and hashes",
            Goal("<=", 8.0))
    ]  # fmt: skip


def _resident_after_load(bench: Bench, started: Agent) -> int:
    """Resident memory once lookups were answered and all is quiet."""
    bench.generator.run(started.server(KNOWN), SIXTEEN)
    bench.generator.run(started.server(DISTINCT), SIXTEEN)
    settle(started.pid)
    return resident(started.pid)


def memory(bench: Bench) -> list[Row]:
    """Resident memory with the example directory."""
    with bench.agent(bench.example()) as started:
        taken = _resident_after_load(bench, started) / 1e6
    title = "resident memory with the example directory"
    return [Row("memory", title, "MB", [taken], [], "", Goal("<=", 40.0, "ours"))]


def memory_callback(bench: Bench) -> list[Row]:
    """Resident memory for each further callback, the code's own bytes aside."""
    ten, large = bench.ten(), bench.large
    with bench.agent(ten) as few:
        base = _resident_after_load(bench, few)
    with bench.agent(large) as many:
        more = _resident_after_load(bench, many) - base
    code = large.code_bytes - ten.code_bytes
    each = (more - code) / (large.callbacks - ten.callbacks)
    title = f"memory for each further callback, code aside, {large.callbacks:,} callbacks"
    detail = {"further_bytes": more, "code_bytes": code}
    return [
        Row("memory-callback", title, "KB", [each / 1024], [], "", Goal("<=", 2.0, "ours"), detail)
    ]


def memory_burst(bench: Bench) -> list[Row]:
    """Resident memory that a burst of large lookups leaves behind, once all is quiet."""
    number = bench.effort.occurred
    # As short as such objects are, so that 20,000 fit into one request.
    occurred = [{"name": "done", "type": "job", "job": {"id": each}} for each in range(number)]
    params = {**KNOWN.params, "owner": {"id": number}, "occurred": occurred}
    request = lookup(params).replace(ID, b"1")
    before, after = [], []
    for _ in range(bench.effort.bursts):
        with bench.agent(bench.example()) as started:
            before.append(resident(started.pid) / 1e6)
            client = started.client()
            for _ in range(BURST):
                if b'"result"' not in (answer := client.line(request)):
                    raise BenchError(f"the agent answered a large lookup with {answer!r}")
            client.close()
            settle(started.pid)
            after.append(resident(started.pid) / 1e6)
    title = f"resident memory after {BURST} lookups with {number:,} `occurred` objects each"
    return [Row("memory-burst", title, "MB", after, before, "our own before", Goal("<=", 1.1))]


def idle(bench: Bench) -> list[Row]:
    """CPU of the agent and its children while nothing happens."""
    with ExitStack() as stack:
        directories = bench.example()
        started = stack.enter_context(bench.agent(directories))
        pids = [started.pid]
        if "watchman" not in bench.missing:
            told = peers.watchman(bench.new_folder("w"), directories.paths[0])
            pids.append(stack.enter_context(told).pid)
        mine, *other = (100 * share for share in cpu_share(pids, bench.effort.idle_seconds))
    title = "CPU when nothing happens, of one core"
    return [Row("idle", title, "%", [mine], other, "watchman", Goal("<=", IDLE, "ours"))]


def idle_20(bench: Bench) -> list[Row]:
    """The same with 20 directories."""
    medium = bench.medium
    with bench.agent(medium) as started:
        (share,) = cpu_share([started.pid], bench.effort.idle_seconds)
    title = f"the same, {medium.callbacks:,} callbacks in {len(medium.paths)} directories"
    return [Row("idle-20", title, "%", [100 * share], [], "", Goal("<=", IDLE, "ours"))]


MEASUREMENTS: dict[Callable[[Bench], list[Row]], tuple[str, ...]] = {
    idle: ("idle",),
    idle_20: ("idle-20",),
    memory: ("memory",),
    memory_burst: ("memory-burst",),
    memory_callback: ("memory-callback",),
    start: ("start",),
}
