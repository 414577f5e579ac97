"""Arguments that `run` cannot use are said at once, and nothing runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from agent import runner
from support.farms import Recorder, callback, python

#: An argument, a wrong value, the error, and what is said.
WRONG: list[tuple[str, Any, type[Exception], str]] = [
    ("answer", None, TypeError, "answer is None: expected an answer of lookup"),
    ("answer", {"partial": []}, TypeError, "expected an answer of lookup"),
    ("answer", {"callbacks": "x"}, TypeError, "expected an answer of lookup"),
    ("job", "x", TypeError, "job is 'x': expected the id of the job, an int"),
    ("job", True, TypeError, "job is True"),
    ("event", 7, TypeError, "event is 7: expected what lookup was asked for"),
    ("event", {"name": "failed"}, ValueError, "with `type` and `job`"),
    ("answer", {"callbacks": [], "owners": []}, ValueError, "answer is of many owners"),
    (
        "interpreters",
        {"python2": "python2"},
        ValueError,
        "interpreters is {'python2': 'python2'}: expected python, perl or the path of a callback",
    ),
    ("interpreters", ["perl"], TypeError, "interpreters is ['perl']: expected commands by"),
    (
        "interpreters",
        {"python": ""},
        ValueError,
        "interpreters['python'] is '': expected a program",
    ),
    ("interpreters", {"python": []}, ValueError, "interpreters['python'] is []"),
    ("interpreters", {"python": ["", "-B"]}, ValueError, "interpreters['python']"),
    ("interpreters", {"python": "bin/python3"}, ValueError, "expected a program, by absolute path"),
    ("interpreters", {"python": ["./python3"]}, ValueError, "interpreters['python']"),
    ("interpreters", {"python": None}, TypeError, "interpreters['python'] is None"),
    ("interpreters", {"python": ["python3", 2]}, TypeError, "interpreters['python']"),
    ("interpreters", {"python": "a\0b"}, ValueError, "interpreters['python'] is 'a\\x00b'"),
    ("at_once", 0, ValueError, "at_once is 0: expected how many run at a time, 1 or more"),
    ("at_once", 1.5, TypeError, "at_once is 1.5"),
    ("time_limit", 0, ValueError, "time_limit is 0: expected seconds, above 0 and at most 1e+06"),
    ("time_limit", float("nan"), ValueError, "time_limit is nan"),
    ("time_limit", 1e7, ValueError, "time_limit is 10000000.0"),
    ("time_limit", "10", TypeError, "time_limit is '10': expected seconds"),
    (
        "folder",
        "/tmp/a\0b",
        ValueError,
        "folder is '/tmp/a\\x00b': expected the path of a directory",
    ),
    ("folder", b"/tmp", TypeError, "folder is b'/tmp'"),
    ("environment", ["A=1"], TypeError, "environment is ['A=1']: expected the values of variables"),
    (
        "environment",
        {"A": "secret\0"},
        ValueError,
        "environment['A'] cannot be passed on: expected",
    ),
    ("environment", {"A=B": "1"}, ValueError, "environment['A=B'] cannot be passed on"),
    ("environment", {"": "1"}, ValueError, "environment[''] cannot be passed on"),
    ("environment", {"A": "\ud800"}, ValueError, "environment['A'] cannot be passed on"),
    (
        "environment",
        {"A": 1},
        TypeError,
        "environment['A'] is of str and int: expected str and str",
    ),
]


@pytest.mark.parametrize(("name", "value", "error", "said"), WRONG)
def test_what_run_cannot_use(
    tmp_path: Path, name: str, value: Any, error: type[Exception], said: str
) -> None:
    mark = tmp_path / "mark"
    first = callback("a.py", f"open({str(mark)!r}, 'w')")
    given = {"answer": {"callbacks": [first]}, "farm": Recorder(), "job": 1234, name: value}
    with pytest.raises(error, match=re.escape(said)) as raised:
        runner.run(**given)
    assert not mark.exists()
    assert "secret" not in str(raised.value)


#: Fields of a callback, None for one that is left out; the error, and what is said.
WRONG_FIELDS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"path": None}, ValueError, "callbacks[1] has no `path`: expected str"),
    ({"file": None}, ValueError, "has no `file`"),
    ({"trigger": None}, ValueError, "has no `trigger`"),
    ({"language": None}, ValueError, "has no `language`"),
    ({"enabled": None}, ValueError, "callbacks[1] has no `enabled`: expected bool"),
    ({"enabled": 1}, TypeError, "callbacks[1]['enabled'] is 1: expected bool"),
    ({"language": ["python"]}, TypeError, "callbacks[1]['language'] is ['python']"),
    ({"file": "a\0.py"}, ValueError, "callbacks[1]['file'] is 'a\\x00.py': expected the name"),
    ({"file": "../a.py"}, ValueError, "callbacks[1]['file'] is '../a.py'"),
    ({"missing": "done-job-parent"}, ValueError, "callbacks[1] does not fire"),
    ({"verdict": "partial"}, ValueError, "callbacks[1] does not fire"),
    ({"code": 7}, TypeError, "callbacks[1]['code'] is 7: expected str"),
    ({"code": "\ud800"}, ValueError, "callbacks[1] has code that cannot be decoded"),
    ({"code_base64": "a"}, ValueError, "callbacks[1] has code that cannot be decoded"),
    ({"code_base64": "!!!!"}, ValueError, "callbacks[1] has code that cannot be decoded"),
    ({"code_base64": "\xe4"}, ValueError, "callbacks[1] has code that cannot be decoded"),
    ({"code_base64": b"YQ=="}, TypeError, "callbacks[1]['code_base64'] is b'YQ=='"),
]


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_callback_that_run_cannot_use(tmp_path: Path, at_once: int) -> None:
    mark = tmp_path / "mark"
    first = callback("a.py", f"open({str(mark)!r}, 'w')")
    with pytest.raises(TypeError, match=re.escape("callbacks[1] is 'x': expected a callback")):
        runner.run({"callbacks": [first, "x"]}, Recorder(), job=1234, at_once=at_once)
    for fields, error, said in WRONG_FIELDS:
        second = {**callback("b.py", ""), **fields}
        second = {name: value for name, value in second.items() if value is not None}
        with pytest.raises(error, match=re.escape(said)):
            runner.run({"callbacks": [first, second]}, Recorder(), job=1234, at_once=at_once)
    assert not mark.exists()


def test_what_it_can_use() -> None:
    result = python(
        "import os, sys; sys.stdout.write('%r' % os.environb[b'A'])",
        environment={"PATH": "/usr/bin:/bin", "A": "\udcff"},
        event={"name": "failed", "type": "work", "extra": None, "job": {"id": None}},
        time_limit=30,
        at_once=2,
    )
    assert (result.outcome, result.output) == ("succeeded", "b'\\xff'")
