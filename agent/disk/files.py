"""Reads the files of one directory, or takes their bytes from the last reading."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterable

from agent.core.unit import BEING_WRITTEN, CONF, Absent, Unusable
from agent.disk import acl, filesystems, fingerprint, open_errors
from agent.disk.audit import Audit
from agent.disk.filesystems import Kind
from agent.disk.fingerprint import READ, is_open_for_writing
from agent.disk.snapshot import Details, Snapshot
from agent.disk.stalls import heartbeat

#: The most bytes of one directory's callbacks.conf and the files that it names, together. Real ones
#: have some hundred kilobytes. An edit may need as much again until the old ones are dropped.
MAX_UNIT_BYTES = 256 << 20
#: The most bytes of all directories together: a quarter of the 2 GiB that the systemd unit allows.
MAX_TOTAL_BYTES = 512 << 20


#: The least bytes that one read asks for: some file systems report a size of 0 for every file.
READ_SIZE = 64 << 10


class TooBig(Exception):
    """The files have more bytes together than are read."""


class FileReader:
    """Reads the files of one directory for one reading, whose details it records."""

    def __init__(
        self,
        directory: str,
        before: Snapshot | None,
        kind: Kind,
        audit: Audit,
        details: Details,
        elsewhere: int,
    ) -> None:
        self._directory = directory
        self._before = before
        self._kind = kind
        self._audit = audit
        self._details = details
        #: The bytes of all other directories.
        self._elsewhere = elsewhere
        #: The kind of each file system that a file was found on, by device: links may lead to
        #: others than the directory's.
        self._kinds: dict[int, Kind] = {}
        self._now = time.monotonic()

    def set_device(self, device: int) -> None:
        """Set the device of the directory, whose kind is known."""
        self._kinds[device] = self._kind

    def read(self, fd: int, name: str, most: int) -> bytes | Absent | Unusable:
        """The bytes of a file in the directory, open as `fd`: those of the last reading if it did
        not change. A file of more than `most` bytes is Unusable. Blocks. Raises TooBig, and Fault
        where the process or the system lacks resources."""
        heartbeat()
        details = self._details
        at, last = fd, name
        try:
            status = os.lstat(name, dir_fd=fd)
            if stat.S_ISLNK(status.st_mode):
                details.links[name] = None
                at, last, status = self._audit.resolve(name, fd)
            if self._kind is Kind.LOCAL:
                now = details.fingerprints[name] = fingerprint.of_status(status)
                if self._kinds.get(status.st_dev) is Kind.LOCAL and self._can_reuse(name, now):
                    return self._reused(name)
            file = os.open(last, READ | self._audit.no_follow, dir_fd=at)
        except OSError as error:
            return self._failed(name, error)
        try:
            return self._read_open(file, name, most)
        except OSError as error:
            return self._failed(name, error)
        finally:
            os.close(file)

    def check_size(self, more: int = 0) -> None:
        """Raise TooBig if the bytes of this reading, with `more` of them, are too many."""
        size = self._details.size + more
        if size > MAX_UNIT_BYTES:
            raise TooBig(
                f"{CONF} and the files that it names have more than {MAX_UNIT_BYTES >> 20} MiB"
                " together; no more are read of one directory"
            )
        if size + self._elsewhere > MAX_TOTAL_BYTES:
            raise TooBig(
                f"all callback directories have more than {MAX_TOTAL_BYTES >> 20} MiB together with"
                " this one; no more are read"
            )

    def size_on_disk(self, fd: int, names: Iterable[str]) -> int:
        """The bytes of these files by stat. Records their fingerprints. Blocks."""
        size = 0
        for name in names:
            heartbeat()
            try:
                status = os.stat(name, dir_fd=fd)
                size += status.st_size
                self._details.fingerprints[name] = fingerprint.of_status(status)
            except OSError as error:
                self._details.fingerprints[name] = error.errno or errno.EIO
        return size

    def _can_reuse(self, name: str, now: fingerprint.Fingerprint) -> bool:
        return self._before is not None and self._before.can_reuse(
            name, now, self._audit.trust, name in self._details.links
        )

    def _reused(self, name: str) -> bytes:
        """The bytes of the last reading, and what it recorded of them."""
        assert self._before is not None
        before, details = self._before.details, self._details
        details.seen[name] = before.seen[name]
        if name in before.unsafe and name not in details.links:
            details.unsafe[name] = before.unsafe[name]
        code = self._before.content(name)
        self._count(len(code))
        return code

    def _count(self, size: int) -> None:
        """Count bytes that this reading keeps. Raises TooBig."""
        self._details.size += size
        self.check_size()

    def _kind_of(self, fd: int, device: int) -> Kind:
        if device not in self._kinds:
            self._kinds[device] = filesystems.of(fd)
        return self._kinds[device]

    def _read_open(self, fd: int, name: str, most: int) -> bytes | Unusable:
        details = self._details
        first = os.fstat(fd)
        now = details.fingerprints[name] = fingerprint.of_status(first)
        if not stat.S_ISREG(first.st_mode):
            return open_errors.not_regular(name)
        self._audit.check(name, f"{self._directory}/{name}", first, acl.read(fd, first))
        kind = self._kind_of(fd, first.st_dev)
        if kind is not Kind.LOCAL:
            details.remote.add(name)
            if self._can_reuse(name, now):
                return self._reused(name)
        if first.st_size > most:
            return open_errors.too_big(name, f"has {first.st_size} bytes", most)
        details.seen[name] = (self._first_seen(name, now), self._now)
        has_leases = kind is not Kind.REMOTE
        if has_leases and is_open_for_writing(fd):
            details.busy.add(name)
        self._count(first.st_size)
        data = bytearray()
        # As much as stat says and one byte: `os.read` allocates as many bytes as it is asked for.
        size = max(first.st_size + 1, READ_SIZE)
        while len(data) <= most and (part := os.read(fd, size)):
            data += part
        self._count(len(data) - first.st_size)
        if len(data) != first.st_size or fingerprint.of_status(os.fstat(fd)) != now:
            details.unstable.add(name)
        if has_leases and is_open_for_writing(fd):
            details.busy.add(name)
        if len(data) > most:
            return open_errors.too_big(name, "has more bytes than stat shows", most)
        return bytes(data)

    def _first_seen(self, name: str, now: fingerprint.Fingerprint) -> float:
        """When this fingerprint was first seen, in monotonic seconds."""
        if self._before is not None and self._before.fingerprints.get(name) == now:
            seen = self._before.details.seen.get(name)
            if seen is not None:
                return seen[0]
        return self._now

    def _failed(self, name: str, error: OSError) -> Absent | Unusable:
        number = error.errno or errno.EIO
        details = self._details
        # A file that stat can see and nobody can open keeps that fingerprint: the second look
        # calls stat too.
        known = details.fingerprints.setdefault(name, number)
        is_link = name in details.links
        found, retry = open_errors.of_file(
            number, self._directory, name, is_link, fingerprint.is_regular(known)
        )
        if isinstance(found, Unusable) and found.held == BEING_WRITTEN:
            details.busy.add(name)
        details.retry = details.retry or retry
        return found
