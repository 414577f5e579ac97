"""Commands as processes that need no time to start Python and to import the agent.

A server has imported the commands, and forks for each of them: a command is a process of its own,
with arguments, environment, folder and output of its own, and what it changes ends with it. A test
that is about the start, the imports or a signal uses `subprocess`.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent import cli
from agent.__main__ import main

#: What commands import when they are called.
COMMON = ("agent.check", "agent.diff", "agent.cli.served", "agent.daemon.descriptors", "uvloop")
#: Variables that Python reads when it starts: a command with others is not forked.
AT_START = ("LC_", "LANG", "PYTHON")

Done = subprocess.CompletedProcess[str]


def run(*arguments: str | bytes, cwd: Path, env: Mapping[str, str], timeout: float = 120) -> Done:
    """Run a command to its end, without input. Raises TimeoutExpired after `timeout` seconds."""
    server = _Server.of_this_process()
    if _at_start(env) != server.at_start:
        return subprocess.run(
            [sys.executable, "-m", "agent", *arguments],
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    words = [os.fsdecode(word) for word in arguments]
    request = {"arguments": words, "cwd": str(cwd), "env": dict(env)}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        status = server.ask(request, [out.fileno(), errors.fileno()], timeout)
        for file in (out, errors):
            file.seek(0)
        return Done(words, status, out.read(), errors.read())


def _at_start(env: Mapping[str, str]) -> dict[str, str]:
    # PYTHONPATH leads to the agent alone, which is imported already.
    return {k: v for k, v in env.items() if k.startswith(AT_START) and k != "PYTHONPATH"}


class _Server:
    """The process that forks. Each test process has one, started at its first command."""

    _ours: _Server | None = None

    def __init__(self) -> None:
        self._pid = os.getpid()
        self.at_start = _at_start(os.environ)
        self._socket, its_own = socket.socketpair()
        with its_own:
            self._process = subprocess.Popen(
                # -P: the other files of this folder are no modules for it.
                [sys.executable, "-P", __file__, str(its_own.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[its_own.fileno()],
                start_new_session=True,
            )
        atexit.register(self._end)

    @classmethod
    def of_this_process(cls) -> _Server:
        """The server, which is started if there is none."""
        if cls._ours is None or cls._ours._pid != os.getpid():
            cls._ours = cls()
        return cls._ours

    def ask(self, request: Mapping[str, object], outputs: list[int], timeout: float) -> int:
        """The exit status of a command that writes to these descriptors."""
        self._socket.settimeout(timeout)
        try:
            socket.send_fds(self._socket, [b"\n"], outputs)
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            with self._socket.makefile("rb") as answers:
                return int(answers.readline())
        except TimeoutError:
            self._end()
            _Server._ours = None
            raise subprocess.TimeoutExpired(str(request["arguments"]), timeout) from None

    def _end(self) -> None:
        """End it, and the command that runs."""
        if self._pid == os.getpid() and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._socket.close()


# -- in the server --------------------------------------------------------------------------------


def _next_command(control: socket.socket) -> bool:
    """Fork for each request; returns true in a process that is to run a command, and false at the
    end of the requests."""
    while True:
        begin, outputs, _, _ = socket.recv_fds(control, 1, 2)
        if not begin:
            return False
        with control.makefile("rb") as lines:
            request = json.loads(lines.readline())
        process = os.fork()
        if process == 0:
            _become(request, outputs)
            return True
        for descriptor in outputs:
            os.close(descriptor)
        _, status = os.waitpid(process, 0)
        control.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def _become(request: Mapping[str, Any], outputs: list[int]) -> None:
    """Make this process as one that was started for the command."""
    for number, descriptor in enumerate(outputs, 1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    sys.argv[1:] = request["arguments"]


def _serve(descriptor: int) -> int:
    with contextlib.closing(socket.socket(fileno=descriptor)) as control:
        for module in (*COMMON, *(f"agent.cli.{module}" for module, _ in cli._COMMANDS.values())):
            importlib.import_module(module)
        gc.freeze()
        is_command = _next_command(control)
    return main() if is_command else 0


if __name__ == "__main__":
    sys.exit(_serve(int(sys.argv[1])))
