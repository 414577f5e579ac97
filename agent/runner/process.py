"""One callback in a process of its own: started, fed, limited, and ended with all it started.

Four descriptors lead to it. Its output and errors are one pipe. The *farm* is a socket: the runner
sends a line of JSON with the path, the job, the names of the functions of `qb`, the length of the
longest request and the size of the code, and then the code; after that the callback sends requests,
one JSON value a line, each of which is answered with one line. The *status* is a pipe: `begun` when
the callback begins, and `ended N` with its wait status. The *lifeline* is a pipe: when there is
something to read in it, a byte or the end, the callback is to end, because of the time limit or
because the runner was killed.
(The kernel could send a signal instead, PR_SET_PDEATHSIG, but only on Linux, when the thread ends
that started the process, and not to one that has taken another user's id.)

There are three processes, in a session of their own. The runner starts the *leader* of the process
group; its child is the *keeper*, in another group; the keeper's child is the *callback*, in the
leader's group. Each is killed by one that has not collected its exit status, so its number cannot
be another's: the group by the leader and, when that has ended, by the runner; the callback, also
if it has left the group, by the keeper. A callback that stops its group does not stop the keeper.
One that stops the keeper does not stop the leader, and when the leader is killed, the kernel
continues the keeper, whose group is then orphaned.

The leader and the keeper have the status open and end when the callback does, so it ends when all
three have ended. The output may not: a process that escaped may hold it open.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from agent.runner.output import Output

#: Bytes that are read at a time.
_READ_BYTES = 1 << 16
#: The longest request of a callback, in bytes. `qb` refuses to send a longer one; what sends it all
#: the same gets no answer.
MAX_REQUEST = 1 << 20
#: Reads of output after the end. A pipe holds 1 MiB at most; what a process that escaped prints
#: afterwards is nobody's.
_LAST_READS = 16
#: Seconds that the end of a killed process may take on a loaded machine. One that waits for a dead
#: file server takes longer, and one that has become another user may not be killed at all.
_KILL_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended."""

    begun: bool
    timed_out: bool
    #: The callback's parents have ended. If not, the callback could not be killed.
    gone: bool
    #: The exit status of the callback; negative: the signal that ended it. None: not known.
    status: int | None
    #: The same of the first process.
    parent: int


def run_process(
    command: Sequence[str],
    hello: bytes,
    answer: Callable[[bytes], bytes],
    output: Output,
    time_limit: float,
    environment: Mapping[str, str],
) -> Ended:
    """Run a command, which gets three more arguments: the descriptors of the farm, the status and
    the lifeline.

    `hello` is sent first; `answer` makes the answer to a request, without line feeds; what is
    printed goes to `output`. `time_limit` is in seconds. Raises OSError if it cannot be started.
    """
    with contextlib.ExitStack() as close:
        ours, theirs = socket.socketpair()
        close.callback(ours.close)
        with contextlib.ExitStack() as close_theirs:
            close_theirs.callback(theirs.close)
            status, status_end = os.pipe()
            close.callback(os.close, status)
            close_theirs.callback(os.close, status_end)
            lifeline_end, lifeline = os.pipe()
            close.callback(os.close, lifeline)
            # Also ours, so that it can always be written to.
            close.callback(os.close, lifeline_end)
            passed = (theirs.fileno(), status_end, lifeline_end)
            process = subprocess.Popen(
                [*command, *map(str, passed)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                pass_fds=passed,
                cwd="/",
                env=environment,
                umask=0o022,
                start_new_session=True,
            )
        assert process.stdout is not None
        close.callback(process.stdout.close)
        one = _Process(ours, status, process.stdout.fileno(), hello, answer, output)
        try:
            timed_out = not one.serve(time.monotonic() + time_limit)
        finally:
            os.write(lifeline, b"\n")
            # Before its exit status is collected: until then its number belongs to it.
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            gone = one.wait(time.monotonic() + _KILL_SECONDS)
            parent = process.wait()
        one.read_rest()
        return Ended(one.begun, timed_out, gone, one.ended, parent)


class _Process:
    """The runner's ends of the three descriptors."""

    def __init__(
        self,
        farm: socket.socket,
        status: int,
        printed: int,
        hello: bytes,
        answer: Callable[[bytes], bytes],
        output: Output,
    ) -> None:
        self._farm, self._status, self._printed = farm, status, printed
        for descriptor in (farm.fileno(), status, printed):
            os.set_blocking(descriptor, False)
        self._to_send = bytearray(hello)
        self._received = bytearray()
        self._reported = b""
        self._answer = answer
        self._output = output
        self._selector = selectors.DefaultSelector()

    @property
    def begun(self) -> bool:
        return self._reported.startswith(b"begun\n")

    @property
    def ended(self) -> int | None:
        """The callback's exit status, negative for a signal; None if it was not reported."""
        found = re.fullmatch(rb"begun\nended ([0-9]{1,9})\n", self._reported)
        return os.waitstatus_to_exitcode(int(found[1])) if found else None

    def serve(self, deadline: float) -> bool:
        """Read and answer until the processes end; False if the deadline comes first."""
        with self._selector as selector:
            selector.register(self._printed, selectors.EVENT_READ, self._read_output)
            selector.register(self._status, selectors.EVENT_READ, self._read_status)
            selector.register(self._farm, selectors.EVENT_WRITE, self._talk)
            while (left := deadline - time.monotonic()) > 0:
                for key, events in selector.select(left):
                    if not key.data(events):
                        if key.fd == self._status:
                            return True
                        selector.unregister(key.fileobj)
        return False

    def wait(self, deadline: float) -> bool:
        """Wait for the end of the processes; False if the deadline comes first."""
        while (left := deadline - time.monotonic()) > 0:
            if _readable(self._status, left) and not self._read_status(0):
                return True
        return False

    def read_rest(self) -> None:
        """Read what was printed last."""
        for _ in range(_LAST_READS):
            if not _readable(self._printed) or not self._read_output(0):
                return

    def _read_output(self, _: int) -> bool:
        data = _read(self._printed)
        self._output.add(data)
        return bool(data)

    def _read_status(self, _: int) -> bool:
        data = _read(self._status)
        self._reported += data
        return bool(data)

    def _talk(self, events: int) -> bool:
        """Receive, answer one request, and send; False if the callback has closed its end.

        The next request is answered when the answer is sent, and more is read when all are
        answered: a callback that does not read its answers waits.
        """
        try:
            if events & selectors.EVENT_READ:
                data = self._farm.recv(_READ_BYTES)
                self._received += data
                if not data or len(self._received) > MAX_REQUEST:
                    return False
            if not self._to_send and (end := self._received.find(b"\n")) >= 0:
                request = bytes(self._received[:end])
                del self._received[: end + 1]
                self._to_send += self._answer(request) + b"\n"
            if self._to_send:
                del self._to_send[: self._farm.send(self._to_send)]
        except BlockingIOError:
            pass
        except OSError:
            return False
        busy = self._to_send or b"\n" in self._received
        wanted = selectors.EVENT_WRITE if busy else selectors.EVENT_READ
        self._selector.modify(self._farm, wanted, self._talk)
        return True


def greeting(path: str, code: bytes, job: int, functions: Sequence[str]) -> bytes:
    """What the interpreter is sent first."""
    about = {
        "path": path,
        "job": job,
        "functions": list(functions),
        "longest": MAX_REQUEST,
        "size": len(code),
    }
    return json.dumps(about).encode() + b"\n" + code


def _read(descriptor: int) -> bytes:
    """What there is to read; nothing at the end, or if it cannot be read."""
    try:
        return os.read(descriptor, _READ_BYTES)
    except OSError:
        return b""


def _readable(descriptor: int, wait: float = 0.0) -> bool:
    """Whether there is something to read, or the end, within some seconds."""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        return bool(selector.select(wait))
