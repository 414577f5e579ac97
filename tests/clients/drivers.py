"""The clients that are compared with the transcripts: one row of CLIENTS for each.

A driver calls a client whose agent is at a pipe. The clients in other languages run in a process of
their own (`drive.pl`, `drive.c`).
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import anyio.from_thread
import pytest

from agent import aio, client
from agent.mirror import Mirror
from support.agents import DEADLINE
from support.documents import ROOT

HERE = Path(__file__).parent
SCRIPTS = ROOT / "scripts" / "clients"
#: How the client in C must compile.
WARNINGS = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
SANITIZERS = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

#: Calls a method with parameters; gives `{"result": ...}` or `{"error": ...}`.
Call = Callable[[str, dict[str, Any]], dict[str, Any]]
Driver = Callable[[str], AbstractContextManager[Call]]


class Row(NamedTuple):
    """A client: how it is driven, and what it needs of the machine."""

    driver: Driver
    program: str | None = None
    #: The methods that it has where it answers from an index of its own. It then sends other
    #: requests than those that it is asked, so it is compared with the answers alone.
    own_index: frozenset[str] = frozenset()


def refusal(error: client.Refused) -> dict[str, Any]:
    """An error as the pipe has it."""
    data = {} if error.data is None else {"data": error.data}
    return {"error": {"code": error.code, "message": error.message, **data}}


def _has(one: object, method: str, params: dict[str, Any]) -> bool:
    """Whether a client has a method that takes these parameters."""
    found = getattr(one, method, None)
    if method == "subscribe" or not callable(found):
        return False
    try:
        inspect.signature(found).bind(**params)
    except TypeError:
        return False
    return True


@contextlib.contextmanager
def python(pipe: str) -> Iterator[Call]:
    """`agent.client`; a new client for each call, as one that has code does not ask for it."""

    def call(method: str, params: dict[str, Any]) -> dict[str, Any]:
        with client.Client(pipe, timeout=DEADLINE, restart=0) as one:
            try:
                if _has(one, method, params):
                    return {"result": getattr(one, method)(**params)}
                return {"result": one.call(method, params)}
            except client.Refused as error:
                return refusal(error)

    yield call


@contextlib.contextmanager
def asynchronous(pipe: str) -> Iterator[Call]:
    """`agent.aio`, in the same way."""

    async def ask(method: str, params: dict[str, Any]) -> dict[str, Any]:
        async with aio.Client(pipe, timeout=DEADLINE, restart=0) as one:
            try:
                if _has(one, method, params):
                    return {"result": await getattr(one, method)(**params)}
                return {"result": await one.call(method, params)}
            except client.Refused as error:
                return refusal(error)

    with anyio.from_thread.start_blocking_portal() as portal:
        yield lambda method, params: portal.call(ask, method, params)


@contextlib.contextmanager
def mirror(pipe: str) -> Iterator[Call]:
    """`agent.mirror`, once it has the index."""
    with Mirror(pipe, timeout=DEADLINE, restart=0) as one:
        one.wait()

        def call(method: str, params: dict[str, Any]) -> dict[str, Any]:
            try:
                return {"result": getattr(one, method)(**params)}
            except client.Refused as error:
                return refusal(error)

        yield call


def takes(method: str, params: dict[str, Any]) -> bool:
    """Whether the mirror has a method that takes these parameters."""
    return _has(Mirror, method, {"self": None, **params})


@contextlib.contextmanager
def process(command: list[str]) -> Iterator[Call]:
    """A program that reads requests and writes their outcomes."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        stdin, stdout = running.stdin, running.stdout
        assert stdin is not None
        assert stdout is not None

        def call(method: str, params: dict[str, Any]) -> dict[str, Any]:
            request = json.dumps({"method": method, "params": params}, ensure_ascii=False)
            stdin.write(request.encode() + b"\n")
            stdin.flush()
            outcome: dict[str, Any] = json.loads(stdout.readline())
            return outcome

        try:
            yield call
            stdin.close()
            assert running.wait(DEADLINE) == 0
        finally:
            running.kill()


def command(name: str, *arguments: str) -> list[str]:
    """The command that drives a client in another language."""
    if name == "c":
        return [str(compiled(HERE / "drive.c")), *arguments]
    return [name, f"-I{SCRIPTS}", str(HERE / "drive.pl"), *arguments]


def perl(pipe: str) -> AbstractContextManager[Call]:
    """`CallbackAgent.pm`."""
    return process(command("perl", pipe))


def c(pipe: str) -> AbstractContextManager[Call]:
    """`callback_agent.c`."""
    return process(command("c", pipe))


@functools.cache
def _programs() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="clients-")


@functools.cache
def compiled(source: Path) -> Path:
    """A program in C with the client, compiled so that every mistake ends it."""
    program = Path(_programs().name) / source.stem
    sources = [str(source), *map(str, sorted(SCRIPTS.glob("*.c")))]
    command = ["gcc", *WARNINGS, f"-I{SCRIPTS}", *sources, "-o", str(program)]
    done = subprocess.run([*command, *SANITIZERS], capture_output=True, text=True, timeout=300)
    if "cannot find" in done.stderr:
        # The libraries of the sanitizers are not installed.
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return program


CLIENTS = {
    "python": Row(python),
    "asynchronous": Row(asynchronous),
    "mirror": Row(mirror, own_index=frozenset({"lookup", "explain", "list"})),
    "perl": Row(perl, "perl"),
    "c": Row(c, "gcc"),
}


def needed(name: str) -> None:
    """Skip a test of a client whose language is not there."""
    program = CLIENTS[name].program
    if program and shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
