"""How long an edit takes to be served, or to be reported."""

import random
import time
from collections.abc import Callable, Sequence

from bench.agents import Client, lookup
from bench.directories import SEED, Conf
from bench.generator import ID
from bench.peers import Notices, Subscription
from bench.process import BenchError

# Quiet time between two edits, in seconds: longer than any watcher's settle time, and random,
# so that no one's clock falls in step with it.
PAUSE = (0.030, 0.080)
SERVED_LIMIT = 10.0  # seconds after which an edit counts as never served

# One edit, the number of which is given; the seconds until it was seen.
Leg = Callable[[int], float]


def new_line(number: int) -> tuple[str, bytes]:
    """A line that no edit had before, and a request that it alone answers."""
    trigger = f"done-job-edit{number}"
    request = lookup({"event": trigger}).replace(ID, b"%d" % number)
    return f"mail-status.qcb = {trigger}\n", request


def until_served(conf: Conf, client: Client) -> Leg:
    """Edits of `conf`, seen when a lookup shows them; lookups follow each other at once."""

    def leg(number: int) -> float:
        line, request = new_line(number)
        conf.prepare(line)
        began = time.perf_counter()
        conf.swap()
        while b"mail-status.qcb" not in client.line(request):
            if time.perf_counter() - began > SERVED_LIMIT:
                raise BenchError(f"edit {number} was not served within {SERVED_LIMIT:.0f} s")
        return time.perf_counter() - began

    return leg


def until_message(conf: Conf, subscription: Subscription) -> Leg:
    """The same edits, seen when watchman's message is there."""

    def leg(number: int) -> float:
        mtime_ns = conf.prepare(new_line(number)[0])
        began = time.perf_counter()
        conf.swap()
        subscription.wait(mtime_ns)
        return time.perf_counter() - began

    return leg


def until_notice(conf: Conf, notices: Notices) -> Leg:
    """The same edits, seen when the kernel's bare notification is there."""

    def leg(number: int) -> float:
        conf.prepare(new_line(number)[0])
        notices.forget()
        began = time.perf_counter()
        conf.swap()
        notices.wait()
        return time.perf_counter() - began

    return leg


def interleaved(legs: Sequence[Leg], each: int) -> list[list[float]]:
    """`each` edits for each leg, in turns; the times in milliseconds, sorted."""
    chance = random.Random(SEED)
    times: list[list[float]] = [[] for _ in legs]
    for number in range(each * len(legs)):
        time.sleep(chance.uniform(*PAUSE))
        turn = number % len(legs)
        times[turn].append(legs[turn](number + 1) * 1000)
    return [sorted(taken) for taken in times]


def at_share(ordered: Sequence[float], share: float) -> float:
    """The percentile `share` of sorted figures."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
