"""The last accepted unit of each directory, and the last valid settings, kept over restarts.

After a restart, a crash or a power failure, a held directory still serves what it served. Each pipe
has a folder of its own in the state directory, so that two agents never share one. In it are

- `settings`, the last valid settings;
- a file for each directory, named by a digest of its path as listed: the lines of its unit, and the
  digests of its implementations;
- `HEX.code` for each implementation, named by its content's digest and written once.

A file begins with the digest of the rest. It is written by rename, before its unit is served, under
its name and `.new`, and is renamed again when it has reached the disk (`sync`). Until then the
older one stays beside it, and so does the code that the older one needs. What is damaged is
discarded, with a warning.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import logging
import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from agent.core import trigger
from agent.core.diagnostic import Diagnostic, Severity, printable
from agent.core.languages import Problem, Verdict
from agent.core.unit import Implementation, Registration, Unit
from agent.disk import acl
from agent.disk.permissions import IGNORE, REFUSE, Trust, Way
from agent.reload import state_files
from agent.reload.state_files import READS, CodeFiles, Damaged

#: Raised when the format of the files changes. Format 1, which had the code in the unit's file, is
#: still read; others are discarded.
FORM = 2
#: The most bytes of a file: a unit with MAX_CALLBACKS long lines, or one of format 1 with all code.
MAX_BYTES = 1 << 30
#: Items that are encoded at once. Encoding holds the interpreter, and lookups wait for it.
_CHUNK = 500

#: The end of the name of what is written and not on the disk yet. It counts before the other.
_NEW = ".new"

#: What reading a damaged file may raise.
_DAMAGE = (ValueError, RecursionError, MemoryError, msgspec.MsgspecError)

_logger = logging.getLogger(__name__)

_encode = msgspec.json.Encoder().encode


class _Form(msgspec.Struct):
    form: int


class _Code(msgspec.Struct):
    digest: str
    compiles: bool | None


class _KeptUnit(msgspec.Struct):
    form: int
    directory: str
    device: int | None
    emptied: bool
    #: file, trigger, line, column
    registrations: list[tuple[str, str, int, int]]
    implementations: dict[str, _Code]

    def encode(self) -> bytes:
        """As JSON, in pieces: a unit may have a hundred thousand lines."""
        lines, codes = self.registrations, [*self.implementations.items()]
        registrations = _joined(lines[at : at + _CHUNK] for at in range(0, len(lines), _CHUNK))
        implementations = _joined(
            dict(codes[at : at + _CHUNK]) for at in range(0, len(codes), _CHUNK)
        )
        rest = _KeptUnit(self.form, self.directory, self.device, self.emptied, [], {})
        return _encode(rest).removesuffix(
            b'[],"implementations":{}}'
        ) + b'[%b],"implementations":{%b}}' % (registrations, implementations)


class _Code1(msgspec.Struct):
    digest: str
    base64: bytes
    compiles: bool | None


class _KeptUnit1(msgspec.Struct):
    """A unit as format 1 has it."""

    form: int
    directory: str
    device: int | None
    registrations: list[tuple[str, str, int]]
    implementations: dict[str, _Code1]


class StoredSettings(msgspec.Struct, frozen=True):
    """The last settings that were valid, and whether there was a qb.conf that said so."""

    qb_conf: str
    found: bool
    directories: list[str]
    languages: list[str]
    form: int = FORM


@dataclass(frozen=True, slots=True)
class StoredUnit:
    """What was kept of one directory."""

    unit: Unit
    device: int | None


class LastGood:
    """One agent's folder in the state directory. Where it cannot be used, that is logged
    once, and what is to be kept waits for the next `flush`."""

    def __init__(self, state: str, pipe: str, trust: Trust) -> None:
        self.folder = f"{state}/{hashlib.sha256(os.fsencode(pipe)).hexdigest()[:16]}"
        self._trust = trust
        self._failed = False
        self._ready = False
        self._lock = threading.Lock()
        self._code = CodeFiles(self.folder)
        #: What is not written yet, by path, and the code that it needs.
        self._waiting: dict[str, tuple[bytes, dict[str, bytes]]] = {}
        #: By path, the digests of the code that its file needs; for those that were read or
        #: written. Whether there may be others, which could not be read.
        self._digests: dict[str, frozenset[str]] = {}
        self._unread = False
        #: Whether code may have become unused. Not before every directory was loaded.
        self._unused = False
        #: What is written, and would not survive a power cut yet.
        self._unsynced: set[str] = set()
        #: The only files that may stay in the folder, until the others are removed.
        self._keep: set[str] | None = None
        #: The last settings that were valid, None where there were none yet.
        self.settings: StoredSettings | None = None

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

    def load(self, directory: str) -> tuple[StoredUnit | None, list[Diagnostic]]:
        """What was kept of a directory, and a warning if it was damaged. Blocks; never raises."""
        findings: list[Diagnostic] = []
        path = self._path(directory)
        for candidate in (f"{path}{_NEW}", path):
            try:
                data = self._read(candidate)
                if data is None:
                    continue
                known = self._known(data, directory)
            except OSError as error:
                self._unread = True
                self._give_up(error)
            except _DAMAGE as error:
                why = str(error) or type(error).__name__
                message = f"what was kept of {printable(directory)} is damaged and not used: {why}"
                hint = "nothing to do: it is written again"
                place = (candidate, None, None)
                findings.append(Diagnostic(Severity.WARNING, "kept-damaged", *place, message, hint))
            else:
                self._digests[path] = frozenset(
                    i.digest for i in known.unit.implementations.values()
                )
                if candidate != path:
                    self._unsynced.add(path)
                return known, findings
        return None, findings

    def _known(self, data: bytes, directory: str) -> StoredUnit:
        """The unit that a file holds. Raises ValueError or MsgspecError where it is damaged, and
        OSError."""
        body = _checked(data)
        form = msgspec.json.decode(body, type=_Form).form
        if form == 1:
            old = msgspec.json.decode(body, type=_KeptUnit1)
            read = {
                file: (c.digest, c.compiles, _code1(c)) for file, c in old.implementations.items()
            }
            return _unit(old.directory, directory, old.device, False, old.registrations, read)
        if form != FORM:
            raise Damaged(f"its format is {form}, and {FORM} is expected")
        kept = msgspec.json.decode(body, type=_KeptUnit)
        read = {
            file: (c.digest, c.compiles, self._code.load(c.digest))
            for file, c in kept.implementations.items()
        }
        return _unit(kept.directory, directory, kept.device, kept.emptied, kept.registrations, read)

    def save(self, directory: str, unit: Unit, device: int | None) -> bool:
        """Keep a unit. When it returns, a crash of the agent does not lose it; a power failure may,
        until `sync`. Blocks; never raises. Whether that went well."""
        kept = _KeptUnit(
            FORM,
            directory,
            device,
            unit.emptied,
            [(r.file, r.text, r.line, r.column) for r in unit.registrations],
            {
                file: _Code(i.digest, None if i.verdict is None else i.verdict.error is None)
                for file, i in unit.implementations.items()
            },
        )
        code = {i.digest: i.code for i in unit.implementations.values()}
        return self._write(self._path(directory), kept.encode(), code)

    def _load_settings(self) -> StoredSettings | None:
        path = self._path(None)
        for candidate in (f"{path}{_NEW}", path):
            try:
                data = self._read(candidate)
                if data is None:
                    continue
                settings = msgspec.json.decode(_checked(data), type=StoredSettings)
            except OSError as error:
                self._give_up(error)
                continue
            except _DAMAGE:
                continue
            if settings.form in (1, FORM):
                return settings
        return None

    def save_settings(self, settings: StoredSettings) -> None:
        """Keep the settings, and forget the directories that they do not list: old code must not
        come back to life when a path is listed again. Blocks; never raises."""
        self.settings = settings
        with self._lock:
            keep = {self._path(None), *map(self._path, settings.directories)}
            self._keep = keep
            self._waiting = {path: data for path, data in self._waiting.items() if path in keep}
            self._digests = {path: used for path, used in self._digests.items() if path in keep}
            self._unused = True
        self._write(self._path(None), msgspec.json.encode(settings), {})

    @property
    def waiting(self) -> bool:
        """Whether something is not written, not on the disk, or not removed yet."""
        unused = self._unused and not self._unread
        return bool(self._waiting or self._unsynced or unused) or self._keep is not None

    def flush(self) -> None:
        """Try to write what waits. Blocks; never raises."""
        with self._lock:
            try:
                self._prepare()
                self._forget()
                for path, (data, code) in list(self._waiting.items()):
                    for digest, text in code.items():
                        self._code.store(digest, text)
                    state_files.replace(f"{path}{_NEW}", data)
                    self._unsynced.add(path)
                    self._unused = (
                        self._unused or not self._digests.get(path, frozenset()) <= code.keys()
                    )
                    self._digests[path] = frozenset(code)
                    del self._waiting[path]
            except OSError as error:
                # Somebody may have removed the folder.
                self._ready = False
                self._code.forget_stored()
                self._give_up(error)
                return
            if self._failed:
                _logger.info("accepted callbacks are kept again in %s", printable(self.folder))
            self._failed = False

    def _forget(self) -> None:
        """Remove what is kept of directories that are listed no more. Raises OSError."""
        if self._keep is None:
            return
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.path.removesuffix(_NEW) in self._keep or CodeFiles.is_code(entry.name):
                    continue
                os.unlink(entry.path)
        self._keep = None

    def sync(self) -> None:
        """Make what is written survive a power failure, then remove the code that nothing needs any
        more. A disk may take seconds for it, so it is not part of a reload. Until then the file
        that is on the disk stays beside the new one. Blocks; never raises."""
        try:
            for path in list(self._unsynced):
                self._sync(path)
            state_files.sync_folder(self.folder)
            with self._lock:
                self._remove_unused()
        except OSError as error:
            self._give_up(error)

    def _sync(self, path: str) -> None:
        new = f"{path}{_NEW}"
        try:
            fd = os.open(new, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            # The directory is not listed any more.
            self._unsynced.discard(path)
            return
        try:
            # Its code was written before it was.
            self._code.sync()
            os.fsync(fd)
            with self._lock:
                # A newer one may have been written meanwhile: that one is not on the disk yet.
                if os.stat(new).st_ino == os.fstat(fd).st_ino:
                    os.rename(new, path)
                    self._unsynced.discard(path)
        finally:
            os.close(fd)

    def _remove_unused(self) -> None:
        """Remove the code that no file needs, where that is known. Raises OSError."""
        busy = self._unsynced or self._waiting or self._keep is not None
        if not self._unused or self._unread or busy:
            return
        self._code.remove_others(frozenset().union(*self._digests.values()))
        self._unused = False

    def _path(self, directory: str | None) -> str:
        if directory is None:
            return f"{self.folder}/settings"
        return f"{self.folder}/{hashlib.sha256(directory.encode()).hexdigest()[:32]}"

    def _read(self, path: str) -> bytes | None:
        """The bytes of a kept file, None where there is none. Raises OSError."""
        for attempt in range(READS):
            try:
                self._prepare()
                return state_files.read(path, MAX_BYTES)
            except FileNotFoundError:
                return None
            except OSError:
                # What is wrong for a moment must not cost what was kept.
                if attempt == READS - 1:
                    raise
        return None

    def _write(self, path: str, body: bytes, code: dict[str, bytes]) -> bool:
        data = hashlib.sha256(body).hexdigest().encode() + b"\n" + body
        with self._lock:
            self._waiting[path] = data, code
        self.flush()
        return path not in self._waiting

    def _give_up(self, error: OSError) -> None:
        if not self._failed:
            where = printable(self.folder)
            _logger.error("accepted callbacks cannot be kept in %s: %s", where, error.strerror)
        self._failed = True


def _checked(data: bytes) -> bytes:
    """The body of a kept file. Raises ValueError where the digest at its top is another."""
    digest, _, body = data.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise ValueError("its digest is wrong")
    return body


def _joined(pieces: Iterable[Any]) -> bytes:
    """Arrays or objects, encoded one by one, as the content of one."""
    return b",".join(_encode(piece)[1:-1] for piece in pieces)


def _code1(code: _Code1) -> bytes:
    return base64.b64decode(code.base64, validate=True)


def _unit(
    directory: str,
    expected: str,
    device: int | None,
    emptied: bool,
    lines: Sequence[tuple[str, str, int, int] | tuple[str, str, int]],
    code: dict[str, tuple[str, bool | None, bytes]],
) -> StoredUnit:
    """What was kept, from the parts of a file. `code` has digest, whether it compiles, and bytes.
    Raises Damaged."""
    if directory != expected:
        raise Damaged(f"it is of the directory {printable(directory)}")
    registrations = []
    for file, text, *place in lines:
        tree, _ = trigger.parse(text)
        if tree is None:
            raise Damaged(f"{text} is not a trigger")
        registrations.append(Registration(file, tree, text, *place))
    implementations = {}
    for file, (digest, compiles, content) in code.items():
        found = Implementation.of(content)
        if found.digest != digest:
            raise Damaged(f"the digest of {file} is wrong")
        verdict = None if compiles is None else Verdict(None if compiles else _OLD)
        implementations[file] = Implementation(found.code, found.digest, verdict)
    return StoredUnit(Unit(tuple(registrations), implementations, emptied), device)


_OLD = Problem(Severity.WARNING, "does-not-compile", None, None, "this did not compile before")
