"""Clients that misbehave in every way that a client can, several at a time."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.synchronize import Event as Flag
from typing import Any

from agent.timing import DEFAULTS

#: Threads that misbehave at the same time.
ROGUES = 6


@dataclass(frozen=True)
class Signs:
    """What the processes share."""

    stop: Flag
    #: Set while those who misbehave and those who edit are to be quiet.
    lull: Flag
    #: How many of them are not.
    active: Any
    #: How often each of MISBEHAVIOURS was shown.
    shown: Any

    def wait(self, seconds: float) -> bool:
        """Wait, but no longer than until the end or a lull; whether to go on."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.over():
            time.sleep(min(0.05, max(0.0, end - time.monotonic())))
        return not self.over()

    def over(self) -> bool:
        return self.stop.is_set() or self.lull.is_set()

    def rounds(self) -> Iterator[None]:
        """One item for each round of work, until the end; none during a lull."""
        while not self.stop.is_set():
            with self.active.get_lock():
                self.active.value += 1
            # Looked at only now: who began after it would not be waited for.
            quiet = self.lull.is_set()
            try:
                if not quiet:
                    yield
            finally:
                with self.active.get_lock():
                    self.active.value -= 1
            if quiet:
                time.sleep(0.02)


def connected(pipe: str) -> socket.socket:
    one = socket.socket(socket.AF_UNIX)
    one.settimeout(2.0)
    try:
        one.connect(pipe)
    except OSError:
        one.close()
        raise
    return one


def request(method: str, **params: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()


def endless_line(pipe: str, signs: Signs, chance: random.Random) -> None:
    """A line that never ends: more than may be, and what comes of it is not looked at."""
    with connected(pipe) as one:
        for _ in range(40):
            one.sendall(b"x" * 65536)


def slow_drip(pipe: str, signs: Signs, chance: random.Random) -> None:
    """A byte at a time of a request that is never whole."""
    with connected(pipe) as one:
        for byte in request("status") * 3:
            if byte != 10 and signs.wait(0.2):
                one.sendall(bytes([byte]))


def garbage(pipe: str, signs: Signs, chance: random.Random) -> None:
    """What is no JSON, no UTF-8, no request, or far too much of it."""
    with connected(pipe) as one:
        for _ in range(50):
            one.sendall(
                chance.choice(
                    (
                        chance.randbytes(chance.randrange(2000)) + b"\n",
                        b"[" * chance.randrange(1, 100_000) + b"\n",
                        b'{"a":' * chance.randrange(1, 100_000) + b"\n",
                        b'{"jsonrpc":"2.0","id":' + b"9" * chance.randrange(1, 5000) + b"}\n",
                        b'{"jsonrpc":"2.0","id":1e999,"method":"status"}\n',
                        b'{"jsonrpc":"2.0","id":"\\ud800","method":"status"}\n',
                        b'{"id":1,"id":2,"jsonrpc":"2.0","method":"list","method":"status"}\n',
                        b"\0" * chance.randrange(1, 5000) + b"\n",
                        b'"\xff\xfe\xc3"\n',
                        b"\n" * 1000,
                        request("lookup", event="-" * chance.randrange(1, 100_000)) + b"\n",
                        request("lookup", event=chance.randbytes(20_000).hex()) + b"\n",
                        request("history", limit=-1) + b"\n",
                    )
                )
            )
            with contextlib.suppress(BlockingIOError):
                one.recv(1 << 16, socket.MSG_DONTWAIT)


def truncated(pipe: str, signs: Signs, chance: random.Random) -> None:
    """Requests that break off anywhere, and clients that go without a word."""
    for _ in range(20):
        with connected(pipe) as one:
            whole = request("lookup", event="k0-work-self-1", code=True) + b"\n"
            one.sendall(whole * 5 + whole[: chance.randrange(len(whole))])


def unread(pipe: str, signs: Signs, chance: random.Random) -> None:
    """Asks for megabytes, and reads none of them."""
    with connected(pipe) as one:
        one.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            for _ in range(5000):
                one.send(request("list", code=True) + b"\n")
        signs.wait(chance.random() * 3)


def large_batch(pipe: str, signs: Signs, chance: random.Random) -> None:
    """As much in one line as there may be, and more."""
    kind = chance.choice(("list", "explain", "status", "nonsense", "history"))
    params = {"event": "k0-work-self-1"} if kind == "explain" else {}
    with connected(pipe) as one:
        one.sendall(
            b"[" + b",".join([request(kind, **params)] * chance.choice((1000, 1001))) + b"]\n"
        )
        with contextlib.suppress(TimeoutError):
            one.recv(1 << 16)


def many_occurred(pipe: str, signs: Signs, chance: random.Random) -> None:
    """Tens of thousands of events in one request, and no two alike."""
    number = chance.randrange(10**9)
    occurred = [f"v{number + i}-work-self-{i}" for i in range(chance.randrange(20_000))]
    with connected(pipe) as one:
        one.sendall(request("lookup", event="k0-work-self-1", occurred=occurred) + b"\n")
        with contextlib.suppress(TimeoutError):
            one.recv(1 << 16)


def deaf_subscriber(pipe: str, signs: Signs, chance: random.Random) -> None:
    """Subscribes and reads nothing."""
    with connected(pipe) as one:
        one.sendall(request("subscribe") + b"\n")
        signs.wait(chance.random() * 5)


def vanishing_subscribers(pipe: str, signs: Signs, chance: random.Random) -> None:
    """Many subscribe one after the other, and hang up at once."""
    for _ in range(200):
        if signs.over():
            break
        with connected(pipe) as one:
            one.sendall(request("subscribe") + b"\n")
            if chance.random() < 0.5:
                one.recv(1)


def reloads(pipe: str, signs: Signs, chance: random.Random) -> None:
    """Asks for reloads, and does not wait for them."""
    for _ in range(5):
        with connected(pipe) as one:
            one.sendall((request("reload") + b"\n") * 10)


def flood(pipe: str, signs: Signs, chance: random.Random) -> None:
    """More connections than there may be."""
    with contextlib.ExitStack() as stack:
        try:
            for _ in range(DEFAULTS.pipe.max_connections + 50):
                if signs.over():
                    break
                stack.enter_context(connected(pipe))
        except OSError:
            pass  # The queue is full: those who come later wait.
        signs.wait(0.5)


MISBEHAVIOURS: tuple[Callable[[str, Signs, random.Random], None], ...] = (
    *(endless_line, slow_drip, garbage, truncated, unread, large_batch, many_occurred),
    *(deaf_subscriber, vanishing_subscribers, reloads, flood),
)


def rogues(pipe: str, signs: Signs, seed: int) -> dict[str, Any]:
    """Misbehave in every way, several at a time."""
    count: Counter[str] = Counter()
    cut_off: Counter[str] = Counter()

    def rogue(number: int) -> None:
        chance = random.Random(seed * 100 + number)
        turn = number
        for _ in signs.rounds():
            # Each in turn at first, so that a short run shows them all.
            place = turn % len(MISBEHAVIOURS)
            way = MISBEHAVIOURS[place]
            turn += ROGUES if turn < 3 * len(MISBEHAVIOURS) else chance.randrange(1, 9)
            try:
                way(pipe, signs, chance)
            except OSError:
                cut_off[way.__name__] += 1
            count[way.__name__] += 1
            with signs.shown.get_lock():
                signs.shown[place] += 1

    threads = [threading.Thread(target=rogue, args=(n,)) for n in range(ROGUES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"count": count, "cut_off": cut_off}
