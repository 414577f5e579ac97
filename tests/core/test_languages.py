"""The three languages: whether the supervisor runs a callback, and the problems of its code."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.diagnostic import Severity
from agent.core.languages import (
    CODES,
    DEFAULT_FLAGS,
    FLAGS,
    MAIL_CODES,
    Verdict,
    check_qube,
    does_not_compile,
    is_enabled,
    language_of,
    read_flags,
    verdict,
    wrong_target,
)
from agent.core.python_source import examine, too_complex


@pytest.mark.parametrize(
    ("file", "language"),
    [
        *(("a.py", "python"), ("a.pl", "perl"), ("a.qcb", "qube"), ("a.b.py", "python")),
        *((".py", "python"), ("a.PY", None), ("a.pyc", None), ("py", None), ("a.", None)),
        *(("a.py ", None), ("a.py.txt", None), ("", None)),
    ],
)
def test_the_extension_says_the_language_and_case_counts(file: str, language: str | None) -> None:
    assert language_of(file) == language


# supervisor_language_flags -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("qube", {"qube"}),
        ("qube,perl,python", {"qube", "perl", "python"}),
        (" qube , ,perl,", {"qube", "perl"}),
        ("7", {"qube", "perl", "python"}),
        ("0x7", {"qube", "perl", "python"}),
        ("0X1F", {"qube", "perl", "python", "post", "mail"}),
        ("0", set()),
        ("127", set(FLAGS)),
        ("007", {"qube", "perl", "python"}),
    ],
)
def test_flags_are_names_or_the_sum_of_their_bits(text: str, flags: set[str]) -> None:
    assert read_flags(text) == (frozenset(flags), [])


@pytest.mark.parametrize(
    ("text", "severity", "code", "hint"),
    [
        ("pyhton", "warning", "unknown-flag", "did you mean python?"),
        ("Perl", "warning", "unknown-flag", "did you mean perl?"),
        ("ruby", "warning", "unknown-flag", "qube, perl, python"),
        ("qube perl python", "warning", "unknown-flag", "commas between the flags"),
        ("qube;perl", "warning", "unknown-flag", "commas between the flags"),
        ("129", "warning", "unknown-flag", "qube, perl, python"),
        ("4x", "error", "bad-flags", "qube, perl, python"),
        ("0x", "error", "bad-flags", "qube, perl, python"),
        ("1,2", "error", "bad-flags", "qube, perl, python"),
    ],
)
def test_unknown_flags_are_reported(text: str, severity: str, code: str, hint: str) -> None:
    _, (problem,) = read_flags(text)
    assert (problem.severity, problem.code) == (severity, code)
    assert problem.message
    assert problem.hint is not None
    assert hint in problem.hint


@given(st.text())
def test_any_text_gives_flags(text: str) -> None:
    flags, problems = read_flags(text)
    assert flags <= set(FLAGS)
    for problem in problems:
        assert problem.severity in (Severity.WARNING, Severity.ERROR)
        assert problem.message


def test_by_default_perl_and_python_are_off() -> None:
    assert not is_enabled("python", b"", DEFAULT_FLAGS)
    assert not is_enabled("perl", b"", DEFAULT_FLAGS)
    assert is_enabled("qube", b"mail-status", DEFAULT_FLAGS)


def test_code_that_mails_needs_the_flag_mail() -> None:
    for code in CODES:
        assert is_enabled("qube", code.encode(), frozenset({"qube"})) == (code not in MAIL_CODES)
        assert is_enabled("qube", b"\n " + code.encode() + b"\r\n", frozenset({"qube", "mail"}))
        assert not is_enabled("qube", code.encode(), frozenset({"mail", "perl", "python"}))
    assert len(MAIL_CODES) == 4


# Qube code ---------------------------------------------------------------------------------------


def test_every_code_string_is_known() -> None:
    listed = [
        "unblock-self",
        "block-self",
        "fail-self",
        "kill-self",
        "migrate-self",
        "preempt-self",
        "interrupt-self",
        "suspend-self",
        "resume-self",
        "block-work-self",
        "kill-work-self",
        "unblock-work-self",
        "retry-work-self",
        "requeue-work-self",
        "complete-work-self",
        "fail-work-self",
        "mail-status",
        "mail-license-status",
        "mail-report-status",
        "unblock-subjob-self-single",
        "unblock-subjob-self",
        "block-subjob-self",
        "fail-subjob-self",
        "kill-subjob-self",
        "migrate-subjob-self",
        "preempt-subjob-self",
        "interrupt-subjob-self",
        "suspend-subjob-self",
        "resume-subjob-self",
        "mail-subjob-status",
    ]
    assert set(listed) == CODES
    for code in listed:
        assert check_qube(code.encode()) == check_qube(f"\ufeff {code}\r\n".encode()) == []


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (b"mail-stauts", "did you mean mail-status?"),
        (b"kill-sef", "did you mean kill-self?"),
        (b"", "mail-status"),
        (b"fail-self kill-self", "mail-status"),
        (b"Mail-status", "did you mean mail-status?"),
        (b'"MAIL-STATUS";', "did you mean mail-status?"),
        (b"mail-status # to all", "did you mean mail-status?"),
        (b"fail-job-self", "did you mean fail-self?"),
        (b"kill_work_self", "did you mean kill-work-self?"),
        (b"\xff\xfe\x00", "mail-status"),
    ],
)
def test_other_text_is_a_warning(code: bytes, hint: str) -> None:
    (problem,) = check_qube(code)
    assert (problem.severity, problem.code) == (Severity.WARNING, "unknown-code")
    assert problem.hint is not None
    assert hint in problem.hint


@pytest.mark.parametrize(
    ("code", "types", "hint"),
    [
        ("fail-work-self", {"job"}, "failed-work-self-*; or fail-self in the file"),
        ("retry-work-self", {"job", "subjob"}, "failed-work-self-*"),
        ("unblock-subjob-self-single", {"work", "time"}, "failed-subjob-self-*; or unblock-self"),
        ("mail-subjob-status", {"globaltime"}, "failed-subjob-self-*"),
        ("fail-work-self", {"job", "work"}, None),
        ("kill-subjob-self", {"subjob"}, None),
        ("fail-self", {"work"}, None),
        ("mail-status", {"job"}, None),
        ("kill-work-sefl", {"job"}, None),
    ],
)
def test_code_that_acts_on_what_no_event_has(code: str, types: set[str], hint: str | None) -> None:
    problem = wrong_target(f" {code}\n".encode(), types)
    assert (problem is None) == (hint is None)
    if problem is not None:
        assert problem.code == "wrong-target"
        assert str(hint) in str(problem.hint)
        assert str(problem.hint).count(";") == str(hint).count(";")


# Python ------------------------------------------------------------------------------------------


def check_python(source: bytes) -> Verdict:
    """The verdict on a source, which is compiled in this process."""
    try:
        return verdict(examine(source))
    except MemoryError as error:
        return does_not_compile(too_complex(error))


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("x = 1\n<<<<<<< HEAD\ny = 1\n=======\ny = 2\n>>>>>>> topic\n", 2),
        ("def f():\n<<<<<<< HEAD\n    y = 1\n=======\n    y = 2\n>>>>>>> topic\n", 2),
        ("x = 1\n||||||| base\n", 2),
        ("x = [\n1,\n=======\n2]\n", 3),
        ("x = 1\n>>>>>>> topic\n", 2),
        ("x = 1 <<<<<<< 2\n", None),
        ("<<<<<<<x\n", None),
    ],
)
def test_what_git_leaves_of_a_conflict_is_named(source: str, line: int | None) -> None:
    error = check_python(source.encode()).error
    assert error is not None
    assert ("git left a conflict" in error.message) is (line is not None)
    assert line in (None, error.line)


def hurts(source: str) -> list[tuple[str, int | None, int | None]]:
    found = check_python(source.encode())
    assert found.error is None
    assert {w.severity for w in found.warnings} <= {Severity.WARNING}
    return [(w.code, w.line, w.column) for w in found.warnings]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import sys\nsys.exit(1)\n", [("exits", 2, 1)]),
        ("import sys as s\nif 1:\n    s.exit()\n", [("exits", 3, 5)]),
        ("from sys import exit as leave\nleave()\n", [("exits", 2, 1)]),
        ("import os\nos._exit(1)\n", [("exits", 2, 1)]),
        ("raise SystemExit\n", [("exits", 1, 1)]),
        ("raise SystemExit(1)\n", [("exits", 1, 1)]),
        ("exit()\n", [("exits", 1, 1)]),
        ("class A:\n def exit(self):\n  exit()\n", [("exits", 3, 3)]),
        ("import os\nx = 'é', os.system('ls')\n", [("blocks", 2, 10)]),
        ("from os import system\nsystem('ls')\n", [("blocks", 2, 1)]),
        ("import subprocess as p\np.check_call(['ls'])\n", [("blocks", 2, 1)]),
        ("import time\ndef f():\n\ttime.sleep(9)\n", [("blocks", 3, 2)]),
        ("import os, sys\nos.system('x'); sys.exit()\n", [("blocks", 2, 1), ("exits", 2, 17)]),
        # Not a text search: a name in a comment or a string is not a call.
        ("# sys.exit()\nx = 'os.system()'\n", []),
        ("import sys\nhandler = sys.exit\n", []),
        ("class sys:\n    pass\nobject.exit()\n", []),
        ("qb.jobinfo('-id', qb.jobid())\n", []),
        ("except_ = SystemExit\n", []),
    ],
)
def test_what_hurts_the_supervisor_is_found_in_the_tree(
    source: str, expected: list[tuple[str, int, int]]
) -> None:
    assert hurts(source) == expected


#: A source, and the call in it that makes the supervisor wait.
WAITS = [
    ("import smtplib\nwith smtplib.SMTP('mail') as s: s.sendmail(a, b, c)", "smtplib.SMTP"),
    ("from smtplib import SMTP_SSL as Mail\nMail('mail')", "smtplib.SMTP_SSL"),
    ("import socket as s\ns.create_connection(('h', 1))", "socket.create_connection"),
    ("import socket\ns = socket.socket()\ns.connect(('h', 1))", "socket.socket.connect"),
    ("from http import client\nclient.HTTPSConnection('h')", "http.client.HTTPSConnection"),
    ("import http.client\nhttp.client.HTTPConnection('h')", "http.client.HTTPConnection"),
    ("from ftplib import FTP\nFTP('h')", "ftplib.FTP"),
    ("import urllib.request\nurllib.request.urlopen('u')", "urllib.request.urlopen"),
    (
        "from urllib import request as r\nr.build_opener(x).open('u')",
        "urllib.request.build_opener.open",
    ),
    (
        "try:\n import urllib2\nexcept ImportError:\n import urllib.request as urllib2\n"
        "urllib2.urlopen('u')",
        "urllib.request.urlopen",
    ),
    (
        "try:\n import requests\nexcept ImportError:\n requests = None\nrequests.delete('u')",
        "requests.delete",
    ),
    ("import requests\nwith requests.Session() as s:\n s.put('u')", "requests.Session.put"),
    ("import MySQLdb\nMySQLdb.connect()", "MySQLdb.connect"),
    ("import mysql.connector as db\ndb.connect()", "mysql.connector.connect"),
    ("from psycopg2 import connect\nconnect('dsn')", "psycopg2.connect"),
    ("import subprocess\nsubprocess.Popen('x').wait()", "subprocess.Popen.wait"),
    ("from subprocess import *\nout = Popen('x').communicate()[0]", "subprocess.Popen.communicate"),
    ("from subprocess import *\ncall('x')", "subprocess.call"),
    ("import subprocess as s\np = s.Popen('x')\nif p.poll(): p.wait(5)", "subprocess.Popen.wait"),
    ("import subprocess as s\ns.Popen('x').stdout.read()", "subprocess.Popen.stdout.read"),
    ("import subprocess as s\nwith s.Popen('x') as p: p.wait()", "with subprocess.Popen"),
    (
        "import subprocess\nclass A:\n def start(self):\n  self.p = None\n"
        "  self.p = subprocess.Popen('x')\n def end(self):\n  self.p.wait()",
        "subprocess.Popen.wait",
    ),
    ("import os\nos.spawnl(os.P_WAIT, 'x')", "os.spawnl"),
    ("import os\nos.waitpid(pid, 0)", "os.waitpid"),
]


@pytest.mark.parametrize(("source", "name"), WAITS)
def test_a_call_that_waits_is_found_under_any_name(source: str, name: str) -> None:
    (warning,) = check_python(source.encode()).warnings
    assert warning.code == "blocks"
    assert warning.message.startswith(f"{name} makes the supervisor process")


@pytest.mark.parametrize(
    "source",
    [
        "import urllib.parse\nurllib.parse.quote('x')\nurllib.parse.urlparse('u')",
        "import subprocess\np = subprocess.Popen('x')\np.poll()\np.terminate()",
        "import threading\np = threading.Event()\np.wait(1)",
        # Another function's name, another object of the same name, a name that is not imported.
        "import subprocess as s\ndef f():\n p = s.Popen('x')\ndef g(p):\n p.wait()",
        "import subprocess as s\np = s.Popen('x')\np = Event()\np.wait()",
        "requests = {}\nrequests.get('x')",
        "import time\ndef f(time):\n time.sleep(1)",
        "def input():\n return 1\ninput()",
        "class A:\n def exit(self): pass\n def f(self): self.exit()",
        "import os\nos.waitpid(pid, os.WNOHANG)\nos.spawnl(os.P_NOWAIT, 'x')",
        "import socket\nsocket.gethostname()\ns = socket.socket()\ns.close()",
        "import sqlite3, requests\nsqlite3.connect('f')\ns = requests.Session()\ns.close()",
        "from email.mime.text import MIMEText\nfrom http import HTTPStatus\nMIMEText('x')",
    ],
)
def test_what_does_not_wait_is_no_finding(source: str) -> None:
    assert hurts(source) == []


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (b"print 'hello'\n", 1),
        (b"x = 1\nx = (\n", 2),
        (b"\xff = 1\n", None),
        (b"# coding: no-such\nx = 1\n", None),
        (b"x = '\0'\n", None),
        (b"return 1\n", 1),
        (b"x = " + b"(" * 5000, 1),
        (b"x = " + b"-" * 100_000 + b"1\n", None),
    ],
)
def test_what_does_not_compile_is_told(source: bytes, line: int | None) -> None:
    found = check_python(source)
    assert found.error is not None
    assert (found.error.severity, found.error.code) == (Severity.WARNING, "does-not-compile")
    if line is not None:
        assert found.error.line == line
    assert found.warnings == ()


@pytest.mark.parametrize(
    "source",
    [
        *(
            b"",
            b"\n",
            b"\xef\xbb\xbfx = 1\r\n",
            b"# coding: latin-1\nx = '\xe9'\n",
            b"x = 1\rx = 2",
        ),
        *(b"\x0c\nx = 1\n", b"#!/usr/bin/env python\n", b"x = '\\d'\n", b"pass", b"'\\\n'"),
    ],
)
def test_what_compiles_is_no_error(source: bytes) -> None:
    assert check_python(source).error is None


def test_nothing_is_imported_or_run(tmp_path: object) -> None:
    source = f"import no_such_module\nopen({str(tmp_path)!r} + '/made', 'w')\n1 / 0\n"
    assert check_python(source.encode()).error is None


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_get_a_verdict(source: bytes) -> None:
    found = check_python(source)
    for problem in (found.error, *found.warnings):
        if problem is not None and problem.line is not None:
            assert problem.line >= 1
            assert problem.column is not None
            assert problem.column >= 1
