"""Clients that ask all that the limits allow, and a good client beside them.

    python tests clients [ATTACK...]

Each attack runs against an agent of its own. A good client in a process of its own looks up all the
while. What it had to wait is compared with what it may have to. The exit status is 1 if anything is
over its target. `test_clients.py` has short forms of the same attacks.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from agent.rpc.messages import MIN_HEARTBEAT
from support.agents import Agent, wait_for, write

#: Seconds that a good client may wait for a lookup: 99 of 100, and all.
MAX_P99 = 0.020
MAX_WAIT = 0.100

GOOD_CLIENT = """
import json, socket, sys, time
one = socket.socket(socket.AF_UNIX)
one.connect(sys.argv[1])
answers = one.makefile("rb")
line = b'{"jsonrpc":"2.0","id":1,"method":"lookup","params":{"event":"done-job-self"}}\\n'
waits = []
print("ready", flush=True)
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    began = time.monotonic()
    one.sendall(line)
    assert b'"result"' in answers.readline()
    waits.append(time.monotonic() - began)
    time.sleep(0.001)
print(json.dumps(waits))
"""


class Waits(NamedTuple):
    """What a good client had to wait, in seconds."""

    lookups: int
    median: float
    p99: float
    longest: float

    def __str__(self) -> str:
        median, p99, longest = (f"{1000 * s:.1f} ms" for s in self[1:])
        return f"{self.lookups} lookups: p50 {median}, p99 {p99}, max {longest}"


@contextlib.contextmanager
def good_client(agent: Agent, seconds: float) -> Iterator[Callable[[], Waits]]:
    """A client in a process of its own. What is given waits for its end, and says what it saw."""
    process = subprocess.Popen(
        [sys.executable, "-c", GOOD_CLIENT, str(agent.pipe), str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
    )

    def waits() -> Waits:
        out, _ = process.communicate(timeout=seconds + 120)
        assert process.returncode == 0
        found = sorted(json.loads(out))
        count = len(found)
        return Waits(count, found[count // 2], found[int(count * 0.99)], found[-1])

    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    try:
        yield waits
    finally:
        process.kill()
        process.wait()


def request(method: str, identity: int = 1, **params: Any) -> bytes:
    whole = {"jsonrpc": "2.0", "id": identity, "method": method, "params": params}
    return json.dumps(whole).encode() + b"\n"


def bad_batch(requests: int = 1000, size: int = 832_000) -> bytes:
    """A batch of requests of which each is refused, in one line."""
    extra = "x" * (size // requests - 100)
    bad = {"jsonrpc": "2.0", "id": 1, "method": "lookup", "params": {"evnt": extra}}
    return json.dumps([bad] * requests).encode() + b"\n"


def connect(agent: Agent) -> socket.socket:
    """A connection. Waits while as many wait to be accepted as the kernel lets."""

    def connected() -> socket.socket | None:
        with contextlib.suppress(BlockingIOError):
            return agent.connect()
        return None

    one = wait_for(connected)
    assert one is not None
    return one


def ask(agent: Agent, sent: bytes, times: int) -> list[socket.socket]:
    """This number of connections, each of which sends this and reads nothing yet."""
    connections = []
    for _ in range(times):
        connections.append(connect(agent))
    for one in connections:
        one.setblocking(False)
    waiting = dict.fromkeys(connections, memoryview(sent))
    while waiting:
        _, ready, _ = select.select([], list(waiting)[:500], [], 10)
        if not ready:
            break
        for one in ready:
            try:
                waiting[one] = waiting[one][one.send(waiting[one]) :]
            except OSError:
                waiting[one] = memoryview(b"")
            if not waiting[one]:
                del waiting[one]
    return connections


def drain(connections: list[socket.socket], lines: int) -> int:
    """Read so many lines from each; how many bytes came."""
    total = 0
    for one in connections:
        one.settimeout(120)
        with one.makefile("rb") as answers, contextlib.suppress(OSError):
            for _ in range(lines):
                total += len(answers.readline())
    return total


def pipeline(agent: Agent, connections: int, seconds: float) -> int:
    """How many lookups are answered on this number of connections that send without a pause."""
    line = request("lookup", event="done-job-self") * 200
    ours = [connect(agent) for _ in range(connections)]
    poll = select.poll()
    by_fd = {one.fileno(): one for one in ours}
    for one in ours:
        one.setblocking(False)
        poll.register(one, select.POLLIN | select.POLLOUT)
    answers = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for fd, event in poll.poll(100):
            with contextlib.suppress(BlockingIOError):
                if event & select.POLLIN:
                    answers += by_fd[fd].recv(1 << 18).count(b"\n")
                if event & select.POLLOUT:
                    # A part of a line is not ended in time at worst, which is past our end.
                    by_fd[fd].send(line)
    for one in ours:
        one.close()
    return answers


def resident(agent: Agent) -> int:
    """The agent's memory in bytes, at its peak."""
    assert agent.process is not None
    status = Path(f"/proc/{agent.process.pid}/status").read_text()
    return next(int(x.split()[1]) << 10 for x in status.splitlines() if x.startswith("VmHWM"))


def large_site(folder: Path, callbacks: int, code: int = 10) -> Path:
    """A directory of so many callbacks on one file of so many bytes."""
    conf = "a.pl = done-job-self\n"
    conf += "".join(f"a.pl = x{n}-job-self && y{n}-job-self\n" for n in range(callbacks - 1))
    return write(folder, conf, a_pl="#" * code)


# The attacks --------------------------------------------------------------------------------------


def bad_batches(agent: Agent, connections: int = 100) -> None:
    """Each connection sends 1,000 bad requests in a batch of 832 KB."""
    drain(ask(agent, bad_batch(), connections), 1)


def many_connections(agent: Agent, connections: int = 990, seconds: float = 20) -> None:
    """All of them send ordinary lookups as fast as they can."""
    print(f"    {pipeline(agent, connections, seconds)} answers for them")


def hang_up_on_heavy(agent: Agent, rounds: int = 10) -> None:
    """Heavy requests whose clients go at once."""
    occurred = [f"x{n}-job-self" for n in range(30_000)]
    heavy = request("explain", event="done-job-self", occurred=occurred)
    for _ in range(rounds):
        for one in ask(agent, heavy, 20):
            one.close()
    began = time.monotonic()
    agent.call("lookup", {"event": "done-job-self", "occurred": ["x1-job-self"] * 20})
    print(f"    a heavy lookup after them: {time.monotonic() - began:.2f} s")


def deaf_subscribers(agent: Agent, subscribers: int = 200) -> None:
    """Subscribers that read nothing, and an edit of all callbacks."""
    deaf = ask(agent, request("subscribe"), subscribers)
    directory = agent.directories[0]
    (directory / "a.pl").write_text("# new\n")
    began = time.monotonic()
    wait_for(
        lambda: agent.lookup("done-job-self", code=True)["callbacks"][0]["code"] == "# new\n",
        "the edit",
    )
    print(f"    the edit took {time.monotonic() - began:.2f} s")
    # The answer to `subscribe` is short; the record fills what the kernel holds.
    wait_for(
        lambda: all(len(one.recv(100_000, socket.MSG_PEEK)) > 10_000 for one in deaf), "the records"
    )
    for one in deaf:
        one.close()


def unread_lists(agent: Agent, clients: int = 81) -> None:
    """Clients that ask for everything and read nothing."""
    asked = ask(agent, request("list") * 2 + request("explain", event="x1-job-self"), clients)
    time.sleep(10)
    for one in asked:
        one.close()


def unread_batches(agent: Agent, clients: int = 29) -> None:
    """Batches whose answers are as large as one may be, unread."""
    one = json.loads(request("lookup", event="done-job-self", code=True))
    asked = ask(agent, json.dumps([one] * 1000).encode() + b"\n", clients)
    time.sleep(10)
    for client in asked:
        client.close()


def vanishing_subscribers(agent: Agent, subscribers: int = 40_000) -> None:
    """Clients that subscribe and go."""
    before = resident(agent)
    for _ in range(subscribers // 100):
        for one in ask(agent, request("subscribe"), 100):
            one.close()
    print(f"    grown by {(resident(agent) - before) >> 10} KiB")


def heartbeats(agent: Agent, subscribers: int = 900, seconds: float = 10) -> None:
    """Subscribers with as many heartbeats as they may have."""
    asked = ask(agent, request("subscribe", heartbeat=MIN_HEARTBEAT), subscribers)
    time.sleep(seconds)
    read = drain(asked, int(seconds / MIN_HEARTBEAT / 2))
    print(f"    {read >> 10} KiB of heartbeats read")
    for one in asked:
        one.close()


def use_up_descriptors(agent: Agent, connections: int = 1500, seconds: float = 20) -> None:
    """More connections than there are descriptors, again and again, and edits."""
    directory = agent.directories[0]
    before = len(agent.history())
    end = time.monotonic() + seconds
    edits = 0
    held: list[socket.socket] = []
    while time.monotonic() < end:
        for _ in range(connections):
            one = socket.socket(socket.AF_UNIX)
            one.setblocking(False)
            with contextlib.suppress(OSError):
                one.connect(str(agent.pipe))
            held.append(one)
        while len(held) > connections:
            held.pop(0).close()
        edits += 1
        (directory / "a.pl").write_text(f"# {edits}\n")
        time.sleep(0.5)
    for one in held:
        one.close()
    events = [r["event"] for r in wait_for(agent.history)[before:]]
    assert "held" not in events, events
    print(f"    {len(events)} records of {edits} edits, none held")


class Attack(NamedTuple):
    run: Callable[[Agent], None]
    callbacks: int = 10
    code: int = 10
    #: The most memory that the agent may need, in bytes.
    memory: int = 1 << 30


ATTACKS = {
    "bad-batches": Attack(bad_batches),
    "many-connections": Attack(many_connections),
    "hang-up": Attack(hang_up_on_heavy, 20_000),
    "deaf-subscribers": Attack(deaf_subscribers, 99_000),
    "unread-lists": Attack(unread_lists, 99_000),
    "unread-batches": Attack(unread_batches, 20, 200_000),
    "vanishing-subscribers": Attack(vanishing_subscribers),
    "heartbeats": Attack(heartbeats),
    "descriptors": Attack(use_up_descriptors),
}


def measured(attack: Attack, folder: Path) -> list[str]:
    """Run an attack. What is over its target."""
    agent = Agent(folder, large_site(folder / "cb", attack.callbacks, attack.code))
    agent.start()
    try:
        with good_client(agent, 5) as waits:
            print(f"    without it: {waits()}")
        # The good client stays until the attack is over, however long that takes.
        with good_client(agent, 30) as waits:
            began = time.monotonic()
            attack.run(agent)
            taken = time.monotonic() - began
            found = waits()
        memory = resident(agent)
        began = time.monotonic()
        assert agent.stop() == 0
        stopped = time.monotonic() - began
    finally:
        if agent.process is not None and agent.process.poll() is None:
            agent.process.kill()
            agent.process.wait()
    print(f"    {found}; attack {taken:.1f} s; memory {memory >> 20} MiB; stop {stopped:.1f} s")
    over = []
    if found.p99 > MAX_P99 or found.longest > MAX_WAIT:
        over.append("a good client waits too long")
    if memory > attack.memory:
        over.append("too much memory")
    if stopped > 5:
        over.append("the stop takes too long")
    return over


def main(names: list[str]) -> int:
    """Run these attacks, or all. 1 if anything was over its target."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    failed = False
    for name in names or list(ATTACKS):
        print(f"{name}: {ATTACKS[name].run.__doc__}")
        with tempfile.TemporaryDirectory(prefix="clients-") as folder:
            for problem in measured(ATTACKS[name], Path(folder)):
                failed = True
                print(f"    OVER: {problem}")
    return 1 if failed else 0


if __name__ == "__main__":
    os.chdir("/")
    sys.exit(main(sys.argv[1:]))
