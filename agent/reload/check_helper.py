"""The agent's side of a helper process that checks Python sources.

The helper inherits nothing from the launcher of the agent: `python -I -S` imports no module from
the working directory, from PYTHONPATH or from the user's site-packages; the environment is empty,
the working directory is `/`, the umask is 077, standard error is /dev/null; `check_program.py` sets
the signals. Its program is the text that was on disk when the agent started, so an upgrade of the
package does not mix two versions.

The agent learns about a helper through its pipes only (the protocol is in `check_program.py`). It
does not need SIGCHLD, which the launcher may have blocked or ignored.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

import anyio
import msgspec
from anyio import to_thread

from agent.core import python_source
from agent.core.python_source import Report
from agent.reload import check_program
from agent.reload.check_program import MEMORY, NO_MEMORY, REPORT
from agent.timing import CheckLimits

#: Seconds of processor time after which a helper reports that a check goes on.
SLICE = 0.05
#: The nice value of a helper whose source takes long.
SLOW_NICE = 10
#: Seconds after which the exit status of a killed helper is collected.
REAP_AFTER = 0.2
#: The most bytes of a report: MAX_CALLS calls, and a message in which every character is escaped.
MAX_REPORT = 1 << 20

#: Executes the modules that it receives, and calls `main` of the last one.
_BOOT = """\
import json, sys, types
modules, arguments = json.loads(sys.stdin.buffer.readline())
for name, text in modules:
    sys.modules[name] = module = types.ModuleType(name)
    exec(compile(text, name, "exec"), module.__dict__)
module.main(*arguments)
"""
_MODULES = [
    (module.__name__, inspect.getsource(module)) for module in (python_source, check_program)
]
#: What the dynamic loader needs to start this Python again if it is installed in an unusual place.
_LOADER_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


class HelperError(Exception):
    """The helper did not start, ended, or sent invalid data. Says nothing about the source."""


class SliceUsed(NamedTuple):
    """The source has used another SLICE of processor time and is not checked yet."""


class LimitReached(NamedTuple):
    """A limit of the helper that the source has reached."""

    limit: str


class Helper:
    """One helper process. It checks one source at a time.

    After HelperError or LimitReached it can only be killed.
    """

    def __init__(self, process: subprocess.Popen[bytes], limits: CheckLimits) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._to, self._from = process.stdin.fileno(), process.stdout.fileno()
        os.set_blocking(self._to, False)
        os.set_blocking(self._from, False)
        self._limits = limits
        self._received = bytearray()
        self._slices = 0

    @classmethod
    async def start(cls, limits: CheckLimits) -> Helper:
        """A new helper. Raises HelperError if no process can be started."""
        try:
            process = await to_thread.run_sync(_start, abandon_on_cancel=True)
            helper = cls(process, limits)
        except Exception as error:  # no thread, no process, or another error of exec
            why = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise HelperError(f"no helper process could be started: {why}") from error
        program = json.dumps([_MODULES, [SLICE, limits.max_cpu, limits.max_memory]])
        try:
            await helper._send(program.encode() + b"\n")
        except BaseException:
            helper.kill()
            raise
        return helper

    async def send(self, source: bytes, second_try: bool = False) -> None:
        """Have a source checked. Raises HelperError."""
        self._slices = 0
        await self._send(bytes([second_try]) + len(source).to_bytes(4, "big") + source)

    async def result(self) -> Report | SliceUsed | LimitReached:
        """The next result for the source that was sent. Raises HelperError."""
        kind = bytes(await self._receive(1))
        if kind == bytes([signal.SIGPROF]):
            self._slices += 1
            if self._slices * SLICE < self._limits.max_cpu:
                return SliceUsed()
            return LimitReached(f"more than {self._limits.max_cpu:.0f} s of processor time")
        if kind == MEMORY:
            mib = self._limits.max_memory >> 20
            return LimitReached(f"more than {mib} MiB of memory, or is nested too deep")
        if kind == NO_MEMORY:
            raise HelperError("the machine is short of memory")
        length = int.from_bytes(await self._receive(4), "big")
        if kind != REPORT or length > MAX_REPORT:
            raise HelperError("the helper process sent something that is not a report")
        try:
            return msgspec.json.decode(await self._receive(length), type=Report)
        except msgspec.MsgspecError as error:
            raise HelperError("the helper process sent something that is not a report") from error

    def yield_to_others(self) -> None:
        """Run with low priority from now on."""
        pid = self._process.pid
        with contextlib.suppress(OSError):
            os.setpriority(
                os.PRIO_PROCESS, pid, max(SLOW_NICE, os.getpriority(os.PRIO_PROCESS, pid))
            )

    def kill(self) -> None:
        """End the process and close the pipes. Nothing may be waiting for its result."""
        with contextlib.suppress(OSError):
            self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()
        # Not waited for here: it may hang in the kernel.
        _killed.append(self._process)
        asyncio.get_running_loop().call_later(REAP_AFTER, _reap)

    async def _send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._to, rest) :]
            except BlockingIOError:
                await self._ready(self._to, write=True)
            except OSError as error:
                raise HelperError("the helper process has ended") from error

    async def _receive(self, size: int) -> bytearray:
        while len(self._received) < size:
            try:
                data = os.read(self._from, 1 << 16)
            except BlockingIOError:
                await self._ready(self._from, write=False)
                continue
            except OSError as error:
                raise HelperError("the helper process has ended") from error
            if not data:
                raise HelperError("the helper process has ended")
            self._received += data
        received, self._received = self._received[:size], self._received[size:]
        return received

    async def _ready(self, fd: int, write: bool) -> None:
        """Wait until the pipe can be used. Raises HelperError if that takes too long.

        Counts waits of one second: if all processes were suspended, only one of them was too long.
        """
        loop = asyncio.get_running_loop()
        add = loop.add_writer if write else loop.add_reader
        remove: Callable[[int], bool] = loop.remove_writer if write else loop.remove_reader
        ready = asyncio.Event()
        add(fd, ready.set)
        try:
            for _ in range(self._limits.max_silence):
                with anyio.move_on_after(1.0):
                    await ready.wait()
                    return
        finally:
            remove(fd)
        raise HelperError(f"the helper process sent nothing for {self._limits.max_silence} s")


#: Processes that were killed and may not have ended yet.
_killed: list[subprocess.Popen[bytes]] = []


def _reap() -> None:
    """Collect the exit statuses of killed processes, so that none remains a zombie."""
    _killed[:] = [process for process in _killed if process.poll() is None]


def _start() -> subprocess.Popen[bytes]:
    """Start the interpreter. Blocks. Raises what fork and exec may raise."""
    environ = {name: os.environ[name] for name in _LOADER_VARIABLES if name in os.environ}
    # The last argument is shown by `ps`.
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", "-c", _BOOT, "callback-agent: checks Python"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        close_fds=True,
        cwd="/",
        env=environ,
        umask=0o077,
        start_new_session=True,
    )
