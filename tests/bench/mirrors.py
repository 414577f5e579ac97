"""The rows of the mirror: lookups in the caller's own process, beside a GET of Redis."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

from bench import peers
from bench.agents import Agent, Question
from bench.measure import (
    DISTINCT,
    KNOWN,
    ONE,
    Bench,
    in_turns,
    length,
)
from bench.process import BenchError
from bench.report import Goal, Row

ASKER = Path(__file__).with_name("asker.py")
# Seconds beside those of the measurement: Python starts, and an index of some callbacks is loaded.
LIMIT = 60.0


def mirror_known(bench: Bench) -> list[Row]:
    """An event that was asked before."""
    title = "mirror: lookups/s of one thread, an event asked before"
    return [_row(bench, "mirror-known", title, KNOWN, 40)]


def mirror_new(bench: Bench) -> list[Row]:
    """No event twice."""
    title = "mirror: lookups/s of one thread, no event asked twice"
    return [_row(bench, "mirror-new", title, DISTINCT, 12)]


def _row(bench: Bench, name: str, title: str, asked: Question, goal: float) -> Row:
    """The goal is of the ratio to redis-py, which also gives a Python program its answer."""
    with ExitStack() as stack:
        agent: Agent = stack.enter_context(bench.agent(bench.example()))
        mirror = partial(_ask, bench, name, agent.pipe)
        if "redis-server" in bench.missing:
            return Row(name, title, "/s", in_turns(bench.effort.rounds, [mirror])[0], [], "")
        value = length(agent.server(asked).answer)
        server = stack.enter_context(peers.redis(bench.new_folder("redis"), value))

        def in_c() -> float:
            return bench.generator.run(server, ONE).per_second

        parties: list[Callable[[], float]] = [mirror, in_c]
        if importlib.util.find_spec("redis") is not None:
            parties.append(partial(_ask, bench, "redis-py", server.socket))
        ours, by_c, *by_python = in_turns(bench.effort.rounds, parties)
        ratio = median(ours) / median(by_c)
        against = f"redis-py GET ({ratio:.1f} x a GET in C, {median(by_c):,.0f}/s)"
        detail = {"redis_get_in_c": by_c, "ratio_to_c": ratio}
        other = by_python[0] if by_python else []
        return Row(name, title, "/s", ours, other, against, Goal(">=", goal), detail)


def _ask(bench: Bench, whom: str, path: Path) -> float:
    seconds = bench.effort.seconds
    command = [sys.executable, str(ASKER), whom, str(path), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + LIMIT)
    if done.returncode:
        raise BenchError(f"asking {whom} failed:\n{done.stderr}")
    return float(done.stdout)
