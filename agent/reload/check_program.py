"""The program of the helper process that checks Python sources. It runs isolated from the agent.

The agent sends the text of this module and of `python_source` to a new interpreter
(`check_helper.py`). Then it sends one request at a time on standard input: a byte that is 1 for a
second try, the length of the source in 4 bytes, the source. Responses on standard output begin with
one byte:

- the number of SIGPROF, each time the source has used another slice of processor time. Python's C
  signal handler writes it (`set_wakeup_fd`), so it is written even during a `compile`, which lets
  no Python code run;
- REPORT, then the length in 4 bytes, and the report as JSON;
- MEMORY for a source that needs more memory than it may use;
- NO_MEMORY if the machine cannot provide what the source may use, so there is no result.

The process ends at the end of standard input, even during a check (SIGIO).
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import mmap
import os
import resource
import signal
import sys
from collections.abc import Iterator

from agent.core.python_source import examine

REPORT = b"R"
MEMORY = b"M"
NO_MEMORY = b"N"

#: Bytes of address space that are left for the interpreter when the machine's memory is tested.
_INTERPRETER = 128 << 20


def main(slice_seconds: float, max_cpu: float, max_memory: int) -> None:
    """Check the sources on standard input until its end.

    `slice_seconds` and `max_cpu` are seconds of processor time, `max_memory` is bytes. The agent
    ends this process when a source has used `max_cpu`. The limit of the process is a second guard.
    """
    _default_signals()
    memory = _limit_memory(max_memory)
    signal.signal(signal.SIGPROF, lambda *_: None)
    # The tree of a large source has millions of objects, none of them garbage.
    gc.disable()
    read = sys.stdin.buffer.read
    while len(head := read(5)) == 5:
        second_try, length = head[0] == 1, int.from_bytes(head[1:], "big")
        source = read(length)
        if len(source) < length:
            return
        if second_try and not _available(memory - _INTERPRETER):
            _write(NO_MEMORY)
            continue
        _limit_cpu(max_cpu)
        _write(_checked(source, slice_seconds))
        del source
        gc.collect()


def _checked(source: bytes, slice_seconds: float) -> bytes:
    """The response for one source."""
    os.set_blocking(1, False)
    signal.set_wakeup_fd(1, warn_on_full_buffer=False)
    signal.setitimer(signal.ITIMER_PROF, slice_seconds, slice_seconds)
    try:
        with _ended_with_the_agent():
            report = examine(source)
    except MemoryError:
        return MEMORY
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.set_wakeup_fd(-1)
        os.set_blocking(1, True)
    body = json.dumps(report).encode()
    return REPORT + len(body).to_bytes(4, "big") + body


@contextlib.contextmanager
def _ended_with_the_agent() -> Iterator[None]:
    """Let the end of standard input end this process: the kernel then sends SIGIO."""
    flags = fcntl.fcntl(0, fcntl.F_GETFL)
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, flags | os.O_ASYNC)
    try:
        yield
    finally:
        fcntl.fcntl(0, fcntl.F_SETFL, flags)


def _default_signals() -> None:
    """Reset the signals that the launcher of the agent has blocked or ignored."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _limit_memory(wanted: int) -> int:
    """Limit the address space, and allow no core file. Returns the bytes that may be used."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The first to be killed if the machine runs out of memory.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    if sys.platform != "linux":
        return 0
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    return limit


def _limit_cpu(seconds: float) -> None:
    """Let this process use `seconds` more of processor time, and a little more to report it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime + seconds) + 2
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))


def _available(size: int) -> bool:
    """Whether the machine can provide `size` bytes of memory."""
    try:
        if size > 0:
            mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, MemoryError, ValueError):
        return False
    return True


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]
