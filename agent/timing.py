"""Times and limits that a run is given: the defaults, and the type in which a test gives others.

`daemon.run.run` and `check.check_directories` hand a `Timing` to the parts that use it. `disk/`
gets single values. What is the same in every run is a constant in the module that uses it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CheckLimits:
    """Limits of the checks of Python sources."""

    #: Seconds of processor time for one source. Real callbacks take milliseconds.
    max_cpu: float = 10.0
    #: Bytes of address space of a helper. Real callbacks need a hundredth of it. On Linux.
    max_memory: int = 1 << 30
    #: Seconds without output of a helper after which it is given up. It reports each slice of
    #: processor time, so it was stopped, or got no processor time.
    max_silence: int = 30
    #: The most seconds until a check that could not be made is tried again.
    max_pause: float = 60.0
    #: Seconds for which an edit waits for its check. After that, the directory is held for it.
    max_wait: float = 2.0
    #: Seconds of processor time in the slow lane that the sources of one directory may use
    #: together. Real callbacks use none of it.
    budget: float = 30.0
    #: The most bytes of verdicts on sources that no directory has any more, so that an edit that is
    #: taken back needs no new check. Verdicts on sources that a directory has are never forgotten.
    max_unused_bytes: int = 4 << 20


@dataclass(frozen=True, slots=True)
class PipeLimits:
    """Limits of the pipe and its clients."""

    #: Connections at the same time. A supervisor has some dozens, and each costs some kilobytes.
    max_connections: int = 1000
    #: Seconds in which a line that has begun must end. Between two lines a client may be silent for
    #: ever.
    max_line_seconds: float = 30.0
    #: Bytes of the responses of one batch, which must be complete before any of it is sent. The
    #: rest of its requests are refused, one by one.
    max_batch_bytes: int = 64 << 20
    #: Bytes of notifications that may wait for a subscriber that does not read. Then it is closed,
    #: so that it knows that it missed some.
    max_unread_notifications: int = 32 << 20
    #: Bytes that are held for all clients together: requests, responses in progress, responses
    #: that are unread. What several have not read counts once. A fifth of what the systemd unit
    #: allows.
    max_held_bytes: int = 384 << 20
    #: Seconds of work on one request. The largest real ones take some seconds.
    max_work_seconds: float = 20.0
    #: Bytes of one result. `list` of 100,000 callbacks has about 25 MB.
    max_result_bytes: int = 64 << 20


@dataclass(frozen=True, slots=True)
class Timing:
    """The times and limits of one run."""

    #: Seconds without a change after which an edit counts as complete. Several files that one
    #: command writes follow each other within 1 ms; a person's next edit takes far longer.
    quiet_period: float = 0.005
    #: Seconds for which a writer may keep a file open before the directory is held for it.
    writing: float = 2.0
    #: Seconds between two polls of all targets: the longest time for which a lost event delays an
    #: edit. A source of events that failed is tried again as often.
    rescan: float = 30.0
    #: Seconds after which a file system counts as stalled. A disk that has to spin up takes some.
    stalled: float = 10.0
    checks: CheckLimits = CheckLimits()
    pipe: PipeLimits = PipeLimits()


#: The times and limits of every run that is given no others.
DEFAULTS = Timing()
