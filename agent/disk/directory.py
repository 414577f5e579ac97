"""Reads one callback directory as it is on disk at one instant.

A part of an edit must never be taken for the whole edit. Therefore:

- Everything is read through one descriptor of the directory: a link that is switched meanwhile
  cannot mix two directories.
- A file that is open for writing does not count as complete. On Linux a read lease shows it; see
  `fingerprint`. If another process holds a write lease (an SMB server, an NFS delegation), opening
  the file fails with EAGAIN and makes the kernel request that lease back: such a file also counts
  as being written.
- Where there is no lease (another user's file, not Linux) or where it proves nothing (network file
  systems; FUSE grants it while the underlying file is written), the file must have the same
  fingerprint before the read, after it, and one quiet period later. Where the type of the file
  system is unknown, both rules apply: the lease is requested, and proves nothing if it is granted.
- Everything must have the same fingerprint one quiet period later; see `second_look`. Then all that
  was read was on disk at one time, and changes less than a quiet period apart are one edit.
- On some file systems fingerprints always differ: mtime is the current time, inodes change, the
  size is 0. There, two readings with the same bytes, a quiet period apart, count as stable
  (`second_look.same_content`).

Nothing stays open between readings: an open file would keep the file system from being unmounted.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import islice

from agent.core import look_alikes, planning, unit
from agent.core.diagnostic import Problem
from agent.core.quoting import shown
from agent.core.unit import (
    CONF,
    ERROR,
    FAULT,
    MAX_CODE_BYTES,
    MAX_CONF_BYTES,
    UNSAFE,
    Absent,
    Implementation,
    Plan,
    Reading,
    Unusable,
)
from agent.disk import acl, fingerprint, open_errors
from agent.disk.audit import Audit
from agent.disk.files import FileReader, TooBig
from agent.disk.filesystems import Kind
from agent.disk.open_errors import Fault
from agent.disk.permissions import IGNORE, Trust
from agent.disk.snapshot import Details, Snapshot
from agent.disk.stalls import computing

#: The most names of a directory that are searched for one like a missing file's.
MAX_LISTED = 10_000

#: Permissions are not checked.
UNCHECKED = Trust(IGNORE)

#: Gives the plan of a callbacks.conf. Takes the directory, the file's path, its bytes, and an older
#: plan of it. None while it is being parsed elsewhere.
Planner = Callable[[str, str, bytes, Plan | None], Plan | None]

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK | os.O_CLOEXEC


def read(
    directory: str,
    before: Snapshot | None = None,
    also: frozenset[str] = frozenset(),
    kind: Kind = Kind.LOCAL,
    device: int | None = None,
    trust: Trust = UNCHECKED,
    planner: Planner | None = None,
    elsewhere: int = 0,
) -> Snapshot:
    """Read a directory: its callbacks.conf, the files that it names, and those in `also`.

    Files that did not change since `before` are not read again. `kind` is that of its file system.
    `device` is that of the directory when its callbacks.conf was last there, where `before` does
    not know it. `planner` parses callbacks.conf, or says that it is not parsed yet. `elsewhere` is
    the number of bytes of other directories, of MAX_TOTAL_BYTES. Blocks. Every failure is a finding
    of this directory, none is raised.
    """
    if before is not None and before.device is not None:
        device = before.device
    details = Details()
    audit = Audit(directory, trust, details)
    files = FileReader(directory, before, kind, audit, details, elsewhere)
    reader = _Reader(directory, before, audit, files, details, planner or _parse)
    try:
        # If the directory cannot be opened, this stays: the second look asks for it.
        details.fingerprints["."] = fingerprint.of_path(directory, kind is Kind.LOCAL)
        reading = reader.read(also, device)
    except (Fault, OSError, MemoryError) as error:
        details.retry = True
        # Not kept in a variable: it may be the error, whose traceback has the variables of here.
        problem = open_errors.of_directory(directory, error).problem
        reading = Reading(directory, fault=problem.at(directory))
    except Exception as error:
        return Snapshot.failed(directory, before, error)
    finally:
        audit.close()
    if reading.plan is not None:
        device = reader.device
    return Snapshot(reading, kind, device, details)


def _parse(_: str, path: str, data: bytes, before: Plan | None) -> Plan:
    with computing():
        return planning.plan(data, path, before)


class _Reader:
    """One reading of a directory."""

    def __init__(
        self,
        directory: str,
        before: Snapshot | None,
        audit: Audit,
        files: FileReader,
        details: Details,
        planner: Planner,
    ) -> None:
        self._directory = directory
        self._before = before
        self._audit = audit
        self._files = files
        self._details = details
        self._planner = planner
        #: The device of the directory, once it is open.
        self.device: int | None = None

    def read(self, also: frozenset[str], device: int | None) -> Reading:
        """Read everything. Raises Fault, and OSError where the directory itself cannot be read."""
        fd = self._audit.open_directory(_DIRECTORY_FLAGS)
        try:
            self._check_directory(fd)
            reading = self._read_open(fd, also, device)
        finally:
            os.close(fd)
        return replace(reading, findings=(*self._audit.diagnostics(), *reading.findings))

    def _check_directory(self, fd: int) -> None:
        status = os.fstat(fd)
        self.device = status.st_dev
        self._files.set_device(status.st_dev)
        acl_data = acl.read(fd, status)
        self._details.fingerprints["."] = fingerprint.of_status(status, acl_data)
        self._audit.check(".", self._directory, status, acl_data)

    def _read_open(self, fd: int, also: frozenset[str], device: int | None) -> Reading:
        names = dict.fromkeys(sorted(also))
        try:
            conf = self._files.read(fd, CONF, MAX_CONF_BYTES)
            plan = self._plan(conf)
            conf_missing = isinstance(conf, Absent)
            if conf_missing and device is not None and device != self.device:
                raise Fault(
                    "unmounted",
                    f"there is no {CONF}, and {shown(self._directory)} is now on a different file"
                    " system: it counts as unmounted",
                    "mount it again; what was served stays served until then",
                )
            named = plan.files() if plan else []
            names = dict.fromkeys(named) | names
            if self._before is not None and self._before.details.too_big:
                # Ask stat before reading all files once more.
                self._files.check_size(self._files.size_on_disk(fd, names))
            files = {name: self._implementation(fd, name) for name in names}
        except TooBig as error:
            return self._too_big(error, fd, names)
        if plan is not None and (self._audit.is_refused(".") or self._audit.is_refused(CONF)):
            return Reading(self._directory, None, None, files, UNSAFE)
        if plan is None and isinstance(conf, Unusable):
            # Files that were removed count as removed all the same.
            lost = conf.problem.at(f"{self._directory}/{CONF}")
            return Reading(self._directory, None, None, files, FAULT, (lost,))
        similar = self._similar(fd, named, conf_missing, files)
        source = self._details.conf or b""
        return Reading(self._directory, None, plan, files, None, (), similar, source)

    def _plan(self, conf: bytes | Absent | Unusable) -> Plan | None:
        """What callbacks.conf says; None if there is none, if it cannot be read, or if it is not
        parsed yet."""
        path = f"{self._directory}/{CONF}"
        details = self._details
        if isinstance(conf, Absent):
            return None
        if isinstance(conf, Unusable):
            if conf.problem.code == "too-big":
                return unit.unreadable(path, conf.problem)
            details.retry = True
            return None
        details.conf = conf
        last = self._before.reading.plan if self._before else None
        if last is not None and self._before is not None and self._before.details.conf == conf:
            return last
        plan = self._planner(self._directory, path, conf, last)
        details.unparsed = plan is None
        return plan

    def _implementation(self, fd: int, name: str) -> Implementation | Absent | Unusable:
        found = self._files.read(fd, name, MAX_CODE_BYTES)
        if not isinstance(found, bytes):
            return found
        before = self._before.details.implementations.get(name) if self._before else None
        # An equal one is used again: its digest is known, and comparing it takes no time.
        same = before is not None and before.code == found
        implementation = before if before is not None and same else Implementation.of(found)
        self._details.implementations[name] = implementation
        if self._audit.is_refused(name):
            unsafe = self._details.unsafe[name][0]
            return Unusable(Problem("unsafe", unsafe.message, unsafe.hint), UNSAFE)
        return implementation

    def _similar(
        self,
        fd: int,
        named: Iterable[str],
        conf_missing: bool,
        files: Mapping[str, Implementation | Absent | Unusable],
    ) -> dict[str, str]:
        """Names in the directory that are like those of missing files. They only help a person, so
        a failure to list them is ignored."""
        missing = [name for name in named if isinstance(files[name], Absent)]
        if not missing and not conf_missing:
            return {}
        try:
            with os.scandir(fd) as entries:
                names = [entry.name for entry in islice(entries, MAX_LISTED)]
        except OSError:
            return {}
        return look_alikes.similar(missing, CONF if conf_missing else None, sorted(names))

    def _too_big(self, error: TooBig, fd: int, names: Iterable[str]) -> Reading:
        """The reading of a directory with too many bytes: only which files are absent."""
        details = self._details
        details.implementations.clear()
        details.seen.clear()
        details.size, details.too_big = 0, True
        # Other directories may become smaller.
        details.retry = True
        self._files.size_on_disk(fd, names)
        files: dict[str, Implementation | Absent | Unusable] = {
            name: Absent()
            for name in names
            if details.fingerprints[name] == errno.ENOENT and name not in details.links
        }
        path = f"{self._directory}/{CONF}"
        problem = Problem("unit-too-big", str(error), "make the files smaller, or remove lines")
        return Reading(self._directory, None, None, files, ERROR, (problem.at(path),))
