"""Reads one callback directory as it stands on disk at one instant.

What must never happen is that a part of an edit is taken for the whole of it. So:

- Everything is read through one descriptor of the directory: a link that is switched meanwhile
  cannot mix two directories.
- Nothing that somebody has open for writing is read as finished. On Linux a read lease tells: the
  kernel refuses it while anyone has the file open for writing. It is dropped at once, since a lease
  that is held makes writers wait, and asked for again after the read. The kernel sends SIGIO to the
  holder of a lease when a writer comes, which by default kills; so the lease is asked for only
  where SIGIO is ignored.
- Where no lease can be had (another's file, not Linux) or where it proves nothing (network file
  systems; FUSE grants it while the underlying file is written), the file must look alike, by
  fstat, before and after the read and one quiet time later.
- All of it must look alike one quiet time later (`unchanged`). Then what was read stood on disk
  together in between, and changes that come less than a quiet time apart are one edit.

Nothing stays open between readings: that would keep a file system from being unmounted.

A stat is trusted to mean `the same bytes` only if the bytes were read at least TRUST seconds after
it was first seen: before Linux 6.13, two writes in one tick of the clock look alike. Only the
monotonic clock counts: that of a file server may be another, and any other may jump.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from agent import alike, callback
from agent.callback import CONF, Absent, Implementation, Plan, Reading, Unusable
from agent.finding import Finding, Severity, printable, shown
from agent.patience import answered, computing
from agent.trust import IGNORE, REFUSE, Trust, Unsafe, Way

if sys.platform == "linux":
    import fcntl

#: Seconds without a change that make an edit a finished one. Several files that are written by
#: one command follow each other within 1 ms; a person's next edit takes far longer.
QUIET = 0.005

#: Seconds after which a stat that says `unchanged` is believed. See the module's text.
TRUST = 2.0

#: File systems of this machine alone, on which the kernel tells of every change. On any other,
#: changes made elsewhere give no event, a lease proves nothing and a bare stat may be stale.
LOCAL = frozenset(
    {
        *("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "reiserfs", "bcachefs"),
        *("tmpfs", "devtmpfs", "ramfs", "rootfs", "overlay", "vfat", "exfat", "ntfs3"),
        *("squashfs", "erofs", "iso9660", "udf", "apfs", "hfs"),
    }
)

#: The most names of a directory that are looked through for one like a missing file's.
MAX_LISTED = 10_000

#: Who may change the files is not looked at.
NOBODY_ASKS = Trust(IGNORE)

#: Gives the plan of a callbacks.conf. Takes the directory, the file's path, its bytes, and an older
#: plan of it. None while it is being parsed elsewhere.
Planner = Callable[[str, str, bytes, Plan | None], Plan | None]

#: What `stat` says of a path: an errno where it fails, so that `gone` and `not readable` differ.
Mark = tuple[int, ...] | int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One reading of a directory, and what tells whether it still holds."""

    reading: Reading
    #: By name in the directory, `.` being the directory itself, or by the absolute path of a
    #: directory that was passed on the way.
    marks: Mapping[str, Mark]
    #: Whether this is a file system of this machine alone.
    local: bool = True
    #: The device of the directory when its callbacks.conf was last there.
    device: int | None = None
    #: Whether somebody is writing, or wrote while we read.
    busy: bool = False
    #: Whether its callbacks.conf is not parsed yet. Then the files that it names are not read.
    unparsed: bool = False
    #: Whether to read again however alike it looks: a failure may pass without a trace.
    retry: bool = False
    #: The names that are symbolic links.
    links: tuple[str, ...] = ()
    #: By name of a file that was read: when it was first seen to look as it does, and when its
    #: bytes were read, in monotonic seconds.
    seen: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    _conf: bytes = b""
    _impls: Mapping[str, Implementation] = field(default_factory=dict)
    #: By name, what others may change.
    _unsafe: Mapping[str, tuple[Unsafe, ...]] = field(default_factory=dict)


class _Fault(Exception):
    """The directory cannot be read."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


def unchanged(snapshot: Snapshot) -> bool:
    """Whether the directory and its files still look as they did. Blocks."""
    directory = snapshot.reading.directory
    return all(
        _mark(
            directory if name == "." else os.path.join(directory, name),
            # Directories on the way need not be readable.
            snapshot.local or name.startswith("/"),
        )
        == mark
        for name, mark in snapshot.marks.items()
    )


def gone(snapshot: Snapshot) -> frozenset[str]:
    """The names that were looked for and were not there, and are not there now, in the same
    directory. Blocks. A link that leads nowhere is there."""
    directory = snapshot.reading.directory
    if _mark(directory, snapshot.local) != snapshot.marks.get("."):
        return frozenset()
    missing = set()
    for name, mark in snapshot.marks.items():
        answered()
        if mark == errno.ENOENT and not os.path.lexists(os.path.join(directory, name)):
            missing.add(name)
    return frozenset(missing)


def silent(directory: str, before: Snapshot | None) -> Snapshot:
    """A reading that says only that the file system does not answer."""
    finding = Finding(
        Severity.ERROR,
        "no-answer",
        directory,
        None,
        None,
        "its file system does not answer",
        "what was served is served until it does; look for its server, or unmount it",
    )
    marks = before.marks if before is not None else {}
    device = before.device if before is not None else None
    return Snapshot(Reading(directory, fault=finding), marks, False, device, retry=True)


def read(
    directory: str,
    before: Snapshot | None = None,
    also: frozenset[str] = frozenset(),
    local: bool = True,
    device: int | None = None,
    trust: Trust = NOBODY_ASKS,
    planner: Planner | None = None,
) -> Snapshot:
    """What stands in a directory: its callbacks.conf, the files that it names, and those in `also`.

    Bytes that `before` has, and that did not change, are not read again. `device` is that of the
    directory when its callbacks.conf was last there, where `before` does not know. `planner` parses
    callbacks.conf, or says that it is not parsed yet. Blocks. Every failure of the file system is a
    finding, none is raised.
    """
    if before is not None and before.device is not None:
        device = before.device
    reader = _Reader(directory, before, local, trust, planner or _parse)
    try:
        reading = reader.whole(also, device)
    except (_Fault, OSError) as error:
        fault = error if isinstance(error, _Fault) else reader.directory_fault(error)
        place = (directory, None, None)
        finding = Finding(Severity.ERROR, fault.code, *place, fault.message, fault.hint)
        reading = Reading(directory, fault=finding)
        reader.retry = True
    if reading.plan is not None:
        device = reader.device
    return Snapshot(
        reading,
        reader.marks,
        local,
        device,
        reader.busy,
        reader.unparsed,
        reader.retry,
        tuple(reader.links),
        reader.seen,
        reader.conf,
        reader.implementations,
        reader.unsafe,
    )


def _parse(_: str, path: str, data: bytes, before: Plan | None) -> Plan:
    with computing():
        return callback.plan(data, path, before)


def failed(directory: str, before: Snapshot | None, error: Exception) -> Snapshot:
    """A reading that says only that an exception ended it, whatever raised it."""
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    finding = Finding(
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
    local = before.local if before is not None else True
    return Snapshot(Reading(directory, fault=finding), {}, local, device, retry=True)


def still(path: str, local: bool) -> Mark | None:
    """What `stat` says of one file, None while somebody has it open for writing. Blocks."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        return error.errno or errno.EIO
    try:
        return None if local and _being_written(fd) else _fields(os.fstat(fd))
    except OSError as error:
        return error.errno or errno.EIO
    finally:
        os.close(fd)


def _mark(path: str, local: bool) -> Mark:
    answered()
    try:
        if local:
            return _fields(os.stat(path))
        # A network file system asks its server at open; a bare stat comes from a cache.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return _fields(os.fstat(fd))
        finally:
            os.close(fd)
    except OSError as error:
        return error.errno or errno.EIO


def _fields(s: os.stat_result) -> Mark:
    if stat.S_ISDIR(s.st_mode):
        # What else stands in the directory does not matter: an editor's droppings are no edit.
        return s.st_dev, s.st_ino, s.st_mode, s.st_uid, s.st_gid
    return (
        *(s.st_dev, s.st_ino, s.st_mode, s.st_uid, s.st_gid),
        *(s.st_size, s.st_mtime_ns, s.st_ctime_ns),
    )


class _Reader:
    """One reading under way."""

    def __init__(
        self,
        directory: str,
        before: Snapshot | None,
        local: bool,
        trust: Trust,
        planner: Planner,
    ) -> None:
        self.directory = directory
        self.before = before
        self.local = local
        self.trust = trust
        self.planner = planner
        self.unparsed = False
        self.unsafe: dict[str, tuple[Unsafe, ...]] = {}
        self.marks: dict[str, Mark] = {}
        self.links: list[str] = []
        self.implementations: dict[str, Implementation] = {}
        self.conf = b""
        self.busy = False
        self.retry = False
        self.device = 0
        #: Why there is a callbacks.conf that cannot be read.
        self.lost: Finding | None = None
        self.seen: dict[str, tuple[float, float]] = {}
        self.now = time.monotonic()

    def whole(self, also: frozenset[str], device: int | None) -> Reading:
        """Read all of it. Raises _Fault, and OSError where the directory itself fails."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK | os.O_CLOEXEC
        # Where it cannot be opened, this stays: what `stat` says is what `unchanged` asks for.
        self.marks["."] = _mark(self.directory, self.local)
        fd = self._open(".", self.directory, flags, None)
        try:
            status = os.fstat(fd)
            self.device = status.st_dev
            self.marks["."] = _fields(status)
            self._judge(".", self.directory, status)
            plan = self._plan(fd)
            gone = plan is None and self.lost is None and not self.unparsed
            if gone and device is not None and device != status.st_dev:
                raise _Fault(
                    "unmounted",
                    f"there is no {CONF}, and {printable(self.directory)} is on another file"
                    " system than before: it counts as unmounted",
                    "mount it again; what was served is served until then",
                )
            names = dict.fromkeys(plan.files() if plan else ())
            names |= dict.fromkeys(sorted(also))
            files = {name: self._file(fd, name) for name in names}
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

    def _open(self, name: str, path: str, flags: int, at: int | None) -> int:
        """Open a path, noting what others may change on the way. Raises OSError."""
        if self.trust.mode == IGNORE:
            return os.open(path, flags, dir_fd=at)
        if at is not None and name not in self.links:
            return os.open(path, flags | os.O_NOFOLLOW, dir_fd=at)
        way = Way(self.trust)
        try:
            return way.open(path, flags, at, self.directory)
        finally:
            self.unsafe[name] = tuple(way.unsafe)
            self.marks |= {where: _fields(status) for where, status in way.passed.items()}

    def _judge(self, name: str, path: str, status: os.stat_result) -> None:
        """Note whether others may change an open file or directory."""
        if self.trust.mode != IGNORE and (wrong := self.trust.judge(path, status)) is not None:
            self.unsafe[name] = (*self.unsafe.get(name, ()), wrong)

    def _refused(self, name: str) -> bool:
        return self.trust.mode == REFUSE and bool(self.unsafe.get(name))

    def _unsafe_findings(self) -> Iterator[Finding]:
        """What others may change: of the directory and its conf as errors, where that is refused.
        An implementation that is refused is told of at its line."""
        told = set()
        for name, unsafe in self.unsafe.items():
            severity = Severity.ERROR if self.trust.mode == REFUSE else Severity.WARNING
            if severity is Severity.ERROR and name not in (".", CONF):
                continue
            for wrong in unsafe:
                if wrong.path not in told:
                    told.add(wrong.path)
                    yield Finding(
                        severity, "unsafe", wrong.path, None, None, wrong.message, wrong.hint
                    )

    def directory_fault(self, error: OSError) -> _Fault:
        """Why the directory itself cannot be opened or asked."""
        quoted = shown(self.directory)
        if error.errno == errno.ENOENT and os.path.islink(self.directory):
            message = f"{quoted} is a link that leads nowhere"
            return _Fault("dangling-link", message, "correct the link, or what it leads to")
        hints = {
            errno.ENOENT: ("missing", "there is no directory", "make it, or mount it"),
            errno.ENOTDIR: ("not-a-directory", "this is no directory:", "put a directory there"),
            errno.ELOOP: ("dangling-link", "too many links lead on from", "correct the links"),
            errno.EACCES: ("unreadable", "the agent may not read", "let the agent's user read it"),
        }
        default = ("unreadable", f"{os.strerror(error.errno or errno.EIO)} when opening", _RETRIED)
        code, message, hint = hints.get(error.errno or 0, default)
        return _Fault(code, f"{message} {quoted}", hint)

    def _plan(self, fd: int) -> Plan | None:
        """What callbacks.conf says; None where there is none, or, with `lost`, where it cannot be
        read. Raises _Fault."""
        path = f"{self.directory}/{CONF}"
        found = self._bytes(fd, CONF, callback.MAX_CONF_BYTES)
        if isinstance(found, Absent):
            return None
        if isinstance(found, Unusable):
            if found.code == "too-big":
                return callback.unreadable(path, found.code, found.message, found.hint or "")
            hint = found.hint or _RETRIED
            self.lost = Finding(Severity.ERROR, found.code, path, None, None, found.message, hint)
            self.retry = True
            return None
        self.conf = found
        last = self.before.reading.plan if self.before else None
        if last is not None and self.before is not None and self.before._conf == found:
            return last
        plan = self.planner(self.directory, path, found, last)
        self.unparsed = plan is None
        return plan

    def _file(self, fd: int, name: str) -> Implementation | Absent | Unusable:
        found = self._bytes(fd, name, callback.MAX_CODE_BYTES)
        if not isinstance(found, bytes):
            return found
        implementation = self.before._impls.get(name) if self.before else None
        if implementation is None or implementation.code != found:
            implementation = Implementation.of(found)
        self.implementations[name] = implementation
        if self._refused(name):
            wrong = self.unsafe[name][0]
            return Unusable("unsafe", wrong.message, wrong.hint, callback.UNSAFE)
        return implementation

    def _bytes(self, directory: int, name: str, most: int) -> bytes | Absent | Unusable:
        """The bytes of one file, as they were read now or, if it did not change, before."""
        answered()
        try:
            if stat.S_ISLNK(os.lstat(name, dir_fd=directory).st_mode):
                self.links.append(name)
            mark = _fields(os.stat(name, dir_fd=directory)) if self.local else None
        except OSError as error:
            return self._failed(name, error)
        if mark is not None:
            self.marks[name] = mark
            if self._believed(name, mark):
                return self._known(name)
        try:
            # Without O_NONBLOCK a pipe in the place of a file would keep us for ever.
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
            fd = self._open(name, name, flags, directory)
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
        if before is None or before.marks.get(name) != mark or name not in before.seen:
            return False
        if before.busy:
            # Half a file that somebody is still writing looks the same until he goes on.
            return False
        if name != CONF and name not in before._impls:
            return False
        if name == CONF and before.reading.plan is None:
            return False
        if self.trust.mode != IGNORE and name in self.links:
            # Others may have come to own what the link leads over.
            return False
        first_seen, read = before.seen[name]
        return read - first_seen >= TRUST

    def _known(self, name: str) -> bytes:
        assert self.before is not None
        self.seen[name] = self.before.seen[name]
        if name in self.before._unsafe:
            self.unsafe[name] = self.before._unsafe[name]
        return self.before._conf if name == CONF else self.before._impls[name].code

    def _open_file(self, fd: int, name: str, most: int) -> bytes | Unusable:
        first = os.fstat(fd)
        mark = self.marks[name] = _fields(first)
        self._judge(name, f"{self.directory}/{name}", first)
        if not stat.S_ISREG(first.st_mode):
            return Unusable(
                "not-a-regular-file",
                f"{printable(name)} is no regular file",
                "put a regular file there",
            )
        if not self.local and self._believed(name, mark):
            return self._known(name)
        if first.st_size > most:
            return Unusable(
                "too-big",
                f"{printable(name)} has {first.st_size} bytes; at most {most} are read",
                "make it smaller",
            )
        before = self.before
        same = before is not None and before.marks.get(name) == mark and name in before.seen
        self.seen[name] = (before.seen[name][0] if before and same else self.now, self.now)
        self.busy = self.busy or (self.local and _being_written(fd))
        data = bytearray()
        while len(data) <= most and (part := os.read(fd, most + 1 - len(data))):
            data += part
        if len(data) != first.st_size or _fields(os.fstat(fd)) != mark:
            self.busy = True
        self.busy = self.busy or (self.local and _being_written(fd))
        return bytes(data)

    def _failed(self, name: str, error: OSError) -> Absent | Unusable:
        number = error.errno or errno.EIO
        # One that `stat` can see and nobody can read keeps that mark: `unchanged` asks for it.
        self.marks.setdefault(name, number)
        quoted = shown(name)
        if number in (errno.ENOENT, errno.ELOOP):
            if name not in self.links:
                return Absent()
            message = f"{quoted} is a link that leads nowhere"
            hint = "correct the link, or what it leads to"
            return Unusable("dangling-link", message, hint, callback.FAULT)
        if number == errno.ENAMETOOLONG:
            return Absent()
        self.retry = True
        if number == errno.ENXIO:
            message = f"{quoted} is no regular file"
            return Unusable("not-a-regular-file", message, "put a regular file there")
        if number == errno.EACCES:
            message = f"the agent may not read {quoted}"
            return Unusable("unreadable", message, "let the agent's user read it")
        if number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            message = f"{os.strerror(number)} when reading {printable(self.directory)}"
            raise _Fault("out-of-resources", message, _RETRIED)
        message = f"{os.strerror(number)} when reading {quoted}"
        return Unusable("unreadable", message, _RETRIED, callback.FAULT)


_RETRIED = "the agent tries again by itself"


def _being_written(fd: int) -> bool:
    """Whether anyone has the file open for writing, as far as the kernel tells us."""
    if sys.platform != "linux" or signal.getsignal(signal.SIGIO) is signal.SIG_DFL:
        return False
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return True
    except OSError:
        # Another's file, or a file system without leases: the quiet time decides.
        return False
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False
