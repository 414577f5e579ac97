"""What qb.conf, a flag or a variable say about callback directories and languages."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping

from agent.core.conf import Setting, closing_quote, read_qb, unescaped
from agent.core.diagnostic import MAX_UNCAPPED, Diagnostic, Problem, Severity, capped
from agent.core.languages import DEFAULT_FLAGS, read_flags
from agent.core.quoting import shown
from agent.settings.host import BadPath, Host, home

#: The keys of qb.conf that are read.
QB_PATH = "supervisor_universal_callback_path"
QB_LANGUAGES = "supervisor_language_flags"
QB_DIRECTORY = "qb_directory"

#: The longest path of a directory, in characters: PATH_MAX of Linux. No system opens a longer one.
MAX_PATH = 4096
#: The most directories. Each is watched and scanned; farms list a few.
MAX_DIRECTORIES = 10_000
_TOO_MANY = f"more than {MAX_DIRECTORIES} directories are listed; the others are not read"

#: The source of a value that nobody set.
DEFAULT = "default"

_QBDIR = re.compile(r"\$(?:QBDIR(?![A-Za-z0-9_])|\{QBDIR\})")


class QbConfReader:
    """Looks up settings in qb.conf, and collects findings about those that are looked up.

    A setting that a flag or variable overrides is not looked up: an error in it has no effect.
    """

    def __init__(self, data: bytes, path: str, findings: list[Diagnostic]) -> None:
        self._data = data
        self.path = path
        self._findings = findings
        self._looked_up: dict[str, tuple[Setting | None, str, bool]] = {}

    def look_up(self, name: str) -> tuple[Setting | None, str, bool]:
        """The setting (None if unset or empty), its source, and whether it has an error."""
        if name not in self._looked_up:
            found, findings = read_qb(self._data, self.path, {name})
            self._findings += findings
            broken = any(finding.severity is Severity.ERROR for finding in findings)
            setting = found.get(name)
            if setting is None or not setting.value.strip():
                self._looked_up[name] = None, DEFAULT, broken
            else:
                self._looked_up[name] = setting, f"{self.path}:{setting.line}", broken
        return self._looked_up[name]

    def note(self, problem: Problem, setting: Setting, offset: int) -> None:
        """Add a problem of the character at `offset` of the setting's value."""
        self._add(problem.at(self.path, setting.line, setting.column_of(offset)))

    def note_flag(self, problem: Problem, source: str) -> None:
        """Add a problem of the value of a flag or variable."""
        self._add(problem.at(source))

    def _add(self, finding: Diagnostic) -> None:
        self._findings.append(finding)
        if len(self._findings) > MAX_UNCAPPED:
            self._findings[:] = capped(self._findings)

    def languages(self) -> tuple[frozenset[str], str]:
        """The language flags that the supervisor runs, and their source."""
        setting, source, _ = self.look_up(QB_LANGUAGES)
        if setting is None:
            return DEFAULT_FLAGS, source
        start = len(setting.value) - len(setting.value.lstrip())
        if setting.value[start].isdigit():
            entries = [(setting.value, start)]
        else:
            # With a comma it is an entry of a list. Alone, `4` would be read as the bits of flags.
            entries = [("," + entry, offset) for entry, offset in _split(setting.value)]
        flags: frozenset[str] = frozenset()
        for entry, offset in entries:
            more, problems = read_flags(entry)
            flags |= more
            for problem in problems:
                self.note(problem, setting, offset)
        return flags, source


class PathList:
    """Turns a path list into directories."""

    def __init__(self, environ: Mapping[str, str], host: Host, conf: QbConfReader) -> None:
        self._environ = environ
        self._host = host
        self._conf = conf

    def given(self, value: str, source: str) -> tuple[str, ...]:
        """The directories that a flag or variable lists. Raises BadPath."""
        found: dict[str, None] = {}
        for count, (entry, _) in enumerate(_split(_unquoted(value))):
            if count == MAX_DIRECTORIES:
                raise BadPath(_TOO_MANY)
            directory = self._directory(entry)
            if directory in found:
                self._conf.note_flag(_listed_twice(directory), source)
            found[directory] = None
        return tuple(found)

    def configured(self) -> tuple[tuple[str, ...], str]:
        """The directories that qb.conf lists, else the default, and their source. Raises BadPath.

        No directories if the list has an error: the administrator did not mean the default.
        """
        setting, source, broken = self._conf.look_up(QB_PATH)
        found: dict[str, None] = {}
        if setting is not None:
            broken = not self._read_setting(setting, found) or broken
        if found:
            return tuple(found), source
        if broken:
            return (), self._conf.path
        return (self._directory("$QBDIR/callback"),), DEFAULT

    def _read_setting(self, setting: Setting, found: dict[str, None]) -> bool:
        """Add the directories of qb.conf to `found`. False if one of them cannot be used."""
        usable = True
        for count, (entry, offset) in enumerate(_split(setting.value)):
            if count == MAX_DIRECTORIES:
                hint = "put several sets of callbacks into one directory"
                self._conf.note(Problem("too-many-directories", _TOO_MANY, hint), setting, offset)
                break
            try:
                expanded = self._expanded(entry)
                directory = self._absolute(expanded)
            except BadPath as error:
                self._conf.note(Problem("bad-path", str(error)), setting, offset)
                usable = False
                continue
            if not expanded.startswith("/"):
                self._conf.note(_relative(entry, directory), setting, offset)
            if directory in found:
                self._conf.note(_listed_twice(directory), setting, offset)
            found[directory] = None
        return usable

    def _directory(self, entry: str) -> str:
        """The directory that an entry names, absolute and normalised. Raises BadPath."""
        return self._absolute(self._expanded(entry))

    def _expanded(self, entry: str) -> str:
        """The entry with `~` and `$QBDIR` replaced. Raises BadPath."""
        _check_length(entry)
        if entry == "~" or entry.startswith("~/"):
            entry = home(self._environ, self._host) + entry[1:]
        if _QBDIR.search(entry):
            qbdir = self._qbdir()
            _check_length(qbdir)
            entry = _QBDIR.sub(lambda _: qbdir, entry)
        if "\0" in entry:
            raise BadPath(f"{shown(entry)}: a path cannot contain NUL")
        return entry

    def _absolute(self, path: str) -> str:
        """The path, absolute and normalised. Raises BadPath."""
        directory = normalise(self._host.absolute(path))
        _check_length(directory)
        try:
            directory.encode()
        except UnicodeEncodeError:
            # Results are JSON, which cannot hold this path.
            raise BadPath(f"{shown(directory)} is not UTF-8: rename it") from None
        return directory

    def _qbdir(self) -> str:
        """The value of $QBDIR: the variable, else qb.conf, else where Qube installs itself."""
        given = self._environ.get("QBDIR", "")
        if given:
            return given
        setting, _, _ = self._conf.look_up(QB_DIRECTORY)
        if setting is not None:
            value = setting.value.strip()
            if "\0" not in value and len(value) <= MAX_PATH:
                return value
            offset, wrong = 0, f"a path may have at most {MAX_PATH} characters"
            if "\0" in value:
                offset, wrong = setting.value.index("\0"), "a path cannot contain NUL"
            self._conf.note(Problem("bad-path", wrong), setting, offset)
        return "/Applications/pfx/qube" if self._host.system == "darwin" else "/usr/local/pfx/qube"


def normalise(path: str) -> str:
    """An absolute path, normalised as text alone: links are not resolved.

    The text names the directory in results and digests, so that it is the same on two hosts whose
    links differ.
    """
    # POSIX lets a leading `//` differ from `/`; on Linux and macOS it does not.
    return "/" + posixpath.normpath(path).lstrip("/")


def _check_length(path: str) -> None:
    """Raise BadPath if no system can open the path."""
    if len(path) > MAX_PATH:
        raise BadPath(
            f"{shown(path)} has {len(path)} characters; a path may have at most {MAX_PATH}"
        )


def _listed_twice(directory: str) -> Problem:
    message = f"{shown(directory)} is listed twice and is read once"
    return Problem("duplicate-directory", message, "remove one of the two")


def _relative(entry: str, directory: str) -> Problem:
    message = (
        f"{shown(entry)} is relative to the directory in which the agent was started: it is read"
        f" as {shown(directory)}"
    )
    return Problem("relative-path", message, "write an absolute path")


def _split(value: str) -> Iterator[tuple[str, int]]:
    """The entries of a comma-separated list, stripped of white space, with their offsets."""
    for match in re.finditer(r"[^,]+", value):
        entry = match[0].strip()
        if entry:
            yield entry, match.start() + len(match[0]) - len(match[0].lstrip())


def _unquoted(value: str) -> str:
    """A value of a flag or variable, without the quotes that the shell left on it."""
    value = value.strip()
    if not value.startswith('"'):
        return value
    if closing_quote(value, 0) != len(value) - 1:
        raise BadPath(
            f"{shown(value)}: put the whole list in one pair of double quotes, or in none"
        )
    return unescaped(value[1:-1])
