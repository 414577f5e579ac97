"""Stores the last accepted unit of each directory, and the last valid settings, over restarts.

After a restart, a crash or a power failure, a held directory still serves what it served. Each pipe
has a folder of its own in the state directory, so two agents never share one. The folder holds

- `settings`, the last valid settings;
- a file for each directory, named by a digest of its path as listed: the lines of its unit, and the
  digests of its implementations;
- `HEX.code` for each implementation, and for the text of each callbacks.conf, named by the digest
  of its content and written once.

A unit's file is written before the unit is served, by rename, under its name and `.new`. When it
has reached the disk, it is renamed to its name (`sync`). Until then the older file stays beside it,
and so does the code that the older file needs. A damaged file is not used, with a warning.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading

from agent.core.diagnostic import Diagnostic, Problem
from agent.core.quoting import printable
from agent.core.unit import Unit
from agent.disk.permissions import Trust
from agent.disk.whole_file import replace
from agent.reload import state_files, stored
from agent.reload.state_files import CodeFiles
from agent.reload.stored import StoredSettings, StoredUnit

#: The most bytes of a file: a unit with MAX_CALLBACKS long lines, or of version 1 with all code.
MAX_BYTES = 1 << 30
#: The end of the name of a file that may not have reached the disk. It takes precedence.
_NEW = ".new"

_logger = logging.getLogger(__name__)


class LastGood:
    """One agent's folder in the state directory.

    An error is logged once, and what could not be written waits for the next `flush`. All methods
    block, and none raises. It has more than 15 methods because one lock guards what all of them
    change.
    """

    def __init__(self, state: str, pipe: str, trust: Trust) -> None:
        self.folder = folder_of(state, pipe)
        self._trust = trust
        self._failed = False
        self._ready = False
        self._lock = threading.Lock()
        self._code = CodeFiles(self.folder)
        #: By path, the bytes that are not written yet, and the code that they need, by digest.
        self._waiting: dict[str, tuple[bytes, dict[str, bytes]]] = {}
        #: By path of a file that was read or written, the digests of the code that it needs.
        self._digests: dict[str, frozenset[str]] = {}
        #: Whether there may be other files, because one could not be read.
        self._unread = False
        #: Whether there may be code that no file needs any more.
        self._unused = False
        #: Files that are written, and that a power failure may still lose.
        self._unsynced: set[str] = set()
        #: The only files that may stay in the folder, until the others are removed.
        self._keep: set[str] | None = None
        #: The last valid settings, None if there never were any.
        self.settings: StoredSettings | None = None
        #: Whether `find_losses` found that files are gone. Then everything is to be stored again.
        self.lost = False

    def open(self) -> None:
        """Read the last settings."""
        path = self._path(None)
        for candidate in candidates(path):
            try:
                self.settings = stored.decode_settings(self._read(candidate))
            except FileNotFoundError:
                continue
            except OSError as error:
                self._report_failure(error)
            except stored.DAMAGE as error:
                # Nothing is listed yet that a diagnostic could be about.
                _logger.warning(
                    "the stored settings in %s are damaged and not used: %s",
                    printable(candidate),
                    error,
                )
            else:
                return

    def _prepare(self) -> None:
        """Make the folder. Raises OSError, also where others may write to it."""
        if self._ready:
            return
        state = os.path.dirname(self.folder)
        os.makedirs(os.path.dirname(state), exist_ok=True)
        for folder in (state, self.folder):
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o700)
            state_files.check_folder(folder, self._trust)
        self._ready = True

    def load(self, directory: str) -> tuple[StoredUnit | None, list[Diagnostic]]:
        """The stored unit of a directory, and a warning if a file of it is damaged."""
        findings: list[Diagnostic] = []
        path = self._path(directory)
        for candidate in candidates(path):
            try:
                unit = stored.decode_unit(self._read(candidate), directory, self._code.load)
            except FileNotFoundError:
                continue
            except OSError as error:
                self._unread = True
                self._report_failure(error)
            except stored.DAMAGE as error:
                findings.append(_damaged(directory, candidate, error))
            else:
                self._digests[path] = frozenset(_texts(unit.unit))
                if candidate != path:
                    self._unsynced.add(path)
                return unit, findings
        return None, findings

    def save(self, directory: str, unit: Unit, device: int | None) -> bool:
        """Store a unit. Returns whether it is written.

        A crash of the agent does not lose it then. A power failure may, until `sync`.
        """
        code = _texts(unit)
        conf = None if unit.conf is None else _digest(unit.conf)
        data = stored.encode_unit(directory, unit, device, conf)
        return self._write(self._path(directory), data, code)

    def save_settings(self, settings: StoredSettings) -> None:
        """Store the settings, and forget the directories that they do not list: old code must not
        be served again when a path is listed again."""
        self.settings = settings
        with self._lock:
            keep = {self._path(None), *map(self._path, settings.directories)}
            self._keep = keep
            self._waiting = {path: data for path, data in self._waiting.items() if path in keep}
            self._digests = {path: used for path, used in self._digests.items() if path in keep}
            self._unused = True
        self._write(self._path(None), stored.encode_settings(settings), {})

    @property
    def waiting(self) -> bool:
        """Whether something is not written, not on the disk, or not removed yet."""
        unused = self._unused and not self._unread
        return bool(self._waiting or self._unsynced or unused) or self._keep is not None

    def find_losses(self) -> None:
        """Set `lost` if somebody removed files that were stored. Blocks; never raises."""
        with self._lock:
            used = frozenset().union(*self._digests.values())
            stored = {os.path.basename(path) for path in self._digests}
            if self.settings is not None:
                stored.add(os.path.basename(self._path(None)))
            try:
                names = {name.removesuffix(_NEW) for name in os.listdir(self.folder)}
            except FileNotFoundError:
                names = set()
            except OSError:
                return
            waiting = {os.path.basename(path) for path in self._waiting}
            self.lost = not (stored - waiting) | CodeFiles.names(used) <= names

    def start_again(self) -> None:
        """After a loss: take nothing for stored, and store the settings. The units are to be saved
        again."""
        _logger.warning(
            "somebody removed %s or files in it; what is accepted is stored again",
            printable(self.folder),
        )
        with self._lock:
            self.lost = self._ready = False
            self._code.forget_stored()
            self._digests.clear()
            self._unsynced.clear()
        if self.settings is not None:
            self.save_settings(self.settings)

    def flush(self) -> None:
        """Try to write what waits."""
        with self._lock:
            try:
                self._prepare()
                self._remove_unlisted()
                for path, (data, code) in list(self._waiting.items()):
                    for digest, text in code.items():
                        self._code.store(digest, text)
                    replace(f"{path}{_NEW}", data)
                    self._unsynced.add(path)
                    self._unused = (
                        self._unused or not self._digests.get(path, frozenset()) <= code.keys()
                    )
                    self._digests[path] = frozenset(code)
                    del self._waiting[path]
            except OSError as error:
                # The folder may have been removed.
                self._ready = False
                self._code.forget_stored()
                self._report_failure(error)
                return
            if self._failed:
                _logger.info("accepted callbacks are stored again in %s", printable(self.folder))
            self._failed = False

    def _remove_unlisted(self) -> None:
        """Remove the files of directories that are not listed any more. Raises OSError."""
        if self._keep is None:
            return
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.path.removesuffix(_NEW) in self._keep or CodeFiles.is_code(entry.name):
                    continue
                # A folder is somebody else's, and no reason to store nothing.
                if entry.is_dir(follow_symlinks=False):
                    continue
                os.unlink(entry.path)
        self._keep = None

    def sync(self) -> None:
        """Sync what is written, then remove the code that no file needs any more.

        A disk may take seconds for it, so it is not a part of a reload. Until then the file that is
        on the disk stays beside the new one.
        """
        try:
            for path in list(self._unsynced):
                self._sync(path)
            state_files.sync_folder(self.folder)
            with self._lock:
                self._remove_unused()
        except OSError as error:
            self._report_failure(error)

    def _sync(self, path: str) -> None:
        """Sync one file, after its code. Raises OSError."""
        new = f"{path}{_NEW}"
        try:
            fd = os.open(new, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            # The directory is not listed any more.
            self._unsynced.discard(path)
            return
        try:
            self._code.sync()
            os.fsync(fd)
            with self._lock:
                try:
                    now = os.stat(new)
                except FileNotFoundError:
                    # Since it was opened, its directory was taken off the list.
                    self._unsynced.discard(path)
                    return
                # One that was written meanwhile is not on the disk yet.
                if now.st_ino == os.fstat(fd).st_ino:
                    os.rename(new, path)
                    self._unsynced.discard(path)
        finally:
            os.close(fd)

    def _remove_unused(self) -> None:
        """Remove the code that no file needs, if that is known. Raises OSError."""
        busy = self._unsynced or self._waiting or self._keep is not None
        if not self._unused or self._unread or busy:
            return
        self._code.remove_others(frozenset().union(*self._digests.values()))
        self._unused = False

    def _path(self, directory: str | None) -> str:
        if directory is None:
            return settings_file(self.folder)
        return unit_file(self.folder, directory)

    def _read(self, path: str) -> bytes:
        """The bytes of a file. Raises OSError and Damaged."""
        state_files.retry(self._prepare)
        return state_files.read(path, MAX_BYTES)

    def _write(self, path: str, data: bytes, code: dict[str, bytes]) -> bool:
        with self._lock:
            self._waiting[path] = data, code
        self.flush()
        return path not in self._waiting

    def _report_failure(self, error: OSError) -> None:
        if not self._failed:
            where = printable(self.folder)
            file = error.filename2 or error.filename
            why = (
                f"{error.strerror}: {printable(file)}" if isinstance(file, str) else error.strerror
            )
            _logger.error("accepted callbacks cannot be stored in %s: %s", where, why)
        self._failed = True


def folder_of(state: str, pipe: str) -> str:
    """The folder of the agent of this pipe in a state directory."""
    return f"{state}/{hashlib.sha256(os.fsencode(pipe)).hexdigest()[:16]}"


def settings_file(folder: str) -> str:
    """The path of the last valid settings in an agent's folder."""
    return f"{folder}/settings"


def unit_file(folder: str, directory: str) -> str:
    """The path of a directory's file in an agent's folder."""
    return f"{folder}/{hashlib.sha256(directory.encode()).hexdigest()[:32]}"


def candidates(path: str) -> tuple[str, str]:
    """The paths where the content of a file may be; the first that exists takes precedence."""
    return f"{path}{_NEW}", path


def _texts(unit: Unit) -> dict[str, bytes]:
    """What is stored beside a unit's file, by digest: its code, and its callbacks.conf."""
    texts = {i.digest: i.code for i in unit.implementations.values()}
    if unit.conf is not None:
        texts[_digest(unit.conf)] = unit.conf
    return texts


def _digest(text: bytes) -> str:
    return "sha256:" + hashlib.sha256(text).hexdigest()


def _damaged(directory: str, path: str, error: BaseException) -> Diagnostic:
    why = str(error) or type(error).__name__
    message = f"the stored version of {printable(directory)} is damaged and not used: {why}"
    hint = "nothing to do: it is written again"
    return Problem("kept-damaged", message, hint).at(path)
