"""Puts right what a launcher may have left wrong in this process. Called once, before all else.

A launcher can leave descriptors 0 to 2 closed, signals blocked or ignored, a umask of 0, and a
working directory that others may write to. Each of them does harm much later: the pipe's lock file
takes the place of standard error, the end of a helper process is never noticed, a folder is made
world-writable. So none of them is relied upon.

This module imports little, so that it can run before the imports that take time.
"""

from __future__ import annotations

import os
import signal
import sys

#: A fault of this process. It must end, with the core file that the system is set up to write.
_FAULTS = frozenset({"SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP"})
#: These cannot be ignored, or by default neither end nor stop the process, or stop it because
#: somebody at its terminal asked for that.
_KEPT = frozenset({"SIGCHLD", "SIGCONT", "SIGKILL", "SIGSTOP", "SIGTSTP", "SIGURG", "SIGWINCH"})
#: What the agent acts on. They stay blocked: a thread waits for them (`agent.daemon.signals`).
ACTED_ON = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
#: Permissions that no file or folder of the agent's may have.
_UMASK = 0o022

#: Those of descriptors 0 to 2 that were closed when this process started.
closed_at_start: frozenset[int] = frozenset()


def prepare(serves: bool) -> None:
    """Set descriptors 0 to 2, the umask, the signals and the encoding. May be called again.

    `serves` is for a process that runs until it is told to stop: it ignores every signal that
    would end it, except for faults and those in ACTED_ON, which it blocks. Raises OSError where
    there is no /dev/null, or where Python cannot be started again for its encoding.
    """
    _open_standard_streams()
    os.umask(os.umask(0o777) | _UMASK)
    if serves:
        # Before their dispositions change: one that comes now must wait, not be lost.
        signal.pthread_sigmask(signal.SIG_SETMASK, ACTED_ON)
        for number in signal.valid_signals():
            if _name(number) not in _FAULTS | _KEPT:
                acted_on = number in ACTED_ON
                signal.signal(number, signal.SIG_DFL if acted_on else signal.SIG_IGN)
    else:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if sys.platform == "linux":
            # A writer who opens a file that is under a lease sends it. By default it kills.
            signal.signal(signal.SIGIO, signal.SIG_IGN)
    # Where it is ignored, the kernel tells no parent how its child ended.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _use_utf8()


def leave_working_directory() -> None:
    """Make `/` the working directory, once every path that was given is absolute.

    Its file system can then be unmounted, and no module is imported from there.
    """
    os.chdir("/")


def _open_standard_streams() -> None:
    """Open descriptors 0 to 2 on /dev/null where they are closed, so that no file gets them."""
    global closed_at_start
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest that is free: this one.
            opened = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(opened, True)
            closed_at_start |= {opened}


def _use_utf8() -> None:
    """Start Python again in UTF-8 mode where the locale has another encoding (PEP 540).

    Names of files are bytes to the system and UTF-8 in callbacks.conf, qb.conf and all answers. In
    a Latin-1 locale Python would look for other bytes than were written, and could not look for
    `5€.py` at all. Python takes the encoding of file names at its start only.
    """
    if sys.getfilesystemencoding() == "utf-8":
        return
    if "utf8" in sys._xoptions or not sys.executable:
        raise OSError(
            0,
            f"the encoding of file names is {sys.getfilesystemencoding()}, and it must be UTF-8:"
            " set LC_ALL=C.UTF-8, or PYTHONUTF8=1",
        )
    # What it prints is still for a terminal of this locale.
    if sys.stdout is not None:
        os.environ.setdefault("PYTHONIOENCODING", sys.stdout.encoding)
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606


def _name(number: int) -> str:
    """`SIGTERM`, or the number for a real-time signal."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
