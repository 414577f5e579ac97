"""The settings: one table, and the value and source of each.

A flag takes precedence over the environment variable, that over qb.conf, that over the default;
empty counts as unset. The command line parser decides between flag and variable (`agent.cli`).
`resolve` decides the rest and is pure; `read` passes it qb.conf and this host.

To add a setting, add a field to Settings with its row. It becomes an option of the commands that
the row names, and `status` shows it.
"""

from __future__ import annotations

import grp
import hashlib
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from agent.core.conf import is_utf_16
from agent.core.diagnostic import Diagnostic, Severity, capped
from agent.core.quoting import encodable, shown
from agent.settings import reports
from agent.settings.host import BadPath, Host, default_log, default_pipe, default_state
from agent.settings.path_list import DEFAULT, PathList, QbConfReader, normalise

#: The most bytes of qb.conf that are read. Those of large farms have some hundred kilobytes.
MAX_QB_CONF_BYTES = 1 << 20
#: Digits of a group id, which has 32 bits.
_MAX_ID_DIGITS = 10
#: The value of `log` that is standard output.
STANDARD_OUTPUT = "-"


class SettingsError(Exception):
    """A flag, a variable or a path that cannot be used. The text is one line."""


class Given(NamedTuple):
    """What the command line or the environment says: the value, and the flag or variable."""

    value: str
    source: str


def _path(value: str, host: Host) -> str:
    return host.absolute(value)


def _path_or_standard_output(value: str, host: Host) -> str:
    return value if value == STANDARD_OUTPUT else host.absolute(value)


def metrics_file(value: str) -> str:
    """The value, which may be empty. Raises BadPath if it cannot be the name of a file of metrics.

    Such a file is replaced, and removed at the stop: another may be one that somebody needs.
    """
    if value and not value.endswith(".prom"):
        raise BadPath(f"{shown(value)} does not end in .prom, as the collector requires")
    return value


def _metrics_file(value: str, host: Host) -> str:
    return host.absolute(value) if metrics_file(value) else ""


def _text(value: str, host: Host) -> str:
    return value


# -- the table ------------------------------------------------------------------------------------

SERVE, CHECK, DIFF = "serve", "check", "diff"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """How one setting is given. `default` is called where neither flag nor variable give it."""

    #: Empty where only qb.conf gives it.
    flag: str = ""
    variable: str = ""
    #: The placeholder of its value in a command's help, and the line of help.
    metavar: str = ""
    help: str = ""
    #: The values that it may have; empty for any.
    choices: tuple[str, ...] = ()
    #: The commands that take its flag.
    commands: tuple[str, ...] = (SERVE,)
    #: Environment and host to default. None: `resolve` looks it up in qb.conf.
    default: Callable[[Mapping[str, str], Host], str] | None = None
    #: Text to value. May raise BadPath.
    convert: Callable[[str, Host], str] = _text


def _row(**columns: Any) -> dict[str, Row]:
    return {"row": Row(**columns)}


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings. Paths are absolute; `log` may be STANDARD_OUTPUT.

    It has more than 15 attributes and methods because there is one field for each setting.
    """

    qb_conf: str = field(
        metadata=_row(
            flag="--qb-conf",
            variable="CALLBACK_AGENT_QB_CONF",
            metavar="FILE",
            help="The supervisor's configuration; by default /etc/qb.conf.",
            commands=(SERVE, CHECK),
            default=lambda environ, host: "/etc/qb.conf",
            convert=_path,
        )
    )
    directories: tuple[str, ...] = field(
        metadata=_row(
            flag="--callback-path",
            variable="CALLBACK_AGENT_PATH",
            metavar="DIRS",
            help="Callback directories, separated by commas; by default those of qb.conf.",
            commands=(SERVE, CHECK),
        )
    )
    pipe: str = field(
        metadata=_row(
            flag="--pipe",
            variable="CALLBACK_AGENT_PIPE",
            metavar="FILE",
            help="The agent's pipe.",
            commands=(SERVE, CHECK, DIFF),
            default=default_pipe,
            convert=_path,
        )
    )
    log: str = field(
        metadata=_row(
            flag="--log",
            variable="CALLBACK_AGENT_LOG",
            metavar="FILE",
            help="The reload log, - for standard output.",
            default=default_log,
            convert=_path_or_standard_output,
        )
    )
    log_format: str = field(
        metadata=_row(
            flag="--log-format",
            variable="CALLBACK_AGENT_LOG_FORMAT",
            choices=("text", "json"),
            help="The format of the reload log; by default text.",
            default=lambda environ, host: "text",
        )
    )
    state: str = field(
        metadata=_row(
            flag="--state",
            variable="CALLBACK_AGENT_STATE",
            metavar="DIR",
            help="Where accepted callbacks are stored, so that a restart can serve them.",
            commands=(SERVE, CHECK, DIFF),
            default=default_state,
            convert=_path,
        )
    )
    languages: frozenset[str] = field(metadata=_row())
    #: What is done with callbacks that others can write to.
    unsafe_permissions: str = field(
        metadata=_row(
            flag="--unsafe-permissions",
            variable="CALLBACK_AGENT_UNSAFE_PERMISSIONS",
            choices=("refuse", "warn", "ignore"),
            help="What to do with callbacks that others can write to; by default refuse for root,"
            " warn for others.",
            commands=(SERVE, CHECK),
            default=lambda environ, host: "refuse" if host.uid == 0 else "warn",
        )
    )
    #: The name or id of a group, empty for none. So is pipe_group.
    trusted_group: str = field(
        metadata=_row(
            flag="--trusted-group",
            variable="CALLBACK_AGENT_TRUSTED_GROUP",
            metavar="GROUP",
            help="A group whose members may write callbacks.",
            commands=(SERVE, CHECK),
            default=lambda environ, host: "",
        )
    )
    pipe_group: str = field(
        metadata=_row(
            flag="--pipe-group",
            variable="CALLBACK_AGENT_PIPE_GROUP",
            metavar="GROUP",
            help="A group whose members may connect.",
            default=lambda environ, host: "",
        )
    )
    #: Who may ask for a reload: all that may connect, or the owner (the agent's user and root).
    reload_for: str = field(
        metadata=_row(
            flag="--reload-for",
            variable="CALLBACK_AGENT_RELOAD_FOR",
            choices=("all", "owner"),
            help="Who may ask for a reload; by default all who may connect.",
            default=lambda environ, host: "all",
        )
    )
    #: A file of metrics for the node exporter, empty for none.
    metrics_file: str = field(
        metadata=_row(
            flag="--metrics-file",
            variable="CALLBACK_AGENT_METRICS_FILE",
            metavar="FILE",
            help="Write the metrics to this file, for node_exporter's textfile collector.",
            default=lambda environ, host: "",
            convert=_metrics_file,
        )
    )
    #: By setting: the flag, the variable, `path:line` of qb.conf, or `default`.
    sources: Mapping[str, str]
    findings: tuple[Diagnostic, ...] = ()
    #: Whether qb.conf exists, so that one that vanishes later differs from one that never existed.
    qb_conf_exists: bool = False
    #: The SHA-256 of the bytes of qb.conf; None if it could not be read.
    qb_conf_digest: bytes | None = field(default=None, compare=False)

    @property
    def has_errors(self) -> bool:
        """Whether qb.conf has an error in what is read of it: then these must not be used."""
        return any(finding.severity is Severity.ERROR for finding in self.findings)

    def with_source(self, finding: Diagnostic) -> Diagnostic:
        """The finding; if it says that a listed directory is not there, with the setting that lists
        the directory."""
        return reports.with_source(finding, self.directories, self.sources["directories"])

    def line_of(self, name: str) -> int | None:
        """The line of qb.conf that gives a setting, None if qb.conf does not give it."""
        path, _, line = self.sources[name].rpartition(":")
        return int(line) if path == self.qb_conf and line.isdecimal() else None

    def as_json(self) -> dict[str, dict[str, str | list[str]]]:
        """`{name: {value, source}}`, as `status` reports them."""
        return {
            name: {
                "value": _value_as_json(getattr(self, name)),
                "source": encodable(self.sources[name]),
            }
            for name in TABLE
        }


#: Each setting's row, by the name of its field.
TABLE: Mapping[str, Row] = {f.name: f.metadata["row"] for f in fields(Settings) if f.metadata}


def _value_as_json(value: str | tuple[str, ...] | frozenset[str]) -> str | list[str]:
    if isinstance(value, str):
        return encodable(value)
    return [encodable(one) for one in (value if isinstance(value, tuple) else sorted(value))]


# -- from what is given to values -----------------------------------------------------------------


def read(
    given: Mapping[str, Given],
    environ: Mapping[str, str] | None = None,
    host: Host | None = None,
) -> Settings:
    """The settings as of now. `given` holds what flags and variables say, by the field's name;
    `host` is what relative paths and defaults depend on, by default this process's.

    Raises SettingsError for a flag or variable that cannot be used. What is wrong in qb.conf is in
    `findings`.
    """
    environ = os.environ if environ is None else environ
    host = host or Host.here()
    path, _ = _given_or_default("qb_conf", given, environ, host)
    return resolve(given, environ, read_qb_conf(path), host)


def read_qb_conf(path: str) -> bytes | OSError | None:
    """The bytes of qb.conf; None if it does not exist; the error if it cannot be read."""
    try:
        # O_NONBLOCK: the agent must not wait for somebody to write to a named pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISDIR(mode) or stat.S_ISFIFO(mode):
                return OSError(0, "it is not a regular file")
            data = file.read(MAX_QB_CONF_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return error
    if data is None:  # A terminal, for example, that has nothing to read.
        return OSError(0, "it is not a regular file")
    if len(data) > MAX_QB_CONF_BYTES:
        return OSError(0, f"it is larger than {MAX_QB_CONF_BYTES} bytes")
    # Read as it is, such a file sets nothing, and the defaults would take the place of all of it.
    if is_utf_16(data):
        return OSError(0, "it is not UTF-8 but UTF-16, or holds NUL bytes only")
    if b"\n" not in data and b"\r" in data.rstrip(b"\r"):
        return OSError(0, "its lines end with CR alone, not with LF")
    return data


def resolve(
    given: Mapping[str, Given],
    environ: Mapping[str, str],
    qb: bytes | OSError | None,
    host: Host,
) -> Settings:
    """The settings that follow from these. `qb` is what read_qb_conf returned; any bytes will do.

    Raises SettingsError for a flag or variable that cannot be used.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name, row in TABLE.items():
        if row.default is not None:
            values[name], sources[name] = _given_or_default(name, given, environ, host)
    findings: list[Diagnostic] = []
    if isinstance(qb, OSError):
        problem = reports.unreadable_qb_conf(values["qb_conf"], qb, host.uid)
        findings.append(problem.at(values["qb_conf"]))
    elif qb is None and sources["qb_conf"] != DEFAULT:
        findings.append(reports.no_qb_conf(sources["qb_conf"]).at(values["qb_conf"]))
    variables = {row.variable for row in TABLE.values() if row.variable}
    findings += reports.unknown_variables(environ, variables)
    conf = QbConfReader(qb if isinstance(qb, bytes) else b"", values["qb_conf"], findings)
    paths = PathList(environ, host, conf)
    values["directories"], sources["directories"] = _directories(given, paths)
    values["languages"], sources["languages"] = conf.languages()
    findings.sort(key=lambda finding: (finding.line or 0, finding.column or 0))
    return Settings(
        **values,
        sources=sources,
        findings=tuple(capped(findings)),
        qb_conf_exists=qb is not None,
        qb_conf_digest=hashlib.sha256(qb).digest() if isinstance(qb, bytes) else None,
    )


def _given_or_default(
    name: str, given: Mapping[str, Given], environ: Mapping[str, str], host: Host
) -> tuple[str, str]:
    """The value of a setting that qb.conf does not give, and its source. Raises SettingsError."""
    row = TABLE[name]
    assert row.default is not None
    one = given.get(name) or Given(row.default(environ, host), DEFAULT)
    try:
        if "\0" in one.value:
            raise BadPath(f"{shown(one.value)}: a path cannot contain NUL")
        return row.convert(one.value, host), one.source
    except BadPath as error:
        raise SettingsError(f"{one.source}: {error}") from None


def _directories(given: Mapping[str, Given], paths: PathList) -> tuple[tuple[str, ...], str]:
    """The callback directories, and their source. A list without entries counts as unset."""
    if one := given.get("directories"):
        try:
            listed = paths.given(*one)
        except BadPath as error:
            raise SettingsError(f"{one.source}: {error}") from None
        if listed:
            return listed, one.source
    try:
        return paths.configured()
    except BadPath as error:
        raise SettingsError(str(error)) from None


def absolute_directory(path: str, host: Host) -> str:
    """A directory's absolute path, normalised as text. Raises SettingsError."""
    try:
        return normalise(host.absolute(path))
    except BadPath as error:
        raise SettingsError(str(error)) from None


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
