"""One reading of a directory, and what shows later whether it is still valid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.core.diagnostic import Problem
from agent.core.quoting import shown
from agent.core.unit import CONF, Implementation, Reading
from agent.disk import fingerprint
from agent.disk.filesystems import Kind
from agent.disk.fingerprint import STAT_TRUST_AGE, Fingerprint
from agent.disk.permissions import IGNORE, Trust, Unsafe


@dataclass(slots=True)
class Details:
    """What a reading records besides its result. It is filled while the directory is read."""

    #: By name in the directory, `.` for the directory itself, or by the absolute path of a
    #: directory on the path to it.
    fingerprints: dict[str, Fingerprint] = field(default_factory=dict)
    #: The names that are open for writing.
    busy: set[str] = field(default_factory=set)
    #: The names whose size or fingerprint changed during the reading.
    unstable: set[str] = field(default_factory=set)
    #: The names that are symbolic links, in the order of the reading.
    links: dict[str, None] = field(default_factory=dict)
    #: The names on a file system where stat may be stale and events are not complete.
    remote: set[str] = field(default_factory=set)
    #: By name of a file that was read: when its fingerprint was first seen, and when its bytes were
    #: read, in monotonic seconds.
    seen: dict[str, tuple[float, float]] = field(default_factory=dict)
    conf: bytes = b""
    implementations: dict[str, Implementation] = field(default_factory=dict)
    #: By name, what untrusted users may change.
    unsafe: dict[str, tuple[Unsafe, ...]] = field(default_factory=dict)
    #: Whether to read again even if all fingerprints are equal: a failure may end without a change.
    retry: bool = False
    #: The bytes of all files that were read.
    size: int = 0
    #: Whether callbacks.conf is not parsed yet. Then the files that it names are not read.
    unparsed: bool = False
    #: Whether the reading was ended because the files are too large.
    too_big: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One reading of a directory, and what shows whether it is still valid."""

    reading: Reading
    #: The kind of the file system that the directory is on.
    kind: Kind = Kind.LOCAL
    #: The device of the directory when its callbacks.conf was last there.
    device: int | None = None
    details: Details = field(default_factory=Details)

    @classmethod
    def stalled(cls, directory: str, before: Snapshot | None) -> Snapshot:
        """A reading that says only that the file system does not answer."""
        problem = Problem(
            "no-answer",
            "the file system does not answer",
            "what was served stays served until it answers; check its server, or unmount it",
        )
        fingerprints = dict(before.fingerprints) if before is not None else {}
        device = before.device if before is not None else None
        details = Details(fingerprints, retry=True)
        return cls(Reading(directory, fault=problem.at(directory)), Kind.REMOTE, device, details)

    @classmethod
    def failed(cls, directory: str, before: Snapshot | None, error: Exception) -> Snapshot:
        """A reading that says only that this exception ended it."""
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        problem = Problem(
            "internal-error",
            f"reading or evaluating this directory failed: {shown(what)}",
            "what was served stays served, and the agent tries again every second; if memory or"
            " threads are short, raise the limit, else report this as a defect",
        )
        device = before.device if before is not None else None
        kind = before.kind if before is not None else Kind.LOCAL
        reading = Reading(directory, fault=problem.at(directory))
        return cls(reading, kind, device, Details(retry=True))

    @property
    def fingerprints(self) -> Mapping[str, Fingerprint]:
        """By name in the directory, `.` for the directory itself, or by the absolute path of a
        directory on the path to it, the fingerprint."""
        return self.details.fingerprints

    @property
    def busy(self) -> frozenset[str]:
        """The names that were open for writing."""
        return frozenset(self.details.busy)

    @property
    def unstable(self) -> frozenset[str]:
        """The names that changed during the reading, as far as stat shows it."""
        return frozenset(self.details.unstable)

    @property
    def unparsed(self) -> bool:
        """Whether callbacks.conf is not parsed yet. Then the files that it names are not read."""
        return self.details.unparsed

    @property
    def retry(self) -> bool:
        """Whether to read again even if all fingerprints are equal."""
        return self.details.retry

    @property
    def links(self) -> tuple[str, ...]:
        """The names that are symbolic links."""
        return tuple(self.details.links)

    @property
    def needs_polling(self) -> bool:
        """Whether events do not report every change."""
        return self.kind is not Kind.LOCAL or self.retry or bool(self.details.remote)

    @property
    def size(self) -> int:
        """The bytes of all files that were read."""
        return self.details.size

    def can_reuse(self, name: str, now: Fingerprint, trust: Trust, is_link: bool) -> bool:
        """Whether a file still has the bytes and the permissions of this reading, given its
        fingerprint now, and whether it is a link now. May block, for the user database."""
        details = self.details
        if details.fingerprints.get(name) != now:
            return False
        if name not in details.seen or name in details.busy or name in details.unstable:
            # The fingerprint of half a file stays the same until its writer continues.
            return False
        if self.reading.plan is None if name == CONF else name not in details.implementations:
            return False
        uid = fingerprint.owner(now)
        if trust.mode != IGNORE and uid is not None:
            # A user may have joined or left a trusted group. What is unsafe on the path of a link
            # is found again.
            if not trust.owner(uid):
                return False
            if details.unsafe.get(name) and (trust.groups or is_link):
                return False
        first_seen, read = details.seen[name]
        return read - first_seen >= STAT_TRUST_AGE

    def text(self, name: str) -> bytes | None:
        """The bytes of a file; None if they were not read."""
        details = self.details
        if name == CONF:
            return details.conf if CONF in details.seen else None
        implementation = details.implementations.get(name)
        return None if implementation is None else implementation.code

    def content(self, name: str) -> bytes:
        """The bytes of a file of this reading that `can_reuse` accepts."""
        return self.details.conf if name == CONF else self.details.implementations[name].code
