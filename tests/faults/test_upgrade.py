"""Row 35: the package is upgraded, or removed, while the agent runs."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from support.agents import Agent, wait_for, write

#: One of each method, and of each kind of wrong request.
REQUESTS = [
    b'{"jsonrpc":"2.0","id":1,"method":"lookup","params":{"event":"done-job-self","code":true}}',
    b'{"jsonrpc":"2.0","id":1,"method":"explain","params":{"event":"done-job-self"}}',
    b'{"jsonrpc":"2.0","id":1,"method":"list"}',
    b'{"jsonrpc":"2.0","id":1,"method":"history"}',
    b'{"jsonrpc":"2.0","id":1,"method":"status"}',
    b'{"jsonrpc":"2.0","id":1,"method":"subscribe"}',
    b'{"jsonrpc":"2.0","id":1,"method":"unsubscribe"}',
    b'{"jsonrpc":"2.0","id":1,"method":"rpc.discover"}',
    b'{"jsonrpc":"2.0","id":1,"method":"unknown"}',
    b'{"jsonrpc":"2.0","id":1,"method":"lookup","params":{"event":3}}',
    b'{"jsonrpc":"2.0","id":1,"method":"lookup","params":{"event":"x"}}',
    b'{"jsonrpc":"2.0","id":1,"method":"lookup","params":{"event":{"name":"a"},"owner":[1]}}',
    b'{"jsonrpc":"2.0","id":1,"method":"history","params":{"limit":-1}}',
    b'[{"jsonrpc":"2.0","id":1,"method":"list","params":{"code":1}},7]',
    b'{"jsonrpc":"2.0"}',
    b"[]",
    b"{",
    b"\xff",
]


def requirements(name: str) -> set[str]:
    """A distribution and all that it requires, by the name on the index."""
    found = {name}
    for requirement in importlib.metadata.requires(name) or ():
        required = re.match(r"[\w.-]+", requirement)
        if required is not None and "extra ==" not in requirement:
            try:
                found |= requirements(required[0])
            except importlib.metadata.PackageNotFoundError:
                continue
    return found


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    """An agent that is installed in a folder of its own, `installed`."""
    installed = tmp_path / "installed"
    installed.mkdir()
    spec = find_spec("agent")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    (installed / "agent").symlink_to(next(iter(spec.submodule_search_locations)))
    for name in requirements("callback-agent"):
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            path = Path(str(distribution.locate_file(top)))
            if path.exists() and not path.name.endswith(".pth"):
                (installed / top).unlink(missing_ok=True)
                (installed / top).symlink_to(path)
    directory = write(tmp_path / "cb", "a.pl = done-job-self\nb.pl = a-job-b\n", a_pl="#\n")
    (directory / "b.pl").write_text("#\n")
    agent = Agent(tmp_path, directory)
    # When what is loaded late is loaded, the names of all modules go into a file; at the end those
    # that came after.
    code = f"""
import sys
sys.path.insert(0, {str(installed)!r})
import agent
assert agent.__path__ == [{str(installed / "agent")!r}], agent.__path__
from agent.server import handlers
def load(self, load=handlers.Handlers.load):
    global loaded
    load(self)
    loaded = set(sys.modules)
    open({str(tmp_path / "prepared")!r}, "w").close()
handlers.Handlers.load = load
from agent.__main__ import main
status = main()
with open({str(tmp_path / "late")!r}, "w") as file:
    file.write(" ".join(set(sys.modules) - loaded))
raise SystemExit(status)
"""
    # Without the site-packages of this environment.
    agent.program = ["-S", "-c", code]
    yield agent
    if agent.process is not None:
        agent.stop(signal.SIGKILL)


def answers(agent: Agent) -> list[Any]:
    """The answers to REQUESTS, without what no two agents have in common."""
    found = []
    with agent.connect() as one, one.makefile("rb") as lines:
        for request in REQUESTS:
            one.sendall(request + b"\n")
            line = lines.readline()
            if any(b'"method":"%b"}' % m in request for m in (b"status", b"history", b"subscribe")):
                assert b'"result"' in line
                continue
            found.append(json.loads(line))
    return found


def test_row_35_an_agent_whose_files_are_gone_does_everything(agent: Agent) -> None:
    expected = answers(agent.start())
    assert agent.stop() == 0
    (agent.folder / "prepared").unlink()
    process = agent.start().process
    assert process is not None
    wait_for((agent.folder / "prepared").exists, "the end of what is loaded late")
    (agent.folder / "installed").rename(agent.folder / "removed")
    assert answers(agent) == expected
    directory = agent.directories[0]
    (directory / "a.pl").write_text("# new\n")
    wait_for(lambda: agent.served()[0][2] == "# new\n", "the edit")
    (directory / "c.py").write_text("import time\ntime.sleep(5)\n")
    (directory / "callbacks.conf").write_text("a.pl = done-job-self\nc.py = done-job-self\n")
    agent.reload()
    (directory / "callbacks.conf").write_text("broken\n")
    assert agent.reload()["held"]
    (directory / "callbacks.conf").write_text("a.pl = done-job-self\n")
    wait_for(lambda: agent.status()["state"] == "ok", "the end of the hold")
    os.rename(agent.pipe, f"{agent.pipe}.away")
    wait_for(agent.answers, "the pipe, made again")
    process.send_signal(signal.SIGHUP)
    assert agent.fires("done-job-self") == ["a.pl"]
    assert agent.stop() == 0
    assert "Error" not in agent.errors.read_text()
    assert [r["event"] for r in agent.records()][-1] == "stopped"


def test_row_35_nothing_of_a_library_is_imported_late(agent: Agent) -> None:
    """A late import also keeps the lookups waiting."""
    agent.start()
    wait_for((agent.folder / "prepared").exists, "the end of what is loaded late")
    answers(agent)
    (agent.directories[0] / "a.pl").write_text("# new\n")
    agent.reload()
    assert agent.stop() == 0
    late = {name.partition(".")[0] for name in (agent.folder / "late").read_text().split()}
    assert late - set(sys.stdlib_module_names) == set()
