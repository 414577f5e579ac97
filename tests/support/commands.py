"""Commands as processes that need no time to start Python and to import the agent.

A server has imported them, and forks for each: so a command is a process of its own, with
arguments, environment, folder and output of its own, and what it changes ends with it. A test that
is about the start of Python or about the imports uses `subprocess`.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from agent import cli
from agent.__main__ import main
from agent.timing import Timing

#: What commands import when they are called, or while they run.
COMMON = (
    *("agent.check", "agent.diff", "agent.cli.served", "agent.daemon.descriptors", "uvloop"),
    *("agent.daemon.run", "jsonschema"),
)
#: Variables that Python and the C library read at a start: a command with others is not forked.
AT_START = ("LC_", "LANG", "PYTHON", "LD_", "MALLOC_", "GLIBC_")
#: How numbers are sent: a process, its exit status.
_NUMBER = struct.Struct("!i")

Done = subprocess.CompletedProcess[str]


def run(*arguments: str | bytes, cwd: Path, env: Mapping[str, str], timeout: float = 120) -> Done:
    """Run a command to its end, without input. Raises TimeoutExpired after `timeout` seconds."""
    if not can_fork(env):
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
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = fork(words, cwd, env, (out.fileno(), errors.fileno()))
        try:
            status = process.wait(timeout)
        except BaseException:
            process.kill()
            process.wait()
            raise
        for file in (out, errors):
            file.seek(0)
        return Done(words, status, out.read(), errors.read())


def can_fork(env: Mapping[str, str]) -> bool:
    """Whether Python would start with this environment as it started in the server."""
    return _at_start(env) == _Server.of_this_process().at_start


def fork(
    arguments: Sequence[str],
    cwd: Path,
    env: Mapping[str, str],
    outputs: tuple[int, int],
    timing: Timing | None = None,
) -> Process:
    """Start a command that writes to these descriptors, with its input empty."""
    request = {
        "arguments": arguments,
        "cwd": str(cwd),
        "env": dict(env),
        "timing": msgspec.to_builtins(timing),
    }
    return Process(arguments, _Server.of_this_process().ask(request, outputs))


class Process(subprocess.Popen[bytes]):
    """A process that was forked: it is no child of this one, so another reports its end."""

    def __init__(self, arguments: Sequence[str], reports: socket.socket) -> None:
        self.args = arguments
        self.stdin = self.stdout = self.stderr = None
        self.returncode: Any = None
        # Of Popen: nothing is left to be waited for.
        self._child_created = False
        self._reports = reports
        self._lock = threading.Lock()
        self.pid = self._next(None)

    def _next(self, timeout: float | None) -> int:
        """The next number that is reported. Raises TimeoutError, or BlockingIOError for 0."""
        self._reports.settimeout(timeout)
        return int(_NUMBER.unpack(self._reports.recv(_NUMBER.size, socket.MSG_WAITALL))[0])

    def wait(self, timeout: float | None = None) -> int:
        with self._lock:
            if self.returncode is None:
                try:
                    self.returncode = self._next(timeout)
                except (TimeoutError, BlockingIOError):
                    raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
                self._reports.close()
            return int(self.returncode)

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None


def _at_start(env: Mapping[str, str]) -> dict[str, str]:
    # PYTHONPATH leads to the agent alone, which is imported already.
    return {k: v for k, v in env.items() if k.startswith(AT_START) and k != "PYTHONPATH"}


class _Server:
    """The process that forks. Each test process has one, started at its first command."""

    _ours: _Server | None = None

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self.at_start = _at_start(os.environ)
        self._socket, its_own = socket.socketpair()
        with its_own:
            self._process = subprocess.Popen(
                # -P: the other files of this folder are no modules for it.
                [sys.executable, "-P", __file__, str(its_own.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[its_own.fileno()],
                # Not a session of its own: Linux shares out the processor by sessions, and on a
                # busy machine its processes would wait for each other for a tenth of a second.
                process_group=0,
            )
        atexit.register(self._end)

    @classmethod
    def of_this_process(cls) -> _Server:
        """The server, which is started if there is none."""
        if cls._ours is None or cls._ours._pid != os.getpid():
            cls._ours = cls()
        return cls._ours

    def ask(self, request: Mapping[str, object], outputs: Sequence[int]) -> socket.socket:
        """Where the process of a command is reported, and its exit status."""
        reports, its_own = socket.socketpair()
        with its_own, self._lock:
            socket.send_fds(self._socket, [b"\n"], [*outputs, its_own.fileno()])
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        return reports

    def _end(self) -> None:
        """It ends when nothing more can be asked of it."""
        if self._pid == os.getpid():
            self._socket.close()
            self._process.wait()


# -- in the server --------------------------------------------------------------------------------


def _next_command(control: socket.socket) -> dict[str, Any] | None:
    """Fork for each request. Returns it in a process that is to run the command; None at the end
    of the requests."""
    while True:
        begin, descriptors, _, _ = socket.recv_fds(control, 1, 3)
        if not begin:
            return None
        with control.makefile("rb") as lines:
            request: dict[str, Any] = json.loads(lines.readline())
        *outputs, reports = descriptors
        if os.fork() == 0:
            # The parent of the command, which waits for it.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            process = os.fork()
            if process == 0:
                os.close(reports)
                _become(request, outputs)
                return request
            for descriptor in (*outputs, control.fileno()):
                os.close(descriptor)
            os.write(reports, _NUMBER.pack(process))
            _, status = os.waitpid(process, 0)
            os.write(reports, _NUMBER.pack(os.waitstatus_to_exitcode(status)))
            os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)


def _become(request: Mapping[str, Any], outputs: Sequence[int]) -> None:
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
    # What it forks is not waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(fileno=descriptor) as control:
        for module in (*COMMON, *(f"agent.cli.{module}" for module, _ in cli._COMMANDS.values())):
            importlib.import_module(module)
        gc.freeze()
        request = _next_command(control)
    if request is None:
        return 0
    if request["timing"] is None:
        return main()
    return cli.main(timing=msgspec.convert(request["timing"], Timing))


if __name__ == "__main__":
    sys.exit(_serve(int(sys.argv[1])))
