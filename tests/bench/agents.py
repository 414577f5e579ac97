"""The agent as the benchmark runs it, and a plain client that asks it one thing at a time."""

import json
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.directories import Directories
from bench.generator import ANY, ID, Server
from bench.peers import accepts
from bench.process import BenchError, running, wait_until

ROOT = Path(__file__).resolve().parent.parent.parent
ALL_LANGUAGES = (
    'supervisor_language_flags = "qube,perl,python,post,mail,dependency,auto_wrangling"\n'
)
ANSWER_LIMIT = 60.0  # seconds until the agent has answered anything at all
MARK = ID.decode()
PROBE_ID = 7654321  # as long as the numbers that the load generator begins with


class Client:
    """One connection to the pipe."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(ANSWER_LIMIT)
        self._socket.connect(str(path))

    def line(self, request: bytes) -> bytes:
        """The answer to one request, each with its line end."""
        self._socket.sendall(request)
        answer = self._socket.recv(65536)
        while not answer.endswith(b"\n"):
            more = self._socket.recv(65536)
            if not more:
                raise BenchError(f"the agent hung up on {request!r}")
            answer += more
        return answer

    def ask(self, method: str, **params: object) -> Any:
        """The result of a method."""
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = json.loads(self.line(json.dumps(request).encode() + b"\n"))
        if "result" not in answer:
            raise BenchError(f"the agent answered {method} with {answer}")
        return answer["result"]

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


@dataclass(frozen=True)
class Question:
    """The parameters of a lookup, with MARK where its number is to be, and the file that alone
    answers."""

    params: Mapping[str, object]
    file: str


@dataclass(frozen=True)
class Agent:
    """A running agent that has answered once."""

    pid: int
    pipe: Path
    started_in: float  # seconds from starting the process to its first answer
    directories: Directories

    def client(self) -> Client:
        """A connection of its own."""
        return Client(self.pipe)

    def server(self, question: Question, changing: bool = False) -> Server:
        """The agent as one to be asked `question`. With `changing`, generation and digest may be
        any, because files are edited meanwhile."""
        request = lookup(question.params)
        client = self.client()
        probe = request.replace(ID, b"%d" % PROBE_ID)
        answer = client.line(probe)
        client.close()
        found = [callback["file"] for callback in json.loads(answer)["result"]["callbacks"]]
        if found != [question.file]:
            raise BenchError(f"{probe!r} was answered by {found}, expected {[question.file]}")
        return Server("agent", self.pid, self.pipe, request, _pattern(answer, changing))


def lookup(params: Mapping[str, object]) -> bytes:
    """A lookup's line as a supervisor writes it, with ID for its number."""
    written = json.dumps(params, separators=(",", ":")).replace(json.dumps(MARK)[1:-1], MARK)
    return (
        b'{"jsonrpc":"2.0","id":' + ID + b',"method":"lookup","params":' + written.encode()
        + b"}\n"
    )  # fmt: skip


def _pattern(answer: bytes, changing: bool) -> bytes:
    pattern, found = re.subn(rb'("id":\s*)%d\b' % PROBE_ID, rb"\g<1>" + ID, answer)
    if found != 1:
        raise BenchError(f"an answer should carry its request's number once: {answer!r}")
    if not changing:
        return pattern
    pattern, found = re.subn(
        rb'("generation":\s*)\d+(,\s*"digest":\s*")[^"]*"', rb"\1" + ANY + rb"\2" + ANY + b'"',
        pattern,
    )  # fmt: skip
    if found != 1:
        raise BenchError(f"an answer should hold generation and digest once: {answer!r}")
    return pattern


@contextmanager
def agent(folder: Path, directories: Directories) -> Iterator[Agent]:
    """An agent that serves `directories`, with a pipe, a log and an empty state of its own."""
    home = Path(tempfile.mkdtemp(prefix="agent-", dir=folder))
    pipe = home / "pipe"
    out = home / "out"
    (home / "qb.conf").write_text(ALL_LANGUAGES)
    command = [
        sys.executable, "-m", "agent", "serve",
        "--callback-path", ",".join(str(path) for path in directories.paths),
        "--pipe", str(pipe), "--log", str(home / "reload.log"), "--state", str(home / "state"),
        "--qb-conf", str(home / "qb.conf"),
    ]  # fmt: skip
    began = time.monotonic()
    with running(command, out, cwd=ROOT) as process:
        wait_until(lambda: accepts(pipe), process, out)
        client = Client(pipe)
        first = client.ask("lookup", event="done-job-self")
        took = time.monotonic() - began
        served = client.ask("status")["callbacks"]
        client.close()
        if len(first["callbacks"]) != 1 or served != directories.callbacks:
            raise BenchError(
                f"the agent serves {served} callbacks, expected {directories.callbacks}; it said:\n"
                + out.read_text(errors="replace")[-2000:]
            )
        yield Agent(process.pid, pipe, took, directories)
    shutil.rmtree(home)
