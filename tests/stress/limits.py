"""The agent under the limits of its systemd unit, while clients and directories do what they may.

Memory is limited by RLIMIT_AS, descriptors to 256. Every attack is allowed: lines, files and
answers below the documented limits, as many connections as there are. After each one the agent
must answer a client that behaves, and serve an edit of another directory. Prints a line for each
attack; exits 1 if one did harm.

Tasks are not limited: RLIMIT_NPROC counts all processes of a user, and does not concern root. That
no thread or process can be started is what nth.py tries.

    python tests limits
    python tests limits --rounds 10
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from agent.client import AgentError, Client
from agent.core import unit
from agent.disk.files import MAX_UNIT_BYTES
from support.agents import DEADLINE, Agent, wait_for
from support.onlooker import CONF, EVENT, Onlooker, answer, files, put

#: As MemoryMax= of the unit, in bytes; address space, so stricter.
MEMORY = 2 << 30
DESCRIPTORS = 256
#: Clients of one attack: more than there are descriptors.
CLIENTS = 300
#: Bytes that one attack sends on one connection.
MAX_SENT = 1 << 20


def flood(pipe: Path, data: bytes, clients: int) -> Iterator[None]:
    """This number of clients send this and read nothing; they stay until the end."""
    with contextlib.ExitStack() as stack:
        for _ in range(clients):
            one = stack.enter_context(socket.socket(socket.AF_UNIX))
            one.settimeout(1.0)
            with contextlib.suppress(OSError):
                one.connect(str(pipe))
                one.setblocking(False)
                one.send(data[:MAX_SENT])
        yield


def request(method: str, **params: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


def line(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"


def idle_clients(agent: Agent, _: Path) -> Iterator[None]:
    """More clients than descriptors, that say nothing."""
    yield from flood(agent.pipe, b"", CLIENTS)


def unread_batches(agent: Agent, _: Path) -> Iterator[None]:
    """Batches of lookups with code, whose answers nobody reads."""
    batch = [request("lookup", event=EVENT, code=True)] * 1000
    yield from flood(agent.pipe, line(batch), 30)


def unread_lists(agent: Agent, _: Path) -> Iterator[None]:
    """Lists with code, whose answers nobody reads."""
    yield from flood(agent.pipe, line(request("list", code=True)) * 200, 80)


def bad_requests(agent: Agent, _: Path) -> Iterator[None]:
    """Batches of requests that are refused, each with a long word in it."""
    batch = [request("lookup", event="x" * 800, nothing=1)] * 1000
    yield from flood(agent.pipe, line(batch), 50)


def hyphens(agent: Agent, _: Path) -> Iterator[None]:
    """Events with very many hyphens."""
    yield from flood(agent.pipe, line(request("lookup", event="done-work-" + "-a" * 500)) * 200, 20)


def a_long_line(_: Agent, directory: Path) -> Iterator[None]:
    """An implementation and a callbacks.conf of one long line each."""
    put(
        directory,
        {
            "a.qcb": 'x = "' + "x" * (unit.MAX_CODE_BYTES - 100),
            CONF: "a.qcb = done-job-nobody\n",
        },
    )
    yield
    put(directory, {CONF: "a.pl = " + "\\" * 65_000 + "*-job-self\n", "a.pl": "0\n"})
    yield


def findings_without_end(_: Agent, directory: Path) -> Iterator[None]:
    """A callbacks.conf of which every line is wrong."""
    put(directory, {CONF: "nothing here\n" * (unit.MAX_CONF_LINES - 1)})
    yield


def sparse_files(_: Agent, directory: Path) -> Iterator[None]:
    """Many files that are long and take no room on disk."""
    size = unit.MAX_CODE_BYTES - 1
    names = [f"s{number}.pl" for number in range(MAX_UNIT_BYTES // size - 1)]
    for name in names:
        with (directory / name).open("wb") as file:
            file.truncate(size)
    (directory / CONF).write_text("".join(f"{name} = done-job-nobody\n" for name in names))
    yield


ATTACKS: tuple[Callable[[Agent, Path], Iterator[None]], ...] = (
    idle_clients,
    unread_batches,
    unread_lists,
    bad_requests,
    hyphens,
    a_long_line,
    findings_without_end,
    sparse_files,
)


def is_well(agent: Agent) -> bool:
    """Whether all clients of an attack are gone, and nothing is held."""
    with contextlib.suppress(AgentError):
        status = agent.status()
        return status["state"] == "ok" and int(status["clients"]) < 3
    return False


def harm(agent: Agent, good: Path, bad: Path, attack: Callable[..., Iterator[None]]) -> str:
    """What an attack did, nothing if no harm."""
    version = 1
    put(good, files(version))
    # Connected before: an attack may take all connections that are left.
    with Onlooker(agent) as look, Client(str(agent.pipe), timeout=DEADLINE) as one:
        one.call("status")
        try:
            for _ in attack(agent, bad):
                one.call("reload")
                version += 1
                put(good, files(version))
                wait_for(
                    lambda v=version: look.seen[-1][:2] == answer((good, files(v))),  # type: ignore[misc]
                    "an edit elsewhere",
                )
                assert agent.process is not None
                assert agent.process.poll() is None, f"ended: {agent.errors.read_text()[-500:]}"
        except (AssertionError, AgentError) as error:
            return f"{error} {agent.errors.read_text()[-500:]}"
    shutil.rmtree(bad)
    put(bad, {CONF: ""})
    try:
        wait_for(lambda: is_well(agent), "recovery")
    except AssertionError as error:
        return str(error)
    return ""


def run(folder: Path, rounds: int, seed: int, wanted: list[str]) -> bool:
    """Whether no attack did harm."""
    if not shutil.which("prlimit"):
        raise SystemExit("limits: needs prlimit, which util-linux has")
    chance = random.Random(seed)
    good, bad = put(folder / "good", files(1)), put(folder / "bad", {CONF: ""})
    agent = Agent(folder, good, bad)
    agent.prefix = ["prlimit", f"--as={MEMORY}", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}"]
    agent.start()
    well = True
    try:
        for _ in range(rounds):
            attacks = [a for a in ATTACKS if not wanted or a.__name__ in wanted]
            for attack in chance.sample(attacks, len(attacks)):
                began = time.monotonic()
                wrong = harm(agent, good, bad, attack)
                seconds = time.monotonic() - began
                print(f"{attack.__name__:24} {seconds:6.1f} s  {wrong or 'well'}", flush=True)
                if wrong:
                    well = False
                    agent.stop(9)
                    put(bad, {CONF: ""})
                    agent.start()
    finally:
        agent.stop(9)
    return well


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [attack.__name__ for attack in ATTACKS]
    parser.add_argument("--attack", choices=names, action="append", help="these alone")
    parser.add_argument("--rounds", type=int, default=1, help="of all attacks (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the order (%(default)s)")
    parser.add_argument("--folder", help="an existing folder to work in")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="limits-", dir=options.folder) as folder:
        well = run(Path(folder).resolve(), options.rounds, options.seed, options.attack or [])
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
