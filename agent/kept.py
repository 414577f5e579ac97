"""The last accepted unit of each directory, and the last valid settings, kept over restarts.

After a restart, a crash or a power cut, a held directory still serves what it served. Each pipe has
a folder of its own in the state directory, so that two agents do not meet in one. A unit is keyed
by its directory's path as listed. It is written by rename, before it is served, and reaches the
disk soon after (`sync`); until then the older one stays beside it. It begins with the digest of the
rest: what is damaged is thrown away, with a warning.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from agent import acl, trigger
from agent.callback import Implementation, Registration, Unit
from agent.finding import Finding, Severity, printable
from agent.language import Problem, Verdict
from agent.trust import IGNORE, REFUSE, Trust, Way

#: Raised when the form of what is kept changes. What has another number is thrown away.
FORM = 1
#: How often a kept file that cannot be read is tried.
READS = 3


#: The end of the name of what is written and not on the disk yet. It counts before the other.
_NEW = ".new"


class _Code(msgspec.Struct):
    digest: str
    base64: bytes
    compiles: bool | None


class _KeptUnit(msgspec.Struct):
    form: int
    directory: str
    device: int | None
    #: file, trigger, line
    registrations: list[tuple[str, str, int]]
    implementations: dict[str, _Code]


class KeptSettings(msgspec.Struct, frozen=True):
    """The last settings that were valid, and whether there was a qb.conf that said so."""

    qb_conf: str
    found: bool
    directories: list[str]
    languages: list[str]
    form: int = FORM


@dataclass(frozen=True, slots=True)
class Known:
    """What was kept of one directory."""

    unit: Unit
    device: int | None


class Kept:
    """One agent's folder in the state directory. Where it cannot be used, `complain` is told so
    once, and what is to be kept waits for the next `flush`."""

    def __init__(
        self, state: str, pipe: str, complain: Callable[[str], None], trust: Trust
    ) -> None:
        self.folder = f"{state}/{hashlib.sha256(os.fsencode(pipe)).hexdigest()[:16]}"
        self._complain = complain
        self._trust = trust
        self._failed = False
        self._ready = False
        self._lock = threading.Lock()
        #: What is not written yet, by path.
        self._waiting: dict[str, bytes] = {}
        #: What is written, and would not survive a power cut yet.
        self._unsynced: set[str] = set()
        #: The only files that may stay in the folder, until the others are removed.
        self._keep: set[str] | None = None
        #: The last settings that were valid, None where there were none yet.
        self.settings: KeptSettings | None = None

    def open(self) -> None:
        """Read the last settings. Blocks; never raises."""
        self.settings = self._load_settings()

    def _prepare(self) -> None:
        """Make the folder, and see that nobody else may write to it. Raises OSError."""
        if self._ready:
            return
        state = os.path.dirname(self.folder)
        os.makedirs(os.path.dirname(state), exist_ok=True)
        for folder in (state, self.folder):
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o700)
            self._judge(folder)
        self._ready = True

    def _judge(self, folder: str) -> None:
        """Raise OSError where others may write to a folder, or to one above it and that counts."""
        status = os.stat(folder)
        wrong = self._trust.judge(folder, status, acl.read(folder, status))
        if wrong is None and self._trust.mode != IGNORE:
            with Way(self._trust) as way:
                os.close(way.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            if way.unsafe and self._trust.mode == REFUSE:
                wrong = way.unsafe[0]
        if wrong is not None:
            raise OSError(0, f"{wrong.message}; {wrong.hint}")

    def load(self, directory: str) -> tuple[Known | None, list[Finding]]:
        """What was kept of a directory, and a warning if it was damaged. Blocks."""
        findings: list[Finding] = []
        path = self._path(directory)
        for candidate in (f"{path}{_NEW}", path):
            try:
                data = self._read(candidate)
                if data is not None:
                    return _known(data, directory), findings
            except OSError as error:
                self._give_up(error)
            except (ValueError, msgspec.MsgspecError) as error:
                message = (
                    f"what was kept of {printable(directory)} is damaged and not used: {error}"
                )
                hint = "nothing to do: it is written anew"
                place = (candidate, None, None)
                findings.append(Finding(Severity.WARNING, "kept-damaged", *place, message, hint))
        return None, findings

    def save(self, directory: str, unit: Unit, device: int | None) -> bool:
        """Keep a unit. When it returns, a crash of the agent does not lose it; a power cut may,
        until `sync`. Blocks; never raises. Whether that went well."""
        kept = _KeptUnit(
            FORM,
            directory,
            device,
            [(r.file, r.text, r.line) for r in unit.registrations],
            {
                file: _Code(
                    i.digest,
                    base64.b64encode(i.code),
                    None if i.verdict is None else i.verdict.error is None,
                )
                for file, i in unit.implementations.items()
            },
        )
        return self._write(self._path(directory), msgspec.json.encode(kept))

    def _load_settings(self) -> KeptSettings | None:
        path = self._path(None)
        for candidate in (f"{path}{_NEW}", path):
            try:
                data = self._read(candidate)
                if data is None:
                    continue
                settings = msgspec.json.decode(_checked(data), type=KeptSettings)
            except OSError as error:
                self._give_up(error)
                continue
            except (ValueError, msgspec.MsgspecError):
                continue
            if settings.form == FORM:
                return settings
        return None

    def save_settings(self, settings: KeptSettings) -> None:
        """Keep the settings, and forget the directories that they do not list: old code must not
        come back to life when a path is listed again. Blocks; never raises."""
        self.settings = settings
        with self._lock:
            keep = {self._path(None), *map(self._path, settings.directories)}
            self._keep = keep
            self._waiting = {path: data for path, data in self._waiting.items() if path in keep}
        self._write(self._path(None), msgspec.json.encode(settings))

    @property
    def waiting(self) -> bool:
        """Whether something is not written, or not on the disk yet."""
        return bool(self._waiting or self._unsynced) or self._keep is not None

    def flush(self) -> None:
        """Try to write what waits. Blocks; never raises."""
        with self._lock:
            try:
                self._prepare()
                self._forget()
                for path, data in list(self._waiting.items()):
                    _replace(f"{path}{_NEW}", data)
                    self._unsynced.add(path)
                    del self._waiting[path]
            except OSError as error:
                # Somebody may have removed the folder.
                self._ready = False
                self._give_up(error)
                return
            if self._failed:
                self._complain(f"accepted callbacks are kept again in {printable(self.folder)}")
            self._failed = False

    def _forget(self) -> None:
        """Remove what is kept of directories that are listed no more. Raises OSError."""
        if self._keep is None:
            return
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.path.removesuffix(_NEW) not in self._keep:
                    os.unlink(entry.path)
        self._keep = None

    def sync(self) -> None:
        """Make what is written survive a power cut. A disk may take seconds for it, so it is no
        part of a reload. Until then the file that is on the disk stays beside the new one. Blocks;
        never raises."""
        try:
            for path in list(self._unsynced):
                self._sync(path)
            folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            self._give_up(error)

    def _sync(self, path: str) -> None:
        new = f"{path}{_NEW}"
        try:
            fd = os.open(new, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            # The directory is listed no more.
            self._unsynced.discard(path)
            return
        try:
            os.fsync(fd)
            with self._lock:
                # A newer one may have been written meanwhile: that one is not on the disk yet.
                if os.stat(new).st_ino == os.fstat(fd).st_ino:
                    os.rename(new, path)
                    self._unsynced.discard(path)
        finally:
            os.close(fd)

    def _path(self, directory: str | None) -> str:
        if directory is None:
            return f"{self.folder}/settings"
        return f"{self.folder}/{hashlib.sha256(directory.encode()).hexdigest()[:32]}"

    def _read(self, path: str) -> bytes | None:
        """The bytes of a kept file, None where there is none. Raises OSError."""
        for attempt in range(READS):
            try:
                self._prepare()
                with open(path, "rb") as file:
                    return file.read()
            except FileNotFoundError:
                return None
            except OSError:
                # What is wrong for a moment must not cost what was kept.
                if attempt == READS - 1:
                    raise
        return None

    def _write(self, path: str, body: bytes) -> bool:
        self._waiting[path] = hashlib.sha256(body).hexdigest().encode() + b"\n" + body
        self.flush()
        return path not in self._waiting

    def _give_up(self, error: OSError) -> None:
        if not self._failed:
            where = printable(self.folder)
            self._complain(f"accepted callbacks cannot be kept in {where}: {error.strerror}")
        self._failed = True


def _checked(data: bytes) -> bytes:
    """The body of a kept file. Raises ValueError where the digest at its top is another."""
    digest, _, body = data.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise ValueError("its digest is wrong")
    return body


def _known(data: bytes, directory: str) -> Known:
    kept = msgspec.json.decode(_checked(data), type=_KeptUnit)
    if kept.form != FORM or kept.directory != directory:
        raise ValueError("it is of another form or directory")
    registrations = []
    for file, text, line in kept.registrations:
        tree, _ = trigger.parse(text)
        if tree is None:
            raise ValueError(f"{text} is no trigger")
        registrations.append(Registration(file, tree, text, line))
    implementations = {}
    for file, code in kept.implementations.items():
        found = Implementation.of(base64.b64decode(code.base64, validate=True))
        if found.digest != code.digest:
            raise ValueError(f"the digest of {file} is wrong")
        verdict = None if code.compiles is None else Verdict(None if code.compiles else _OLD)
        implementations[file] = Implementation(found.code, found.digest, verdict)
    return Known(Unit(tuple(registrations), implementations), kept.device)


_OLD = Problem(Severity.WARNING, "does-not-compile", None, None, "this did not compile before")


def _replace(path: str, data: bytes) -> None:
    """Write a file whole or not at all. Raises OSError."""
    begun = f"{path}.begun"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        with os.fdopen(os.open(begun, flags, 0o600), "wb") as file:
            file.write(data)
        os.rename(begun, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(begun)
        raise
