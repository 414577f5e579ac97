"""Where each setting comes from, what it becomes, and what is wrong with it."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import client
from agent.core.diagnostic import Problem, Severity
from agent.core.languages import DEFAULT_FLAGS
from agent.settings import (
    MAX_QB_CONF_BYTES,
    TABLE,
    Settings,
    SettingsError,
    absolute_directory,
    read,
    read_qb_conf,
    resolve,
)
from agent.settings.host import Host
from support.given import by_flag, parsed

HOST = Host("linux", 1000, "/home/qube", "/work")
ROOT = replace(HOST, uid=0, home="/root")

QB_PATH = "supervisor_universal_callback_path"
QB_LANGUAGES = "supervisor_language_flags"


def settings(
    flags: Mapping[str, str | None] | None = None,
    environ: Mapping[str, str] | None = None,
    qb: str | bytes | OSError | None = None,
    host: Host = HOST,
) -> Settings:
    data = qb.encode() if isinstance(qb, str) else qb
    given = parsed(flags or {}, environ or {}) if flags or environ else {}
    return resolve(given, environ or {}, data, host)


def directories(path_list: str, environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    return settings({"directories": path_list}, environ).directories


def places(found: Settings) -> list[tuple[str, int | None, int | None, str, str]]:
    return [(f.path, f.line, f.column, f.severity.value, f.code) for f in found.findings]


# -- the first that is set wins -----------------------------------------------------------------

#: Field, flag, variable.
GIVEN = [
    ("qb_conf", "--qb-conf", "CALLBACK_AGENT_QB_CONF"),
    ("pipe", "--pipe", "CALLBACK_AGENT_PIPE"),
    ("log", "--log", "CALLBACK_AGENT_LOG"),
    ("state", "--state", "CALLBACK_AGENT_STATE"),
    ("directories", "--callback-path", "CALLBACK_AGENT_PATH"),
]


@pytest.mark.parametrize(("field", "flag", "variable"), GIVEN)
def test_a_flag_counts_before_the_variable_and_both_before_the_default(
    field: str, flag: str, variable: str
) -> None:
    def got(flags: dict[str, str | None], environ: dict[str, str]) -> tuple[str, str]:
        found = settings(flags, environ, f"{QB_PATH} = /qb")
        value = getattr(found, field)
        return (value[0] if isinstance(value, tuple) else value), found.sources[field]

    assert got({field: "/flag"}, {variable: "/variable"}) == ("/flag", flag)
    assert got({field: ""}, {variable: "/variable"}) == ("/variable", variable)
    assert got({field: None}, {variable: "/variable"}) == ("/variable", variable)
    default = got({}, {})
    assert default[1] == ("default" if field != "directories" else "/etc/qb.conf:1")
    assert got({field: ""}, {variable: ""}) == default
    assert got({field: "relative/x"}, {})[0] == "/work/relative/x"


def test_the_format_of_the_log() -> None:
    assert settings().log_format == "text"
    found = settings({"log_format": "json"}, {"CALLBACK_AGENT_LOG_FORMAT": "text"})
    assert (found.log_format, found.sources["log_format"]) == ("json", "--log-format")
    found = settings(environ={"CALLBACK_AGENT_LOG_FORMAT": "json"})
    assert (found.log_format, found.sources["log_format"]) == ("json", "CALLBACK_AGENT_LOG_FORMAT")


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.choices])
def test_a_setting_with_choices_takes_no_other_word(name: str) -> None:
    row = TABLE[name]
    for choice in row.choices:
        assert getattr(settings({name: choice}), name) == choice
    for flags, environ in ({name: "other"}, {}), ({}, {row.variable: "other"}):
        with pytest.raises(click.BadParameter, match=f"'other' is not one of '{row.choices[0]}'"):
            settings(flags, environ)


def test_a_hyphen_as_log_is_standard_output_and_no_file() -> None:
    assert settings({"log": "-"}).log == "-"
    assert settings({"log": "./-"}).log == "/work/./-"
    assert settings({"state": "-"}).state == "/work/-"


def test_files_are_made_absolute_and_otherwise_left_as_they_are() -> None:
    """`link/../x` is elsewhere than `x`, if `link` is a link."""
    assert settings({"pipe": "link/../pipe"}).pipe == "/work/link/../pipe"
    assert settings({"metrics_file": "a.prom"}).metrics_file == "/work/a.prom"


def test_a_metrics_file_must_have_the_name_of_one() -> None:
    """It is replaced, and removed at the stop: no file that somebody needs may be named."""
    for path in ("callbacks.conf", "/etc/qb.conf", "a.prom/b", ".prom.tmp"):
        with pytest.raises(SettingsError, match=r"does not end in \.prom"):
            settings({"metrics_file": path})


def test_the_defaults_of_root() -> None:
    found = settings(environ={"XDG_RUNTIME_DIR": "/run/x", "XDG_STATE_HOME": "/x"}, host=ROOT)
    assert found == Settings(
        qb_conf="/etc/qb.conf",
        directories=("/usr/local/pfx/qube/callback",),
        pipe="/run/callback-agent/pipe",
        log="/var/log/callback-agent/reload.log",
        log_format="text",
        state="/var/lib/callback-agent",
        languages=DEFAULT_FLAGS,
        unsafe_permissions="refuse",
        trusted_group="",
        pipe_group="",
        reload_for="all",
        metrics_file="",
        sources=dict.fromkeys(TABLE, "default"),
    ), "a setting that is new, or has another default: add it here"


IN_TMP = "/tmp/callback-agent-1000/pipe"
STATE = "/home/qube/.local/state"


@pytest.mark.parametrize(
    ("environ", "pipe", "state"),
    [
        ({}, IN_TMP, STATE),
        ({"HOME": "/h"}, IN_TMP, "/h/.local/state"),
        ({"HOME": ""}, IN_TMP, STATE),
        ({"TMPDIR": "/t"}, "/t/callback-agent-1000/pipe", STATE),
        ({"TMPDIR": "t"}, IN_TMP, STATE),
        ({"XDG_RUNTIME_DIR": "/r", "TMPDIR": "/t"}, "/r/callback-agent/pipe", STATE),
        ({"XDG_RUNTIME_DIR": "", "TMPDIR": "/t"}, "/t/callback-agent-1000/pipe", STATE),
        ({"XDG_RUNTIME_DIR": "r"}, IN_TMP, STATE),
        ({"XDG_STATE_HOME": "/s"}, IN_TMP, "/s"),
        ({"XDG_STATE_HOME": "s"}, IN_TMP, STATE),
    ],
)
def test_the_defaults_of_others(environ: dict[str, str], pipe: str, state: str) -> None:
    found = settings(environ=environ)
    assert found.pipe == pipe
    assert found.state == f"{state}/callback-agent"
    assert found.log == f"{state}/callback-agent/reload.log"
    # The client stands alone and works the pipe out by itself: both must find the same.
    assert client.default_pipe(environ, HOST.uid) == pipe
    assert client.default_pipe(environ, 0) == settings(environ=environ, host=ROOT).pipe


# -- the path list ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path_list", "expected"),
    [
        ("/a", ["/a"]),
        ("/a,/b", ["/a", "/b"]),
        (" /a , /b ,, ", ["/a", "/b"]),
        ("/a b/c", ["/a b/c"]),
        ('"/a,/b"', ["/a", "/b"]),
        (' " /a , /b " ', ["/a", "/b"]),
        (r'"/a\"b\\c\d"', [r'/a"b\c\d']),
        ("'/a'", ["/work/'/a'"]),
        ("a/./b//c/../d/", ["/work/a/b/d"]),
        ("//a", ["/a"]),
        ("///a", ["/a"]),
        ("/../a", ["/a"]),
        ("/", ["/"]),
        ("//", ["/"]),
        (".", ["/work"]),
        ("~", ["/home/qube"]),
        ("~/x", ["/home/qube/x"]),
        ("~other/x", ["/work/~other/x"]),
        ("/x/~/y", ["/x/~/y"]),
        ("$QBDIR/callback", ["/usr/local/pfx/qube/callback"]),
        ("${QBDIR}s", ["/usr/local/pfx/qubes"]),
        ("/x/$QBDIR", ["/x/usr/local/pfx/qube"]),
        ("/x/$QBDIRS,/y/$OTHER,/z/${QBDIR", ["/x/$QBDIRS", "/y/$OTHER", "/z/${QBDIR"]),
        # Nothing in it: the default.
        (",", ["/usr/local/pfx/qube/callback"]),
        ('" "', ["/usr/local/pfx/qube/callback"]),
    ],
)
def test_a_path_list_becomes_directories(path_list: str, expected: list[str]) -> None:
    assert list(directories(path_list)) == expected
    if '"' not in path_list and "'" not in path_list:
        # qb.conf takes quotes off itself; its own rules for them are tested with it.
        from_qb = settings(qb=f"{QB_PATH} = {path_list}\n")
        assert list(from_qb.directories) == expected
        assert list(settings(qb=f'{QB_PATH} = "{path_list}"\n').directories) == expected
        assert {finding.code for finding in from_qb.findings} <= {"relative-path"}


def test_quotes_that_do_not_hold_the_whole_list_are_refused() -> None:
    for wrong in ('"/a","/b"', '"/a', '"'):
        with pytest.raises(SettingsError, match=r"--callback-path: .* one pair of double quotes"):
            directories(wrong)


def test_qbdir_is_the_variable_else_of_qb_conf_else_where_qube_installs_itself() -> None:
    qb = "qb_directory = /opt/qube # ours\n"

    def default(environ: dict[str, str], qb: str, host: Host = HOST) -> str:
        return settings(environ=environ, qb=qb, host=host).directories[0]

    assert default({"QBDIR": "/q"}, qb) == "/q/callback"
    assert default({"QBDIR": ""}, qb) == "/opt/qube/callback"
    assert default({}, qb) == "/opt/qube/callback"
    assert default({}, "qb_directory =\n") == "/usr/local/pfx/qube/callback"
    assert default({}, 'qb_directory = ""\n') == "/usr/local/pfx/qube/callback"
    mac = replace(HOST, system="darwin")
    assert default({}, "", mac) == "/Applications/pfx/qube/callback"
    assert default({"QBDIR": r"\1,x"}, "") == r"/work/\1,x/callback"
    assert settings(environ={"QBDIR": "/q"}).sources["directories"] == "default"


def test_the_same_directory_twice_is_one_with_a_warning_at_the_second() -> None:
    qb = f'# c\n{QB_PATH} = "/a,/b, //a/./"\n'
    found = settings(qb=qb)
    assert found.directories == ("/a", "/b")
    column = qb.splitlines()[1].index("//a") + 1
    assert places(found) == [("/etc/qb.conf", 2, column, "warning", "duplicate-directory")]
    assert not found.has_errors
    found = settings({"directories": "/a,/a"})
    assert found.directories == ("/a",)
    assert places(found) == [("--callback-path", None, None, "warning", "duplicate-directory")]


def test_the_column_counts_what_escapes_took_away() -> None:
    qb = rf'{QB_PATH} = "/\"a\",/\"a\""'
    found = settings(qb=qb)
    assert found.directories == ('/"a"',)
    assert found.findings[0].column == qb.index(r",/\"") + 2


def test_directories_that_differ_only_on_disk_are_two(tmp_path: Path) -> None:
    """The text names a directory, not what a link leads to today."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    listed = f"{tmp_path}/real,{tmp_path}/link"
    found = settings({"directories": listed})
    assert found.directories == (f"{tmp_path}/real", f"{tmp_path}/link")
    assert not found.findings


def test_a_path_that_answers_could_not_name_is_refused() -> None:
    with pytest.raises(
        SettingsError, match=r"--callback-path: /work/\\xff is not UTF-8: rename it"
    ):
        directories("\udcff")
    with pytest.raises(SettingsError, match="NUL"):
        directories("/a\0b")
    with pytest.raises(SettingsError, match=r"--pipe: .*NUL"):
        settings({"pipe": "/a\0b"})
    found = settings(qb=f"{QB_PATH} = /a, /b\0c, /d\n")
    assert places(found) == [("/etc/qb.conf", 1, 42, "error", "bad-path")]
    assert found.has_errors
    found = settings(qb=b"qb_directory = /a\0b\n")
    assert places(found) == [("/etc/qb.conf", 1, 18, "error", "bad-path")]
    # The path list does not need it, so it is not ours.
    assert not settings({"directories": "/x"}, qb=b"qb_directory = /a\0b\n").findings


def test_a_relative_path_without_a_working_directory_is_refused() -> None:
    gone = replace(HOST, cwd=None)
    with pytest.raises(SettingsError, match="working directory was deleted"):
        settings({"pipe": "x"}, host=gone)
    assert settings({"pipe": "/x"}, host=gone).pipe == "/x"
    found = settings(qb=f"{QB_PATH} = /a,b\n", host=gone)
    assert places(found) == [("/etc/qb.conf", 1, 41, "error", "bad-path")]


@given(st.text("ab/.~ ", min_size=1))
def test_a_normal_path_is_absolute_plain_and_stays_so(path: str) -> None:
    normal = absolute_directory(path, HOST)
    assert normal.startswith("/")
    assert not normal.startswith("//")
    assert not {"", ".", ".."} & set(normal[1:].split("/")) or normal == "/"
    assert absolute_directory(normal, HOST) == normal


# -- qb.conf ------------------------------------------------------------------------------------


def test_the_sources_name_the_line_of_qb_conf() -> None:
    qb = f'# c\n{QB_LANGUAGES} = "perl,python"\n{QB_PATH} = /a\n'
    found = settings({"qb_conf": "/x/qb.conf"}, qb=qb)
    assert found.sources["directories"] == "/x/qb.conf:3"
    assert found.sources["languages"] == "/x/qb.conf:2"
    assert found.languages == {"perl", "python"}


@pytest.mark.parametrize("empty", ["", '""', '" "', "   # nothing"])
def test_empty_in_qb_conf_counts_as_unset(empty: str) -> None:
    found = settings(qb=f"{QB_PATH} = {empty}\n{QB_LANGUAGES} = {empty}\n")
    assert found.directories == ("/usr/local/pfx/qube/callback",)
    assert found.languages == DEFAULT_FLAGS
    assert set(found.sources.values()) == {"default"}
    assert not found.findings


def test_no_qb_conf_counts_as_an_empty_one() -> None:
    none, empty = settings(qb=None), settings(qb=b"")
    assert replace(none, qb_conf_exists=True) == empty
    assert (none.qb_conf_exists, empty.qb_conf_exists, none.findings) == (False, True, ())


def test_a_language_flag_that_is_unknown_is_found_where_it_stands() -> None:
    qb = f'{QB_LANGUAGES} = "qube, pyhton,perl"\n'
    found = settings(qb=qb)
    assert places(found) == [("/etc/qb.conf", 1, qb.index("pyhton") + 1, "warning", "unknown-flag")]
    assert found.languages == {"qube", "perl"}
    assert settings(qb=f"{QB_LANGUAGES} = 0x06\n").languages == {"perl", "python"}
    # In a list, a number is no sum of bits.
    found = settings(qb=f"{QB_LANGUAGES} = perl,4\n")
    assert found.languages == {"perl"}
    assert [f.column for f in found.findings] == [34]
    found = settings(qb=f'{QB_LANGUAGES} = " 5x"\n')
    assert places(found) == [("/etc/qb.conf", 1, 31, "error", "bad-flags")]
    assert found.has_errors


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (f'{QB_PATH} = "/a', "unclosed-quote"),
        (f"{QB_PATH} = {{ /a }}", "brace-value"),
        (f"{QB_LANGUAGES} = {{ perl }}", "brace-value"),
    ],
)
def test_an_error_in_what_is_ours_makes_the_settings_bad(line: str, code: str) -> None:
    found = settings(qb=f"x = y\n{line}\n")
    assert [(f.line, f.code) for f in found.findings] == [(2, code)]
    assert found.has_errors
    # The default is not what the administrator wrote.
    assert found.directories == (() if QB_PATH in line else ("/usr/local/pfx/qube/callback",))


def test_what_is_not_ours_or_is_overruled_gives_no_finding() -> None:
    qb = 'other = "\nsupervisor_other = {\n}\nno setting\n'
    assert not settings(qb=qb).findings
    broken = f'{QB_PATH} = "/a\n'
    assert not settings({"directories": "/x"}, qb=broken).findings
    assert not settings(environ={"CALLBACK_AGENT_PATH": "/x"}, qb=broken).findings


@pytest.mark.parametrize(
    ("line", "column", "hint"),
    [
        (f"{QB_PATH}s = /a", 1, f"write: {QB_PATH} = /a"),
        (f"supervisr_universl{QB_PATH[20:]} = /a", 1, f"write: {QB_PATH} = /a"),
        ('  supervisor_langauge_flags="perl" # on', 3, f'write: {QB_LANGUAGES}="perl" # on'),
        ("Supervisor_Language_Flags = perl", 1, f"write: {QB_LANGUAGES} = perl"),
        ("supervisor-universal-callback-path = /a", 1, f"write: {QB_PATH} = /a"),
        (f"{QB_LANGUAGES} perl,python # on", 1, f"write: {QB_LANGUAGES} = perl,python # on"),
        (f" {QB_LANGUAGES}: perl", 2, f"write: {QB_LANGUAGES} = perl"),
        (f"{QB_PATH}s = /{'a' * 400}", 1, f"write {QB_PATH}"),
        (QB_LANGUAGES, 1, "write = and the value after the name"),
        (f"; {QB_PATH} = /a", 1, f"write: # {QB_PATH} = /a"),
        (f"  //{QB_LANGUAGES} = perl", 3, f"write: # {QB_LANGUAGES} = perl"),
        (f"export {QB_LANGUAGES}=perl", 1, f"write: {QB_LANGUAGES}=perl"),
    ],
)
def test_a_line_that_looks_like_one_of_ours_and_sets_nothing(
    line: str, column: int, hint: str
) -> None:
    found = settings(qb=f"# a\n{line}\n")
    assert places(found) == [("/etc/qb.conf", 2, column, "warning", "unknown-setting")]
    assert found.findings[0].hint == hint
    assert (found.directories, found.languages) == (settings().directories, DEFAULT_FLAGS)
    # What a person writes who reads only the hint.
    if hint.startswith("write: "):
        assert not settings(qb=hint.removeprefix("write: ")).findings


@pytest.mark.parametrize(
    "line",
    [
        "supervisor_language_flagsets = perl",
        "supervisor_universal_path = /a",
        "supervisor_log_flags = x",
        "qb_domain = x",
        f"# {QB_LANGUAGES} perl",
        f"worker_path_map = {{\n{QB_PATH}s = x\n}}",
        f"see {QB_LANGUAGES}",
        "= x",
        "",
    ],
)
def test_a_parameter_that_is_not_ours_is_nobodys_mistake(line: str) -> None:
    assert not settings(qb=f"{line}\n").findings


def test_a_variable_that_looks_like_one_of_ours_is_ignored_with_a_warning() -> None:
    environ = {"CALLBACK_AGENT_PIPES": "/x", "CALLBACK_AGENT_SITE_TOOL": "y", "CALLBACK": "z"}
    found = resolve({}, environ, b"", HOST)
    assert places(found) == [("CALLBACK_AGENT_PIPES", None, None, "warning", "unknown-setting")]
    assert found.findings[0].hint == "did you mean CALLBACK_AGENT_PIPE?"


def test_directories_with_another_separator_than_a_comma() -> None:
    for path_list in ("/a:/b", "/a;/b", "/a /b"):
        found = settings(qb=f"{QB_PATH} = {path_list}\n")
        missing = Problem("missing", "M", "create it").at(path_list)
        assert found.with_source(missing).hint == "write commas between directories"


def test_what_is_overruled_is_not_looked_for() -> None:
    assert not settings({"directories": "/x"}, qb=f"{QB_PATH}s = /a\n").findings


def test_a_relative_path_of_qb_conf_is_a_warning_that_says_against_what() -> None:
    found = settings(qb=f"{QB_PATH} = /a, farm/callback\n")
    assert found.directories == ("/a", "/work/farm/callback")
    assert places(found) == [("/etc/qb.conf", 1, 42, "warning", "relative-path")]
    assert "read as /work/farm/callback" in found.findings[0].message
    # A person who types a path means their own directory; ~ and $QBDIR make a path absolute.
    assert not settings({"directories": "farm"}).findings
    assert not settings(qb=f"{QB_PATH} = ~/a, $QBDIR/b\n").findings
    relative = settings(qb=f"qb_directory = qube\n{QB_PATH} = $QBDIR/b\n")
    assert [f.code for f in relative.findings] == ["relative-path"]


def test_a_finding_about_a_missing_directory_names_the_setting_that_lists_it() -> None:
    def message(found: Settings, code: str = "missing", path: str = "/a") -> str:
        return found.with_source(Problem(code, "M").at(path)).message

    assert message(settings({"directories": "/a"})) == "M; it is listed by --callback-path"
    by_variable = settings(environ={"CALLBACK_AGENT_PATH": "/a"})
    assert message(by_variable) == "M; it is listed by CALLBACK_AGENT_PATH"
    of_qb_conf = settings(qb=f"\n{QB_PATH} = /a\n")
    assert message(of_qb_conf) == "M; it is listed by /etc/qb.conf:2"
    assert message(of_qb_conf, "not-a-directory") == "M; it is listed by /etc/qb.conf:2"
    default = message(settings(), path="/usr/local/pfx/qube/callback")
    assert default == f"M; it is the default, since {QB_PATH} is not set"
    # Of a file in it, and of another directory, the setting says nothing.
    assert message(of_qb_conf, "unreadable") == message(of_qb_conf, path="/a/b.py") == "M"


def test_findings_come_in_line_order() -> None:
    found = settings(qb=f"{QB_LANGUAGES} = pyhton\n{QB_PATH} = /a,/a\n")
    assert [finding.line for finding in found.findings] == [1, 2]


@given(
    st.binary(max_size=200)
    | st.lists(
        st.sampled_from([QB_PATH, QB_LANGUAGES, "qb_directory"])
        | st.sampled_from(["=", '"', "\\", "{", "}", "#", "\n", ",", "\0", "'", " ", "~", "$QBDIR"])
        | st.sampled_from(["/a", "perl", "7", "0x", "99999999999999999999", "\u00e9", "\ufeff"]),
        max_size=30,
    ).map(lambda parts: "".join(parts).encode())
    | st.tuples(st.sampled_from([QB_PATH, QB_LANGUAGES]), st.binary(max_size=50)).map(
        lambda parts: parts[0].encode() + b" = " + parts[1]
    )
)
def test_any_bytes_as_qb_conf_give_settings_and_findings(qb: bytes) -> None:
    found = settings(qb=qb)
    assert len(set(found.directories)) == len(found.directories)
    assert found.directories or found.has_errors
    assert all(directory.startswith("/") for directory in found.directories)
    for directory in found.directories:
        directory.encode()
    lines = qb.decode("utf-8", "replace").split("\n")
    for finding in found.findings:
        assert finding.path == "/etc/qb.conf"
        assert finding.line is not None
        assert 1 <= finding.line <= len(lines)
    assert found.has_errors == any(f.severity is Severity.ERROR for f in found.findings)


# -- reading it ---------------------------------------------------------------------------------


def test_a_qb_conf_is_read_from_where_it_is_named(tmp_path: Path) -> None:
    file = tmp_path / "qb.conf"
    given = by_flag({"qb_conf": str(file)})
    missing = read(given, {})
    assert places(missing) == [(str(file), None, None, "note", "no-qb-conf")]
    assert missing.findings[0].message.startswith("--qb-conf names this file")
    assert missing.sources["directories"] == "default"
    assert not missing.has_errors
    file.write_text(f"{QB_PATH} = /a\n")
    assert read(given, {}).directories == ("/a",)
    none = by_flag({"qb_conf": str(tmp_path / "none")})
    assert read(none, {}).sources["directories"] == "default"
    assert read(by_flag({"qb_conf": "/dev/null"}), {}).findings == ()


def test_a_qb_conf_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(b"#" * (MAX_QB_CONF_BYTES + 1))
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "directory").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    for name in ("fifo", "large", "loop", "directory", "socket"):
        path = str(tmp_path / name)
        found = read(by_flag({"qb_conf": path}), {})
        assert places(found) == [(path, None, None, "error", "qb-conf-unreadable")]
        assert found.has_errors
    (tmp_path / "large").write_bytes(b"#" * MAX_QB_CONF_BYTES)
    large = by_flag({"qb_conf": str(tmp_path / "large")})
    assert not read(large, {}).findings


def test_a_qb_conf_that_a_variable_names_and_that_is_not_there_is_a_note() -> None:
    found = settings(environ={"CALLBACK_AGENT_QB_CONF": "/x"})
    assert places(found) == [("/x", None, None, "note", "no-qb-conf")]
    assert found.findings[0].message.startswith("CALLBACK_AGENT_QB_CONF names this file")
    # Nobody named the default.
    assert settings().findings == ()


def test_the_reason_why_qb_conf_cannot_be_read_is_told() -> None:
    found = settings(qb=PermissionError(13, "Permission denied"))
    assert "Permission denied" in found.findings[0].message
    assert found.has_errors


def test_a_qb_conf_below_a_file_does_not_exist(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert read_qb_conf(str(tmp_path / "file" / "qb.conf")) is None


def test_the_settings_as_status_reports_them() -> None:
    found = settings({"directories": "/a,/b", "log": "-", "state": "/\udcff"})
    assert found.as_json() == {
        "qb_conf": {"value": "/etc/qb.conf", "source": "default"},
        "directories": {"value": ["/a", "/b"], "source": "--callback-path"},
        "pipe": {"value": "/tmp/callback-agent-1000/pipe", "source": "default"},
        "log": {"value": "-", "source": "--log"},
        "log_format": {"value": "text", "source": "default"},
        "state": {"value": r"/\xff", "source": "--state"},
        "languages": {"value": sorted(DEFAULT_FLAGS), "source": "default"},
        "unsafe_permissions": {"value": "warn", "source": "default"},
        "trusted_group": {"value": "", "source": "default"},
        "pipe_group": {"value": "", "source": "default"},
        "reload_for": {"value": "all", "source": "default"},
        "metrics_file": {"value": "", "source": "default"},
    }, "a new setting: add it here, and run UPDATE_TRANSCRIPTS=1 scripts/test tests/clients"
