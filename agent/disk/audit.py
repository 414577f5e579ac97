"""Records what untrusted users may change while one directory is read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from agent.core.diagnostic import Diagnostic, Problem, Severity
from agent.core.unit import CONF
from agent.disk import fingerprint
from agent.disk.permissions import IGNORE, REFUSE, End, SafeWalk, Trust, Unsafe
from agent.disk.snapshot import Details


class Audit:
    """The permissions of all that one reading of a directory uses.

    What is found is kept in `details`: what is unsafe by name, and the fingerprint of each
    directory on a path, so that a later change of its permissions is noticed.
    """

    def __init__(self, directory: str, trust: Trust, details: Details) -> None:
        self.trust = trust
        self._directory = directory
        self._details = details
        self._walk = SafeWalk(trust)
        #: The flag with which a name that `resolve` gave is opened.
        self.no_follow = 0 if trust.mode == IGNORE else os.O_NOFOLLOW

    def close(self) -> None:
        """Close the directories that walks left open."""
        self._walk.close()

    def open_directory(self, flags: int) -> int:
        """Open the directory itself, and audit the path to it. Blocks. Raises OSError."""
        if self.trust.mode == IGNORE:
            return os.open(self._directory, flags)
        with self._recording("."):
            return self._walk.open(self._directory, flags)

    def resolve(self, name: str, fd: int) -> End:
        """What a link in the directory, open as `fd`, leads to. Blocks. Raises OSError."""
        if self.trust.mode == IGNORE:
            return End(fd, name, os.stat(name, dir_fd=fd))
        with self._recording(name):
            return self._walk.find(name, fd, self._directory)

    def check(self, name: str, path: str, status: os.stat_result, acl_data: bytes | None) -> None:
        """Audit an open file or directory."""
        if self.trust.mode != IGNORE:
            unsafe = self.trust.check(path, status, acl_data)
            if unsafe is not None:
                self._record(name, (*self._details.unsafe.get(name, ()), unsafe))

    def is_refused(self, name: str) -> bool:
        """Whether a file, or `.` for the directory, must not be served."""
        return self.trust.mode == REFUSE and bool(self._details.unsafe.get(name))

    def diagnostics(self) -> Iterator[Diagnostic]:
        """What is unsafe. Where that is refused, only of the directory and its callbacks.conf: an
        implementation is then reported at its line."""
        reported = set()
        severity = Severity.ERROR if self.trust.mode == REFUSE else Severity.WARNING
        for name, found in self._details.unsafe.items():
            if severity is Severity.ERROR and name not in (".", CONF):
                continue
            for unsafe in found:
                if unsafe.path not in reported:
                    reported.add(unsafe.path)
                    problem = Problem("unsafe", unsafe.message, unsafe.hint, override=severity)
                    yield problem.at(unsafe.path)

    @contextmanager
    def _recording(self, name: str) -> Iterator[None]:
        """Record what a walk to a name found, also where it fails."""
        try:
            yield
        finally:
            self._record(name, self._walk.unsafe)
            for path, (status, acl_data) in self._walk.passed.items():
                self._details.fingerprints.setdefault(path, fingerprint.of_status(status, acl_data))
            self._walk.passed.clear()

    def _record(self, name: str, found: Iterable[Unsafe]) -> None:
        unsafe = self._details.unsafe[name] = tuple(found)
        # The user database may answer later.
        self._details.retry = self._details.retry or any(wrong.unknown for wrong in unsafe)
