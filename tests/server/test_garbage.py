"""Nothing that the agent makes is left to the garbage collector.

After a large reload it never looks at the objects of that moment again: a cycle among them would
stay for ever.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.agents import Agent, wait_for, write

#: The agent. For each byte in a pipe it notes what the collector finds that nothing else freed.
_PROGRAM = """
import collections, gc, threading
from agent import __main__

def note():
    with open({pipe!r}, "rb", buffering=0) as pipe:
        while pipe.read(1):
            gc.disable()
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            kinds = collections.Counter(type(each).__qualname__ for each in gc.garbage)
            gc.garbage.clear()
            with open({notes!r}, "a") as file:
                print(dict(kinds), file=file)

threading.Thread(target=note, daemon=True).start()
__main__.main()
"""
_LOOKUP = {"event": "done-job-1"}
_LONG = 100_000


def _line(method: str, params: Mapping[str, Any] | None = None) -> bytes:
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params or {}}
    return json.dumps(request).encode() + b"\n"


#: What a client sends and reads an answer to.
_READ = {
    "lookup": _line("lookup", _LOOKUP),
    "with code": _line("lookup", {**_LOOKUP, "code": True}),
    "owners": _line("lookup", {**_LOOKUP, "owners": [{"id": each} for each in range(300)]}),
    "long": _line("lookup", {**_LOOKUP, "occurred": ["done-job-2"] * _LONG}),
    "batch": b"[" + b",".join([_line("lookup", _LOOKUP).strip()] * 50) + b"]\n",
    "bad batch": b'[1, {"jsonrpc": "2.0", "id": 1, "method": "no"}]\n',
    **{method: _line(method) for method in ("list", "status", "history", "reload", "metrics")},
    "explain": _line("explain", _LOOKUP),
    "subscribe": _line("subscribe", {"heartbeat": 0.1}),
    "unknown method": _line("no"),
    "bad parameters": _line("lookup", {"event": 7, "more": 1}),
    "bad event": _line("lookup", {"event": {"name": 1, "job": {"id": "x"}}, "occurred": [1]}),
    "bad text": _line("lookup", {"event": "done-jbo-1"}),
    "no JSON": b"{no\n",
    "no JSON-RPC": b"{}\n",
    "too long": b"x" * (5 << 20),
}
#: What a client sends that closes at once.
_UNREAD = {
    "nothing": b"",
    "half a line": b'{"jsonrpc"',
    "lookups": _line("lookup", _LOOKUP) * 1000,
    "lists": _line("list") * 100,
    "long": _READ["long"],
}


def _ask(agent: Agent) -> None:
    for line in _READ.values():
        with agent.connect() as client:
            client.sendall(line)
            assert client.recv(1)
    for line in _UNREAD.values():
        with agent.connect() as client:
            client.sendall(line)


def _edit(agent: Agent, directory: Path, number: int) -> None:
    write(directory, f"a.pl = done-job-{number}\n", a_pl=f"{number}\n", b_py=f"x = {number}\n")
    agent.reload()
    write(directory, f"a.pl = done-job-{number}\nb.py = done-job-self\n")
    agent.reload()
    # Mistakes: the directory is held.
    write(directory, "a.pl = done-jbo-self &&\nb.py = done-job-self\n", b_py=f"def {number}\n")
    agent.reload()
    (directory / "callbacks.conf").unlink()
    agent.reload()
    # It is watched again.
    directory.rename(directory.with_name("elsewhere"))
    agent.reload()
    directory.with_name("elsewhere").rename(directory)
    agent.reload()


def test_the_collector_finds_nothing(tmp_path: Path) -> None:
    directory = write(tmp_path / "cb", "a.pl = done-job-1\n", a_pl="1\n")
    pipe, notes = tmp_path / "collect", tmp_path / "notes"
    os.mkfifo(pipe)
    notes.write_text("")
    agent = Agent(tmp_path, directory)
    agent.program = ["-c", _PROGRAM.format(pipe=str(pipe), notes=str(notes))]
    agent.start()

    def found() -> str:
        """What the collector finds now."""
        wait_for(lambda: agent.status()["clients"] == 0)
        before = len(notes.read_text())
        collect.write(b"\n")
        wait_for(lambda: notes.read_text()[before:].endswith("\n"))
        return notes.read_text()[before:].strip()

    try:
        with pipe.open("wb", buffering=0) as collect:
            # What is made once, such as how a type is decoded, may be in cycles.
            for number in range(4):
                if number == 2:
                    found()
                _ask(agent)
                _edit(agent, directory, number)
            assert found() == "{}"
    finally:
        agent.stop()
