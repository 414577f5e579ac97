"""Flags, environment and qb.conf: one frozen value, each part with where it came from.

The command line counts before the environment, that before qb.conf, that before the default. Empty
counts as unset. `resolve` is pure: it is given all that it looks at. `read` gives it the system's.
"""

from __future__ import annotations

import grp
import os
import posixpath
import pwd
import re
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from agent.core.conf import Setting, closing_quote, read_qb, unescaped
from agent.core.diagnostic import MAX_UNCAPPED, Diagnostic, Severity, capped
from agent.core.languages import DEFAULT_FLAGS, read_flags
from agent.core.quoting import encodable, printable, shown

#: Where each setting may be given, by the name of its field in Settings (and in `flags`).
_FLAG_AND_VARIABLE = {
    "qb_conf": ("--qb-conf", "CALLBACK_AGENT_QB_CONF"),
    "directories": ("--callback-path", "CALLBACK_AGENT_PATH"),
    "pipe": ("--pipe", "CALLBACK_AGENT_PIPE"),
    "log": ("--log", "CALLBACK_AGENT_LOG"),
    "log_format": ("--log-format", "CALLBACK_AGENT_LOG_FORMAT"),
    "state": ("--state", "CALLBACK_AGENT_STATE"),
    "unsafe_permissions": ("--unsafe-permissions", "CALLBACK_AGENT_UNSAFE_PERMISSIONS"),
    "trusted_group": ("--trusted-group", "CALLBACK_AGENT_TRUSTED_GROUP"),
    "pipe_group": ("--pipe-group", "CALLBACK_AGENT_PIPE_GROUP"),
    "reload_for": ("--reload-for", "CALLBACK_AGENT_RELOAD_FOR"),
}

#: The words that some settings take; the first that stands for `not said` depends on the user.
_WORDS = {
    "log_format": ("text", "json"),
    "unsafe_permissions": ("refuse", "warn", "ignore"),
    "reload_for": ("all", "owner"),
}

#: What is read of qb.conf. Its other settings are not ours.
_QB_PATH = "supervisor_universal_callback_path"
_QB_LANGUAGES = "supervisor_language_flags"
_QB_DIRECTORY = "qb_directory"

#: The most bytes of qb.conf that are read. Those of large farms have some hundred kilobytes.
MOST_QB_CONF_BYTES = 1 << 20

#: The longest path of a Unix socket in bytes: sun_path without its ending NUL.
MOST_PIPE_BYTES = {"linux": 107, "darwin": 103}

#: The longest path of a directory, in characters: PATH_MAX of Linux. No system opens a longer one.
MAX_PATH = 4096
#: The most directories. Each is watched and scanned; farms list a few.
MAX_DIRECTORIES = 10_000
_TOO_MANY = f"more than {MAX_DIRECTORIES} directories are listed; no more are read"
#: Digits of a group id, which has 32 bits.
_MAX_ID_DIGITS = 10

STANDARD_OUTPUT = "-"
DEFAULT = "default"

_QBDIR = re.compile(r"\$(?:QBDIR(?![A-Za-z0-9_])|\{QBDIR\})")


class SettingsError(Exception):
    """A flag, a variable or a path that cannot be used. The text is one clear line."""


@dataclass(frozen=True, slots=True)
class Host:
    """What the defaults depend on: `sys.platform`, user id, home and working directory."""

    system: str
    uid: int
    home: str
    #: None where it was deleted under the process: then a relative path is an error.
    cwd: str | None

    @classmethod
    def here(cls) -> Host:
        """This process's."""
        uid = os.geteuid()
        home = os.environ.get("HOME")
        if not home:  # Only then: the database of users may be a slow server.
            try:
                home = pwd.getpwuid(uid).pw_dir
            except KeyError:
                home = "/"
        try:
            cwd = os.getcwd()
        except OSError:
            cwd = None
        return cls(sys.platform, uid, home, cwd)


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings. Paths are absolute; `log` may be `-`, standard output.

    `sources` says for each where it came from: the flag, the variable, `path:line` of qb.conf, or
    `default`. `trusted_group` and `pipe_group` are group names or ids, empty for none.
    """

    qb_conf: str
    directories: tuple[str, ...]
    pipe: str
    log: str
    log_format: str
    state: str
    languages: frozenset[str]
    sources: Mapping[str, str]
    findings: tuple[Diagnostic, ...] = ()
    #: Whether there is a qb.conf, so that one that vanishes later can be told from none at all.
    found: bool = False
    #: What becomes of callbacks that others may write: refuse, warn or ignore.
    unsafe_permissions: str = "warn"
    trusted_group: str = ""
    pipe_group: str = ""
    #: Who may ask for a reload: all that may ask at all, or the owner (the agent's user and root).
    reload_for: str = "all"

    @property
    def bad(self) -> bool:
        """Whether qb.conf has an error in what is ours: then these settings must not be taken."""
        return any(finding.severity is Severity.ERROR for finding in self.findings)

    def as_json(self) -> dict[str, dict[str, str | list[str]]]:
        """`{name: {value, source}}`, as `status` reports them."""
        values: dict[str, str | list[str]] = {
            "qb_conf": encodable(self.qb_conf),
            "directories": [encodable(directory) for directory in self.directories],
            "pipe": encodable(self.pipe),
            "log": encodable(self.log),
            "log_format": self.log_format,
            "state": encodable(self.state),
            "languages": sorted(self.languages),
            "unsafe_permissions": self.unsafe_permissions,
            "trusted_group": encodable(self.trusted_group),
            "pipe_group": encodable(self.pipe_group),
            "reload_for": self.reload_for,
        }
        return {
            name: {"value": value, "source": encodable(self.sources[name])}
            for name, value in values.items()
        }


def read(
    flags: Mapping[str, str | None],
    environ: Mapping[str, str] | None = None,
    host: Host | None = None,
) -> Settings:
    """The settings as of now. `flags` holds what the command line gave, by the field's name; `host`
    is what relative paths and defaults depend on, by default as it is now.

    Raises SettingsError for a flag or variable that cannot be used. What is wrong in qb.conf is in
    `findings`.
    """
    environ = os.environ if environ is None else environ
    host = host or Host.here()
    path, _ = qb_conf(flags, environ, host)
    return resolve(flags, environ, read_qb_conf(path), host)


def read_qb_conf(path: str) -> bytes | OSError | None:
    """The bytes of qb.conf; None where there is none; the error where it cannot be read."""
    try:
        # O_NONBLOCK: a pipe of this name must not make the agent wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISDIR(mode) or stat.S_ISFIFO(mode):
                return OSError(0, "it is no regular file")
            data = file.read(MOST_QB_CONF_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return error
    if data is None:  # A terminal, say, that has nothing to read.
        return OSError(0, "it is no regular file")
    if len(data) > MOST_QB_CONF_BYTES:
        return OSError(0, f"it is larger than {MOST_QB_CONF_BYTES} bytes")
    return data


def qb_conf(
    flags: Mapping[str, str | None], environ: Mapping[str, str], host: Host
) -> tuple[str, str]:
    """The path of qb.conf, and where that was said."""
    value, source = _given("qb_conf", flags, environ)
    return (_absolute(value, host) if value else "/etc/qb.conf"), source


def resolve(
    flags: Mapping[str, str | None],
    environ: Mapping[str, str],
    qb: bytes | OSError | None,
    host: Host,
) -> Settings:
    """The settings that follow from these, where `qb` is what read_qb_conf gave.

    Takes any bytes as `qb`. Raises SettingsError for a flag or variable that cannot be used.
    """
    sources: dict[str, str] = {}
    findings: list[Diagnostic] = []
    values: dict[str, str] = {}
    values["qb_conf"], sources["qb_conf"] = qb_conf(flags, environ, host)
    defaults = _defaults(environ, host)
    for name in ("pipe", "log", "state"):
        value, sources[name] = _given(name, flags, environ)
        if name == "log" and value == STANDARD_OUTPUT:
            values[name] = value
        else:
            values[name] = _absolute(value or defaults[name], host)
    for name, words in _WORDS.items():
        values[name], sources[name] = _given(name, flags, environ)
        if values[name] not in ("", *words):
            raise SettingsError(
                f"{sources[name]}: expected {' or '.join(words)}, found {shown(values[name])}"
            )
    for name in ("trusted_group", "pipe_group"):
        values[name], sources[name] = _given(name, flags, environ)
    found = qb is not None
    if isinstance(qb, OSError):
        why = qb.strerror or type(qb).__name__
        message = f"the supervisor's configuration cannot be read: {why}"
        hint = "let the agent's user read it, or name another with --qb-conf"
        code = "qb-conf-unreadable"
        findings.append(
            Diagnostic(Severity.ERROR, code, values["qb_conf"], None, None, message, hint)
        )
        qb = b""
    conf = _QbConf(qb or b"", values["qb_conf"], findings)
    paths = _Paths(environ, host, conf)
    directories, sources["directories"] = _directories(flags, environ, paths)
    languages, sources["languages"] = _languages(conf)
    findings.sort(key=lambda finding: (finding.line or 0, finding.column or 0))
    findings = capped(findings)
    return Settings(
        values["qb_conf"],
        directories,
        values["pipe"],
        values["log"],
        values["log_format"] or "text",
        values["state"],
        languages,
        sources,
        tuple(findings),
        found,
        # Who runs callbacks as root must not take them from just anybody.
        values["unsafe_permissions"] or ("refuse" if host.uid == 0 else "warn"),
        values["trusted_group"],
        values["pipe_group"],
        values["reload_for"] or "all",
    )


def normalise(path: str, host: Host) -> str:
    """A directory's absolute path, tidied as text alone; links are not resolved.

    The text is what names the directory in answers and digests, so that it is the same on two
    hosts whose links differ.
    """
    # POSIX lets `//` at the front mean something else than `/`; no system that we run on does.
    return "/" + posixpath.normpath(_absolute(path, host)).lstrip("/")


def group_id(name: str, source: str) -> int | None:
    """The id of a group given by name or id, None for none. Raises SettingsError."""
    if not name:
        return None
    if name.isdecimal() and len(name) <= _MAX_ID_DIGITS:
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        raise SettingsError(f"{source}: there is no group {shown(name)}") from None


def pipe_folder(settings: Settings) -> None:
    """Make sure that the pipe can be made where it is to be. For `serve` alone.

    The folder of the default pipe is made, 0700 (0755 where root makes it), and refused if it is
    somebody else's or others may write to it: they could put their own pipe in its place. The
    folder of a pipe that was named must be there. Raises SettingsError.
    """
    check_pipe(settings.pipe)
    folder = os.path.dirname(settings.pipe)
    quoted = printable(folder)
    uid = os.geteuid()
    if settings.sources["pipe"] != DEFAULT:
        if not os.path.isdir(folder):
            raise SettingsError(
                f"{settings.sources['pipe']}: there is no folder {quoted} to make the pipe in;"
                " make it first"
            )
        return
    mode = 0o755 if uid == 0 else 0o700
    try:
        os.mkdir(folder, mode)
        os.chmod(folder, mode)  # The umask may have taken bits away.
    except FileExistsError:
        pass
    except OSError as error:
        raise SettingsError(
            f"the folder {quoted} for the pipe cannot be made: {error.strerror};"
            " say where the pipe is to be with --pipe"
        ) from None
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode):
        raise SettingsError(
            f"{quoted} is in the way of the pipe's folder: it is no directory; remove it, or say"
            " where the pipe is to be with --pipe"
        )
    if found.st_uid != uid:
        raise SettingsError(
            f"the folder {quoted} for the pipe belongs to the user id {found.st_uid}, not to"
            f" {uid}, who runs this agent; say where the pipe is to be with --pipe"
        )
    if found.st_mode & 0o022:
        raise SettingsError(
            f"others may write to the folder {quoted} of the pipe (mode"
            f" {stat.S_IMODE(found.st_mode):04o}): chmod {mode:o} {quoted}"
        )


def check_pipe(path: str, system: str = sys.platform) -> None:
    """Raise SettingsError where the path is longer than a Unix socket's may be."""
    most = MOST_PIPE_BYTES.get(system, min(MOST_PIPE_BYTES.values()))
    length = len(os.fsencode(path))
    if length > most:
        raise SettingsError(
            f"the path of the pipe, {shown(path)}, has {length} bytes; a Unix socket's may"
            f" have {most}: choose a shorter one with --pipe"
        )


class _QbConf:
    """Looks settings up in qb.conf, and notes what is wrong with those that are looked up.

    A setting that something else overrules is not looked up: an error in it changes nothing.
    """

    def __init__(self, data: bytes, path: str, findings: list[Diagnostic]) -> None:
        self._data = data
        self.path = path
        self._findings = findings
        self._seen: dict[str, tuple[Setting | None, str, bool]] = {}

    def look_up(self, name: str) -> tuple[Setting | None, str, bool]:
        """The setting (None if unset or empty), where it stands, and whether it has an error."""
        if name not in self._seen:
            found, findings = read_qb(self._data, self.path, {name})
            self._findings += findings
            broken = any(finding.severity is Severity.ERROR for finding in findings)
            setting = found.get(name)
            if setting is None or not setting.value.strip():
                self._seen[name] = None, DEFAULT, broken
            else:
                self._seen[name] = setting, f"{self.path}:{setting.line}", broken
        return self._seen[name]

    def note(
        self,
        severity: Severity,
        code: str,
        setting: Setting,
        offset: int,
        message: str,
        hint: str | None = None,
    ) -> None:
        """Note a finding about the character at `offset` of the setting's value."""
        place = setting.line, setting.column_of(offset)
        self._add(Diagnostic(severity, code, self.path, *place, message, hint))

    def note_flag(self, code: str, source: str, message: str, hint: str) -> None:
        """Note a warning about a value that stands in a flag or variable."""
        self._add(Diagnostic(Severity.WARNING, code, source, None, None, message, hint))

    def _add(self, finding: Diagnostic) -> None:
        self._findings.append(finding)
        if len(self._findings) > MAX_UNCAPPED:
            self._findings[:] = capped(self._findings)


class _Paths:
    """Makes the entries of a path list into directories."""

    def __init__(self, environ: Mapping[str, str], host: Host, conf: _QbConf) -> None:
        self._environ = environ
        self._host = host
        self.conf = conf

    def directory(self, entry: str) -> str:
        """The entry with `~` and `$QBDIR` filled in, absolute and normalised.

        Raises SettingsError where that gives no path.
        """
        _check_path_length(entry)
        if entry == "~" or entry.startswith("~/"):
            entry = _home(self._environ, self._host) + entry[1:]
        if _QBDIR.search(entry):
            qbdir = self._qbdir()
            _check_path_length(qbdir)
            entry = _QBDIR.sub(lambda _: qbdir, entry)
        if "\0" in entry:
            raise SettingsError(f"{shown(entry)}: a path holds no NUL")
        directory = normalise(entry, self._host)
        _check_path_length(directory)
        try:
            directory.encode()
        except UnicodeEncodeError:
            # Answers are JSON, which could not name the directory.
            raise SettingsError(f"{shown(directory)} is not UTF-8") from None
        return directory

    def _qbdir(self) -> str:
        given = self._environ.get("QBDIR", "")
        if given:
            return given
        setting, _, _ = self.conf.look_up(_QB_DIRECTORY)
        if setting is not None:
            value = setting.value.strip()
            if "\0" not in value and len(value) <= MAX_PATH:
                return value
            offset, wrong = 0, f"a path may have at most {MAX_PATH} characters"
            if "\0" in value:
                offset, wrong = setting.value.index("\0"), "a path holds no NUL"
            self.conf.note(Severity.ERROR, "bad-path", setting, offset, wrong)
        if self._host.system == "darwin":
            return "/Applications/pfx/qube"
        return "/usr/local/pfx/qube"


def _check_path_length(path: str) -> None:
    """Raise SettingsError for a path that no system opens."""
    if len(path) > MAX_PATH:
        raise SettingsError(
            f"{shown(path)} has {len(path)} characters; a path may have at most {MAX_PATH}"
        )


def _directories(
    flags: Mapping[str, str | None], environ: Mapping[str, str], paths: _Paths
) -> tuple[tuple[str, ...], str]:
    """The callback directories, and where they were said. A list of nothing counts as unset."""
    given, source = _given("directories", flags, environ)
    if given:
        found: dict[str, None] = {}
        for count, (entry, _) in enumerate(_split(_unquoted(given, source))):
            if count == MAX_DIRECTORIES:
                raise SettingsError(f"{source}: {_TOO_MANY}")
            try:
                directory = paths.directory(entry)
            except SettingsError as error:
                raise SettingsError(f"{source}: {error}") from None
            if directory in found:
                paths.conf.note_flag("duplicate-directory", source, *_listed_twice(directory))
            found[directory] = None
        if found:
            return tuple(found), source
    setting, source, broken = paths.conf.look_up(_QB_PATH)
    if setting is not None:
        found = {}
        for count, (entry, offset) in enumerate(_split(setting.value)):
            if count == MAX_DIRECTORIES:
                hint = "put several sets of callbacks into one directory"
                code = "too-many-directories"
                paths.conf.note(Severity.ERROR, code, setting, offset, _TOO_MANY, hint)
                break
            try:
                directory = paths.directory(entry)
            except SettingsError as error:
                paths.conf.note(Severity.ERROR, "bad-path", setting, offset, str(error))
                broken = True
                continue
            if directory in found:
                message, hint = _listed_twice(directory)
                code = "duplicate-directory"
                paths.conf.note(Severity.WARNING, code, setting, offset, message, hint)
            found[directory] = None
        if found:
            return tuple(found), source
    if broken:
        # What the list was to be is not known, and it was not to be the default.
        return (), paths.conf.path
    return (paths.directory("$QBDIR/callback"),), DEFAULT


def _listed_twice(directory: str) -> tuple[str, str]:
    return f"{shown(directory)} is listed twice and is read once", "remove one of the two"


def _languages(conf: _QbConf) -> tuple[frozenset[str], str]:
    """What the supervisor will run, and where that was said."""
    setting, source, _ = conf.look_up(_QB_LANGUAGES)
    if setting is None:
        return DEFAULT_FLAGS, source
    start = len(setting.value) - len(setting.value.lstrip())
    if setting.value[start].isdigit():
        flags, problems = read_flags(setting.value)
        for p in problems:
            conf.note(p.severity, p.code, setting, start, p.message, p.hint)
        return flags, source
    flags = frozenset()
    for entry, offset in _split(setting.value):
        # The comma makes it an entry of a list; alone, `4` would be the bits of all flags.
        more, problems = read_flags("," + entry)
        flags |= more
        for p in problems:
            conf.note(p.severity, p.code, setting, offset, p.message, p.hint)
    return flags, source


def _split(value: str) -> Iterator[tuple[str, int]]:
    """The entries of a list with commas, without the white space around, with their offsets."""
    for match in re.finditer(r"[^,]+", value):
        entry = match[0].strip()
        if entry:
            yield entry, match.start() + len(match[0]) - len(match[0].lstrip())


def _unquoted(value: str, source: str) -> str:
    """A value of the command line or environment, without quotes that the shell left on it."""
    value = value.strip()
    if not value.startswith('"'):
        return value
    if closing_quote(value, 0) != len(value) - 1:
        raise SettingsError(
            f"{source}: {shown(value)}: put the whole list in one pair of double quotes, or in none"
        )
    return unescaped(value[1:-1])


def _given(
    name: str, flags: Mapping[str, str | None], environ: Mapping[str, str]
) -> tuple[str, str]:
    """What the flag, else the variable says, and which; `""` and `default` where neither does."""
    flag, variable = _FLAG_AND_VARIABLE[name]
    for value, source in ((flags.get(name), flag), (environ.get(variable), variable)):
        if value:
            if "\0" in value:
                raise SettingsError(f"{source}: {shown(value)}: a path holds no NUL")
            return value, source
    return "", DEFAULT


def _absolute(path: str, host: Host) -> str:
    if not path.startswith("/") and host.cwd is None:
        raise SettingsError(
            f"{shown(path)} is a relative path, and the working directory is gone;"
            " give an absolute one"
        )
    return posixpath.join(host.cwd or "/", path)


def _home(environ: Mapping[str, str], host: Host) -> str:
    return environ.get("HOME") or host.home


def _defaults(environ: Mapping[str, str], host: Host) -> dict[str, str]:
    """The pipe, the log and the state directory of this user where nothing is said.

    `agent.client`, which stands alone, knows the pipe's as well.
    """
    if host.uid == 0:
        return {
            "pipe": "/run/callback-agent/pipe",
            "log": "/var/log/callback-agent/reload.log",
            "state": "/var/lib/callback-agent",
        }
    # The XDG Base Directory Specification: a path that is not absolute is ignored.
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    temporary = environ.get("TMPDIR", "")
    if runtime.startswith("/"):
        pipe = posixpath.join(runtime, "callback-agent", "pipe")
    else:
        if not temporary.startswith("/"):
            temporary = "/tmp"  # noqa: S108  (pipe_folder makes sure whose the folder below it is)
        pipe = posixpath.join(temporary, f"callback-agent-{host.uid}", "pipe")
    xdg = environ.get("XDG_STATE_HOME", "")
    if not xdg.startswith("/"):
        xdg = posixpath.join(_home(environ, host), ".local/state")
    state = posixpath.join(xdg, "callback-agent")
    return {"pipe": pipe, "log": posixpath.join(state, "reload.log"), "state": state}
