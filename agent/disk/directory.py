"""Reads one callback directory as it stands on disk at one instant.

What must never happen is that a part of an edit is taken for the whole of it. So:

- Everything is read through one descriptor of the directory: a link that is switched meanwhile
  cannot mix two directories.
- Nothing that somebody has open for writing is read as finished. On Linux a read lease tells: the
  kernel refuses it while anyone has the file open for writing. It is dropped at once, since a lease
  that is held makes writers wait, and asked for again after the read. The kernel sends SIGIO to the
  holder of a lease when a writer comes, which by default kills; so the lease is asked for only
  where SIGIO is ignored. If another process holds a write lease (an SMB server, an NFS delegation),
  even opening fails with EAGAIN, and makes the kernel ask for that lease back: being written too.
- Where no lease can be had (another's file, not Linux) or where it proves nothing (network file
  systems; FUSE grants it while the underlying file is written), the file must look alike, by
  fstat, before and after the read and one quiet time later. Where the type of the file system is
  not known, both hold: the lease is asked for, and it proves nothing if it is granted.
- All of it must look alike one quiet time later (`unchanged`). Then what was read stood on disk
  together in between, and changes that come less than a quiet time apart are one edit.
- Some file systems never look alike: mtime is the current time, inodes change, the size is 0. There
  two readings with the same bytes, a quiet time apart, count as one that stood still
  (`same_content`).

Nothing stays open between readings: that would keep a file system from being unmounted.

A stat is trusted to mean `the same bytes` only if the bytes were read at least TRUST seconds after
it was first seen: before Linux 6.13, two writes in one tick of the clock look alike. Only the
monotonic clock counts: that of a file server may be another, and any other may jump.
"""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice

from agent.core import look_alikes as alike
from agent.core import unit as callback
from agent.core.diagnostic import Diagnostic, Problem, Severity
from agent.core.quoting import shown
from agent.core.unit import CONF, Absent, Implementation, Plan, Reading, Unusable
from agent.disk import acl
from agent.disk import filesystems as filesystem
from agent.disk.filesystems import Kind
from agent.disk.permissions import IGNORE, REFUSE, Trust, Unsafe, Way
from agent.disk.stalls import answered, computing

if sys.platform == "linux":
    import fcntl

#: Seconds without a change that make an edit a finished one. Several files that are written by
#: one command follow each other within 1 ms; a person's next edit takes far longer.
QUIET = 0.005

#: Seconds after which a stat that says `unchanged` is believed. See the module's text.
TRUST = 2.0

#: The most bytes of one directory's callbacks.conf and the files that it names, together. Real ones
#: have some hundred kilobytes. An edit may need as much again until the old ones are dropped.
MAX_UNIT_BYTES = 256 << 20
#: The most bytes of all directories together: a quarter of the 2 GiB that the systemd unit allows.
MAX_TOTAL_BYTES = 512 << 20

#: The most names of a directory that are looked through for one like a missing file's.
MAX_LISTED = 10_000

#: Who may change the files is not looked at.
NOBODY_ASKS = Trust(IGNORE)

#: Gives the plan of a callbacks.conf. Takes the directory, the file's path, its bytes, and an older
#: plan of it. None while it is being parsed elsewhere.
Planner = Callable[[str, str, bytes, Plan | None], Plan | None]

#: What `stat` says of a path: an errno where it fails, so that `gone` and `not readable` differ.
Mark = tuple[int, ...] | int


@dataclass(slots=True)
class _Gathered:
    """What one reading gathers beside the reading itself."""

    #: By name in the directory, `.` being the directory itself, or by the absolute path of a
    #: directory that was passed on the way.
    marks: dict[str, Mark] = field(default_factory=dict)
    #: The names that somebody has open for writing.
    busy: set[str] = field(default_factory=set)
    #: The names of which stat and the bytes did not agree, or changed during the reading.
    unstable: set[str] = field(default_factory=set)
    #: The names that are symbolic links.
    links: dict[str, None] = field(default_factory=dict)
    #: The names that lead to a file system of which stat may be stale, and which gives no events.
    remote: set[str] = field(default_factory=set)
    #: By name of a file that was read: when it was first seen to look as it does, and when its
    #: bytes were read, in monotonic seconds.
    seen: dict[str, tuple[float, float]] = field(default_factory=dict)
    conf: bytes = b""
    implementations: dict[str, Implementation] = field(default_factory=dict)
    #: By name, what others may change.
    unsafe: dict[str, tuple[Unsafe, ...]] = field(default_factory=dict)
    #: Whether to read again however alike it looks: a failure may pass without a trace.
    retry: bool = False
    #: The bytes of all that was read.
    size: int = 0
    #: Whether its callbacks.conf is not parsed yet. Then the files that it names are not read.
    unparsed: bool = False
    #: Whether it was given up because there are too many bytes.
    too_big: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One reading of a directory, and what tells whether it still holds."""

    reading: Reading
    #: What kind of file system it is on.
    kind: Kind = Kind.LOCAL
    #: The device of the directory when its callbacks.conf was last there.
    device: int | None = None
    _gathered: _Gathered = field(default_factory=_Gathered)

    @property
    def marks(self) -> Mapping[str, Mark]:
        """By name in the directory, `.` being the directory itself, or by the absolute path of a
        directory on the way, what `stat` said of it."""
        return self._gathered.marks

    @property
    def busy(self) -> frozenset[str]:
        """The names that somebody had open for writing."""
        return frozenset(self._gathered.busy)

    @property
    def unstable(self) -> frozenset[str]:
        """The names that changed during the reading, as far as stat tells."""
        return frozenset(self._gathered.unstable)

    @property
    def unparsed(self) -> bool:
        """Whether its callbacks.conf is not parsed yet. Then the files that it names are not
        read."""
        return self._gathered.unparsed

    @property
    def retry(self) -> bool:
        """Whether to read again however alike it looks: a failure may pass without a trace."""
        return self._gathered.retry

    @property
    def links(self) -> tuple[str, ...]:
        """The names that are symbolic links."""
        return tuple(self._gathered.links)

    @property
    def needs_polling(self) -> bool:
        """Whether events do not tell of every change."""
        return self.kind is not Kind.LOCAL or self.retry or bool(self._gathered.remote)

    @property
    def size(self) -> int:
        """The bytes of all files that were read."""
        return self._gathered.size


class _Fault(Exception):
    """The directory cannot be read."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


def unchanged(snapshot: Snapshot) -> bool:
    """Whether the directory and its files still look as they did. Blocks."""
    return next(changed_names(snapshot), None) is None


def changed_names(snapshot: Snapshot) -> Iterator[str]:
    """The names, as `marks` has them, that do not look as they did. Blocks."""
    directory = snapshot.reading.directory
    local = snapshot.kind is Kind.LOCAL
    remote = snapshot._gathered.remote
    for name, mark in snapshot.marks.items():
        path = directory if name == "." else os.path.join(directory, name)
        # Directories on the way need not be readable.
        if _mark(path, (local and name not in remote) or name.startswith("/")) != mark:
            yield name


def gone(snapshot: Snapshot) -> frozenset[str]:
    """The names that were looked for and were not there, and are not there now, in the same
    directory. Blocks. A link that leads nowhere is there."""
    directory = snapshot.reading.directory
    if _mark(directory, snapshot.kind is Kind.LOCAL) != snapshot.marks.get("."):
        return frozenset()
    missing = set()
    for name, mark in snapshot.marks.items():
        answered()
        if mark == errno.ENOENT and not os.path.lexists(os.path.join(directory, name)):
            missing.add(name)
    return frozenset(missing)


def same_names(snapshot: Snapshot) -> bool:
    """Whether the files that were there still are, and those that were missing still are missing.
    Blocks."""
    directory = snapshot.reading.directory
    return all(
        (mark == errno.ENOENT) != os.path.lexists(os.path.join(directory, name))
        for name, mark in snapshot.marks.items()
        if name != "." and not name.startswith("/")
    )


def same_content(one: Snapshot, other: Snapshot) -> bool:
    """Whether two readings have the same bytes, none of which anybody was writing, and the same
    findings, whatever stat said."""
    return not one.busy and not other.busy and one.reading == other.reading


def still_written(snapshot: Snapshot) -> bool:
    """Whether one of the files that were open for writing still is. Blocks.

    Asks only until it finds one: its directory waits for all of them.
    """
    return any(
        _is_open_for_writing(os.path.join(snapshot.reading.directory, name))
        for name in sorted(snapshot.busy)
    )


def _is_open_for_writing(path: str) -> bool:
    answered()
    try:
        fd = os.open(path, _READ)
    except OSError as error:
        return error.errno == errno.EAGAIN
    try:
        return _being_written(fd)
    except OSError:
        return False
    finally:
        os.close(fd)


def silent(directory: str, before: Snapshot | None) -> Snapshot:
    """A reading that says only that the file system does not answer."""
    finding = Diagnostic(
        Severity.ERROR,
        "no-answer",
        directory,
        None,
        None,
        "its file system does not answer",
        "what was served is served until it does; look for its server, or unmount it",
    )
    marks = dict(before.marks) if before is not None else {}
    device = before.device if before is not None else None
    gathered = _Gathered(marks, retry=True)
    return Snapshot(Reading(directory, fault=finding), Kind.REMOTE, device, gathered)


def read(
    directory: str,
    before: Snapshot | None = None,
    also: frozenset[str] = frozenset(),
    kind: Kind = Kind.LOCAL,
    device: int | None = None,
    trust: Trust = NOBODY_ASKS,
    planner: Planner | None = None,
    elsewhere: int = 0,
) -> Snapshot:
    """What stands in a directory: its callbacks.conf, the files that it names, and those in `also`.

    Bytes that `before` has, and that did not change, are not read again. `kind` is that of its file
    system. `device` is that of the directory when its callbacks.conf was last there, where `before`
    does not know. `planner` parses callbacks.conf, or says that it is not parsed yet. `elsewhere`
    is how many bytes other directories have, of MAX_TOTAL_BYTES. Blocks. Every failure is a finding
    of this directory, none is raised.
    """
    if before is not None and before.device is not None:
        device = before.device
    reader = _Reader(directory, before, kind, trust, planner or _parse, elsewhere)
    gathered = reader.gathered
    try:
        reading = reader.whole(also, device)
    except Exception as error:
        if not isinstance(error, _Fault | OSError | MemoryError):
            return failed(directory, before, error)
        gathered.retry = True
        fault = reader.fault_of(error)
        place = (directory, None, None)
        finding = Diagnostic(Severity.ERROR, fault.code, *place, fault.message, fault.hint)
        reading = Reading(directory, fault=finding)
    if reading.plan is not None:
        device = reader.device
    return Snapshot(reading, kind, device, gathered)


def _parse(_: str, path: str, data: bytes, before: Plan | None) -> Plan:
    with computing():
        return callback.plan(data, path, before)


def failed(directory: str, before: Snapshot | None, error: Exception) -> Snapshot:
    """A reading that says only that an exception ended it, whatever raised it."""
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    finding = Diagnostic(
        Severity.ERROR,
        "internal-error",
        directory,
        None,
        None,
        f"this directory could not be read or judged: {shown(what)}",
        "what was served stays, and the agent tries again every second; where memory or threads"
        " are short, allow it more, else report this as a defect",
    )
    device = before.device if before is not None else None
    kind = before.kind if before is not None else Kind.LOCAL
    return Snapshot(Reading(directory, fault=finding), kind, device, _Gathered(retry=True))


def still(path: str, kind: Kind) -> Mark | None:
    """What tells whether one file changed, None while somebody has it open for writing. Blocks.

    Its bytes count, not its times: on some file systems those never stand still.
    """
    try:
        fd = os.open(path, _READ)
    except OSError as error:
        return None if error.errno == errno.EAGAIN else error.errno or errno.EIO
    try:
        if kind is not Kind.REMOTE and _being_written(fd):
            return None
        status = os.fstat(fd)
        fields = (status.st_dev, status.st_mode, status.st_uid, status.st_gid)
        if not stat.S_ISREG(status.st_mode):
            return fields
        digest = hashlib.sha256()
        while part := os.read(fd, 1 << 20):
            digest.update(part)
        return (*fields, int.from_bytes(digest.digest(), "big"))
    except OSError as error:
        return error.errno or errno.EIO
    finally:
        os.close(fd)


# Without O_NONBLOCK a pipe in the place of a file would keep us for ever.
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


def _mark(path: str, local: bool) -> Mark:
    answered()
    try:
        if local:
            status = os.stat(path)
            return _fields(status, acl.read(path, status) if _is_directory(status) else None)
        # A network file system asks its server at open; a bare stat comes from a cache.
        fd = os.open(path, _READ)
        try:
            status = os.fstat(fd)
            return _fields(status, acl.read(fd, status) if _is_directory(status) else None)
        finally:
            os.close(fd)
    except OSError as error:
        return error.errno or errno.EIO


def _is_directory(status: os.stat_result) -> bool:
    return stat.S_ISDIR(status.st_mode)


def _fields(s: os.stat_result, listed: bytes | None = None) -> tuple[int, ...]:
    """The mark of a file, or of a directory with its ACL."""
    if _is_directory(s):
        # What else stands in the directory does not matter: an editor's droppings are no edit. So
        # its ctime cannot tell of a changed ACL.
        return s.st_dev, s.st_ino, s.st_mode, s.st_uid, s.st_gid, hash(listed)
    return (
        *(s.st_dev, s.st_ino, s.st_mode, s.st_uid, s.st_gid),
        *(s.st_size, s.st_mtime_ns, s.st_ctime_ns),
    )


class _TooBig(Exception):
    """The files have more bytes together than are read."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class _Reader:
    """One reading under way."""

    def __init__(
        self,
        directory: str,
        before: Snapshot | None,
        kind: Kind,
        trust: Trust,
        planner: Planner,
        elsewhere: int,
    ) -> None:
        self.directory = directory
        self.before = before
        self.kind = kind
        self.trust = trust
        self.planner = planner
        self.way = Way(trust)
        self.gathered = _Gathered()
        self.device = 0
        #: By device, the kind of the file systems that links lead to.
        self.kinds: dict[int, Kind] = {}
        #: Why there is a callbacks.conf that cannot be read.
        self.lost: Diagnostic | None = None
        self.now = time.monotonic()
        self.elsewhere = elsewhere

    def whole(self, also: frozenset[str], device: int | None) -> Reading:
        """Read all of it. Raises _Fault, and OSError where the directory itself fails."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK | os.O_CLOEXEC
        gathered = self.gathered
        # Where it cannot be opened, this stays: what `stat` says is what `unchanged` asks for.
        gathered.marks["."] = _mark(self.directory, self.kind is Kind.LOCAL)
        with self.way:
            fd = self._open(".", self.directory, flags, None)
            try:
                status = os.fstat(fd)
                self.device = status.st_dev
                self.kinds[status.st_dev] = self.kind
                listed = acl.read(fd, status)
                gathered.marks["."] = _fields(status, listed)
                self._judge(".", self.directory, status, listed)
                plan = self._plan(fd)
                gone = plan is None and self.lost is None and not gathered.unparsed
                if gone and device is not None and device != status.st_dev:
                    raise _Fault(
                        "unmounted",
                        f"there is no {CONF}, and {shown(self.directory)} is on another file"
                        " system than before: it counts as unmounted",
                        "mount it again; what was served is served until then",
                    )
                names = dict.fromkeys(plan.files() if plan else ())
                names |= dict.fromkeys(sorted(also))
                try:
                    if self.before is not None and self.before._gathered.too_big:
                        # Ask before reading it all once more.
                        self._check_size(gathered.size + self._size_on_disk(fd, names))
                    files = {name: self._file(fd, name) for name in names}
                except _TooBig as error:
                    return self._too_big(error, fd, names)
                hints = self._hints(fd, plan, gone, files)
            finally:
                os.close(fd)
        findings = tuple(self._unsafe_findings())
        if plan is not None and (self._refused(".") or self._refused(CONF)):
            return Reading(self.directory, None, None, files, callback.UNSAFE, findings)
        if self.lost is not None:
            # What was removed is believed all the same.
            findings = (*findings, self.lost)
            return Reading(self.directory, None, None, files, callback.FAULT, findings)
        return Reading(self.directory, None, plan, files, None, findings, hints)

    def _hints(
        self,
        fd: int,
        plan: Plan | None,
        conf_gone: bool,
        files: Mapping[str, Implementation | Absent | Unusable],
    ) -> dict[str, str]:
        """Names that are there and look like those that are missing. They are no part of what
        was asked for, so a failure to list them is passed over."""
        missing = [n for n in (plan.files() if plan else ()) if isinstance(files[n], Absent)]
        if not missing and not conf_gone:
            return {}
        try:
            with os.scandir(fd) as entries:
                names = [entry.name for entry in islice(entries, MAX_LISTED)]
        except OSError:
            return {}
        return alike.hints(missing, CONF if conf_gone else None, sorted(names))

    def _too_big(self, error: _TooBig, fd: int, names: Iterable[str]) -> Reading:
        """The reading of a directory with too many bytes: nothing of it, except what is absent."""
        gathered = self.gathered
        gathered.implementations.clear()
        gathered.seen.clear()
        gathered.size, gathered.too_big = 0, True
        # Other directories may shrink.
        gathered.retry = True
        self._size_on_disk(fd, names)
        files: dict[str, Implementation | Absent | Unusable] = {
            name: Absent()
            for name in names
            if gathered.marks[name] == errno.ENOENT and name not in gathered.links
        }
        path = f"{self.directory}/{CONF}"
        hint = "make the files smaller, or remove lines"
        finding = Diagnostic(Severity.ERROR, "unit-too-big", path, None, None, error.message, hint)
        findings = (*self._unsafe_findings(), finding)
        return Reading(self.directory, None, None, files, callback.ERROR, findings)

    def _size_on_disk(self, fd: int, names: Iterable[str]) -> int:
        """The bytes of these files as stat gives them. Notes how they look."""
        size = 0
        for name in names:
            answered()
            try:
                status = os.stat(name, dir_fd=fd)
                size += status.st_size
                self.gathered.marks[name] = _fields(status)
            except OSError as error:
                self.gathered.marks[name] = error.errno or errno.EIO
        return size

    def _open(self, name: str, path: str, flags: int, at: int | None) -> int:
        """Open a path, noting what others may change on the way. Raises OSError."""
        if self.trust.mode == IGNORE:
            return os.open(path, flags, dir_fd=at)
        if at is not None and name not in self.gathered.links:
            return os.open(path, flags | os.O_NOFOLLOW, dir_fd=at)
        with self._noting(name):
            return self.way.open(path, flags, at, self.directory)

    @contextmanager
    def _noting(self, name: str) -> Iterator[None]:
        """Note what is found on a way to a name."""
        try:
            yield
        finally:
            self._note(name, self.way.unsafe)
            for where, found in self.way.passed.items():
                self.gathered.marks.setdefault(where, _fields(*found))
            self.way.passed.clear()

    def _note(self, name: str, found: Iterable[Unsafe]) -> None:
        unsafe = self.gathered.unsafe[name] = tuple(found)
        # The user database may answer later.
        self.gathered.retry = self.gathered.retry or any(wrong.unknown for wrong in unsafe)

    def _judge(self, name: str, path: str, status: os.stat_result, listed: bytes | None) -> None:
        """Note whether others may change an open file or directory."""
        if self.trust.mode != IGNORE:
            wrong = self.trust.judge(path, status, listed)
            if wrong is not None:
                self._note(name, (*self.gathered.unsafe.get(name, ()), wrong))

    def _refused(self, name: str) -> bool:
        return self.trust.mode == REFUSE and bool(self.gathered.unsafe.get(name))

    def _unsafe_findings(self) -> Iterator[Diagnostic]:
        """What others may change: of the directory and its conf as errors, where that is refused.
        An implementation that is refused is told of at its line."""
        told = set()
        for name, unsafe in self.gathered.unsafe.items():
            severity = Severity.ERROR if self.trust.mode == REFUSE else Severity.WARNING
            if severity is Severity.ERROR and name not in (".", CONF):
                continue
            for wrong in unsafe:
                if wrong.path not in told:
                    told.add(wrong.path)
                    yield Diagnostic(
                        severity, "unsafe", wrong.path, None, None, wrong.message, wrong.hint
                    )

    def fault_of(self, error: _Fault | OSError | MemoryError) -> _Fault:
        """Why the directory cannot be read."""
        if isinstance(error, _Fault):
            return error
        quoted = shown(self.directory)
        if isinstance(error, MemoryError):
            message = f"there was not enough memory to read {quoted}"
            return _Fault("out-of-resources", message, _RETRIED)
        number = error.errno or errno.EIO
        if number in _OUT_OF_RESOURCES:
            return _Fault(
                "out-of-resources", f"{os.strerror(number)} when opening {quoted}", _RETRIED
            )
        if number == errno.ENOENT and os.path.islink(self.directory):
            message = f"{quoted} is a link that leads nowhere"
            return _Fault("dangling-link", message, "correct the link, or what it leads to")
        if number == errno.ENOTDIR:
            quoted = shown(_not_a_directory(self.directory))
        hints = {
            errno.ENOENT: ("missing", "there is no directory", "make it, or mount it"),
            errno.ENOTDIR: ("not-a-directory", "this is no directory:", "put a directory there"),
            errno.ELOOP: ("dangling-link", "too many links lead on from", "correct the links"),
            errno.EACCES: ("unreadable", "the agent may not read", "let the agent's user read it"),
        }
        default = ("unreadable", f"{os.strerror(number)} when opening", _RETRIED)
        code, message, hint = hints.get(number, default)
        return _Fault(code, f"{message} {quoted}", hint)

    def _plan(self, fd: int) -> Plan | None:
        """What callbacks.conf says; None where there is none, or, with `lost`, where it cannot be
        read. Raises _Fault."""
        path = f"{self.directory}/{CONF}"
        found = self._bytes(fd, CONF, callback.MAX_CONF_BYTES)
        if isinstance(found, Absent):
            return None
        if isinstance(found, Unusable):
            if found.problem.code == "too-big":
                return callback.unreadable(path, found.problem)
            self.lost = replace(found.problem, hint=found.problem.hint or _RETRIED).at(path)
            self.gathered.retry = True
            return None
        self.gathered.conf = found
        last = self.before.reading.plan if self.before else None
        if last is not None and self.before is not None and self.before._gathered.conf == found:
            return last
        plan = self.planner(self.directory, path, found, last)
        self.gathered.unparsed = plan is None
        return plan

    def _file(self, fd: int, name: str) -> Implementation | Absent | Unusable:
        found = self._bytes(fd, name, callback.MAX_CODE_BYTES)
        if not isinstance(found, bytes):
            return found
        implementation = self.before._gathered.implementations.get(name) if self.before else None
        if implementation is None or implementation.code != found:
            implementation = Implementation.of(found)
        self.gathered.implementations[name] = implementation
        if self._refused(name):
            wrong = self.gathered.unsafe[name][0]
            return Unusable(Problem("unsafe", wrong.message, wrong.hint), callback.UNSAFE)
        return implementation

    def _bytes(self, directory: int, name: str, most: int) -> bytes | Absent | Unusable:
        """The bytes of one file, as they were read now or, if it did not change, before."""
        answered()
        at, last = directory, name
        try:
            status = os.lstat(name, dir_fd=directory)
            if stat.S_ISLNK(status.st_mode):
                self.gathered.links[name] = None
                if self.trust.mode == IGNORE:
                    status = os.stat(name, dir_fd=directory)
                else:
                    with self._noting(name):
                        at, last, status = self.way.find(name, directory, self.directory)
            if self.kind is Kind.LOCAL:
                mark = self.gathered.marks[name] = _fields(status)
                if self.kinds.get(status.st_dev) is Kind.LOCAL and self._believed(name, mark):
                    return self._known(name)
            follow = 0 if self.trust.mode == IGNORE else os.O_NOFOLLOW
            fd = os.open(last, _READ | follow, dir_fd=at)
        except OSError as error:
            return self._failed(name, error)
        try:
            return self._open_file(fd, name, most)
        except OSError as error:
            return self._failed(name, error)
        finally:
            os.close(fd)

    def _believed(self, name: str, mark: Mark) -> bool:
        """Whether a file with this mark still has the bytes that it had at the last reading."""
        before = self.before
        if before is None or before.marks.get(name) != mark:
            return False
        last = before._gathered
        if name not in last.seen or name in last.busy or name in last.unstable:
            # Half a file that somebody is still writing looks the same until they go on.
            return False
        if name != CONF and name not in last.implementations:
            return False
        if name == CONF and before.reading.plan is None:
            return False
        if self.trust.mode != IGNORE and isinstance(mark, tuple):
            # A user may have joined or left the trusted group; and what is unsafe on the way of a
            # link is found again.
            if not self.trust.owner(mark[_UID]):
                return False
            if last.unsafe.get(name) and (self.trust.groups or name in self.gathered.links):
                return False
        first_seen, read = last.seen[name]
        return read - first_seen >= TRUST

    def _known(self, name: str) -> bytes:
        assert self.before is not None
        last = self.before._gathered
        self.gathered.seen[name] = last.seen[name]
        if name in last.unsafe and name not in self.gathered.links:
            self.gathered.unsafe[name] = last.unsafe[name]
        code = last.conf if name == CONF else last.implementations[name].code
        self._count(len(code))
        return code

    def _count(self, size: int) -> None:
        """Count bytes that this reading keeps. Raises _TooBig."""
        self.gathered.size += size
        self._check_size(self.gathered.size)

    def _check_size(self, size: int) -> None:
        if size > MAX_UNIT_BYTES:
            raise _TooBig(
                f"{CONF} and the files that it names have more than {MAX_UNIT_BYTES >> 20} MiB"
                " together; no more are read of one directory"
            )
        if size + self.elsewhere > MAX_TOTAL_BYTES:
            raise _TooBig(
                f"all callback directories have more than {MAX_TOTAL_BYTES >> 20} MiB together with"
                " this one; no more are read"
            )

    def _kind_of(self, fd: int, device: int) -> Kind:
        """The kind of file system of an open file. A link may lead to another one."""
        if device not in self.kinds:
            self.kinds[device] = filesystem.of(fd)
        return self.kinds[device]

    def _open_file(self, fd: int, name: str, most: int) -> bytes | Unusable:
        gathered = self.gathered
        first = os.fstat(fd)
        mark = gathered.marks[name] = _fields(first)
        if not stat.S_ISREG(first.st_mode):
            return _not_regular(name)
        self._judge(name, f"{self.directory}/{name}", first, acl.read(fd, first))
        kind = self._kind_of(fd, first.st_dev)
        if kind is not Kind.LOCAL:
            gathered.remote.add(name)
            if self._believed(name, mark):
                return self._known(name)
        if first.st_size > most:
            return _too_big(name, f"has {first.st_size} bytes", most)
        before = self.before
        seen = before._gathered.seen.get(name) if before is not None else None
        same = before is not None and before.marks.get(name) == mark
        gathered.seen[name] = (seen[0] if seen and same else self.now, self.now)
        lease = kind is not Kind.REMOTE
        if lease and _being_written(fd):
            gathered.busy.add(name)
        self._count(first.st_size)
        data = bytearray()
        while len(data) <= most and (part := os.read(fd, most + 1 - len(data))):
            data += part
        self._count(len(data) - first.st_size)
        if len(data) != first.st_size or _fields(os.fstat(fd)) != mark:
            gathered.unstable.add(name)
        if lease and _being_written(fd):
            gathered.busy.add(name)
        if len(data) > most:
            return _too_big(name, "has more bytes than stat says", most)
        return bytes(data)

    def _failed(self, name: str, error: OSError) -> Absent | Unusable:
        number = error.errno or errno.EIO
        gathered = self.gathered
        # One that `stat` can see and nobody can read keeps that mark: `unchanged` asks for it.
        gathered.marks.setdefault(name, number)
        quoted = shown(name)
        is_link = name in gathered.links
        if number == errno.EAGAIN or (number == errno.ELOOP and not is_link):
            # Another process holds a write lease; or a link took the file's place just now.
            gathered.busy.add(name)
            message = f"{quoted} is open for writing"
            problem = Problem("being-written", message, _RETRIED)
            return Unusable(problem, callback.BEING_WRITTEN)
        if number in (errno.ENOENT, errno.ENAMETOOLONG) and not is_link:
            return Absent()
        if number in _LEADS_NOWHERE and is_link:
            message = f"{quoted} is a link that leads nowhere"
            hint = "correct the link, or what it leads to"
            return Unusable(Problem("dangling-link", message, hint), callback.FAULT)
        gathered.retry = True
        if number == errno.EOVERFLOW:
            return _too_big(name, "is too large for this system", callback.MAX_CODE_BYTES)
        if number in (errno.ENXIO, errno.ENODEV) and not _is_regular(gathered.marks.get(name)):
            # A socket, or a device without a driver.
            return _not_regular(name)
        if number == errno.EACCES:
            message = f"the agent may not read {quoted}"
            return Unusable(Problem("unreadable", message, "let the agent's user read it"))
        if number in _OUT_OF_RESOURCES:
            message = f"{os.strerror(number)} when reading {shown(self.directory)}"
            raise _Fault("out-of-resources", message, _RETRIED)
        message = f"{os.strerror(number)} when reading {quoted}"
        return Unusable(Problem("unreadable", message, _RETRIED), callback.FAULT)


#: Where the fields of a mark are, as `_fields` has them.
_MODE, _UID = 2, 3

_LEADS_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def _is_regular(mark: Mark | None) -> bool:
    """Whether a mark is of a regular file. Without `stat` nobody knows; then it is not."""
    return isinstance(mark, tuple) and stat.S_ISREG(mark[_MODE])


def _not_regular(name: str) -> Unusable:
    message = f"{shown(name)} is no regular file"
    return Unusable(Problem("not-a-regular-file", message, "put a regular file there"))


def _too_big(name: str, size: str, most: int) -> Unusable:
    message = f"{shown(name)} {size}; at most {most} are read"
    return Unusable(Problem("too-big", message, "make it smaller"))


def _not_a_directory(path: str) -> str:
    """Which part of a path is not a directory: the path itself or the first above it. Blocks."""
    parts = path.split("/")
    for count in range(2, len(parts)):
        above = "/".join(parts[:count])
        if os.path.exists(above) and not os.path.isdir(above):
            return above
    return path


_RETRIED = "the agent tries again by itself"


def _being_written(fd: int) -> bool:
    """Whether anyone has the file open for writing, as far as the kernel tells us. Raises OSError
    where there is not enough memory to ask."""
    if sys.platform != "linux" or signal.getsignal(signal.SIGIO) is signal.SIG_DFL:
        return False
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno in _OUT_OF_RESOURCES:
            raise
        # Another's file (EACCES), or a file system without leases (EINVAL and others): the quiet
        # time decides.
        return False
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False
