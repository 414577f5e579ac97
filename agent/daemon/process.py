"""Corrects what a process inherits from its launcher. Called once, before anything else.

A launcher can leave descriptors 0 to 2 closed, signals blocked or ignored, a umask of 0, and a
working directory that others can write to. Each does harm much later: the pipe's lock file becomes
standard error, the end of a helper process is never noticed, a folder is made world-writable.

This module imports little, so that it can run before the imports that take time.
"""

from __future__ import annotations

import os
import signal
import sys

#: Faults of this process: it must end, with a core file if the system is set up for one.
_FAULTS = frozenset({"SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP"})
#: Signals that keep their disposition: they cannot be ignored, or do not end or stop the process
#: by default, or stop it at the request of its terminal.
_UNCHANGED = frozenset(
    {"SIGCHLD", "SIGCONT", "SIGKILL", "SIGSTOP", "SIGTSTP", "SIGURG", "SIGWINCH"}
)
#: Signals that the agent acts on. They stay blocked: `agent.daemon.signals` waits for them.
ACTED_ON = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
#: Permissions that no file or folder of the agent may have.
_UMASK = 0o022

#: The descriptors of 0 to 2 that were closed when this process started.
closed_at_start: frozenset[int] = frozenset()


def prepare(serves: bool) -> None:
    """Set descriptors 0 to 2, the umask, the signals and the encoding. May be called again.

    With `serves`, every signal that would end the process is ignored, except for faults and those
    in ACTED_ON, which are blocked. Raises OSError if there is no /dev/null, or if Python cannot be
    started again for its encoding.
    """
    _open_standard_streams()
    os.umask(os.umask(0o777) | _UMASK)
    if serves:
        # Before their dispositions change, so that a signal that comes now waits and is not lost.
        signal.pthread_sigmask(signal.SIG_SETMASK, ACTED_ON)
        for number in signal.valid_signals():
            if _name(number) not in _FAULTS | _UNCHANGED:
                acted_on = number in ACTED_ON
                signal.signal(number, signal.SIG_DFL if acted_on else signal.SIG_IGN)
    else:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if sys.platform == "linux":
            # Sent when somebody opens a leased file for writing. By default it ends the process.
            signal.signal(signal.SIGIO, signal.SIG_IGN)
    # If it is ignored, the kernel does not report how a child ended.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _use_utf8()


def leave_working_directory() -> None:
    """Make `/` the working directory, after every path has been made absolute.

    The file system of the old one can then be unmounted, and no module is imported from there.
    """
    os.chdir("/")


def _open_standard_streams() -> None:
    """Open those of descriptors 0 to 2 that are closed on /dev/null, so that no file gets them."""
    global closed_at_start
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free number, which is this one.
            opened = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(opened, True)
            closed_at_start |= {opened}


def _use_utf8() -> None:
    """Start Python again in UTF-8 mode if the locale has another encoding (PEP 540).

    File names are bytes to the system, and UTF-8 in callbacks.conf, qb.conf and results. In a
    Latin-1 locale Python would look for other bytes than were written, and could not look for
    `5€.py` at all. Python sets the encoding of file names when it starts, and not later.
    """
    if sys.getfilesystemencoding() == "utf-8":
        return
    if "utf8" in sys._xoptions or not sys.executable:
        raise OSError(
            0,
            f"the encoding of file names is {sys.getfilesystemencoding()}, and it must be UTF-8:"
            " set LC_ALL=C.UTF-8, or PYTHONUTF8=1",
        )
    # Its output still goes to a terminal of this locale.
    if sys.stdout is not None:
        os.environ.setdefault("PYTHONIOENCODING", sys.stdout.encoding)
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606


def _name(number: int) -> str:
    """`SIGTERM`, or the number for a real-time signal."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
