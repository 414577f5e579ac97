"""Callbacks as real processes: how each ends, what it finds, and how several are run."""

from __future__ import annotations

import base64
import gc
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.runner import Result, obstacle
from support.agents import wait_for
from support.farms import Recorder, callback, perl, python, python2, run

needs_perl = pytest.mark.skipif(shutil.which("perl") is None, reason="perl is not installed")


# How a callback ends ----------------------------------------------------------------------------


def test_one_that_succeeds() -> None:
    result = python("print('rendered')")
    assert (result.outcome, result.output, result.output_bytes) == ("succeeded", "rendered\n", 9)
    assert result.seconds > 0
    assert result.path == "/farm/callback/a.py"


def test_one_that_raises_shows_its_source() -> None:
    result = python("def broken():\n    return 1 / nothing  # here\nbroken()\n")
    assert (result.outcome, result.status) == ("failed", 1)
    assert '"/farm/callback/a.py", line 2, in broken' in result.output
    assert "return 1 / nothing  # here" in result.output
    assert "NameError" in result.output
    assert '"<string>"' not in result.output


def test_one_that_does_not_compile() -> None:
    result = python("print 'old'\n")
    assert (result.outcome, result.status) == ("failed", 1)
    assert "print 'old'" in result.output
    assert "SyntaxError" in result.output


def test_one_that_exits() -> None:
    assert python("import sys; sys.exit(7)").status == 7
    assert python("import os; os._exit(3)").status == 3
    assert python("import sys; sys.exit()").outcome == "succeeded"


def test_one_that_is_killed() -> None:
    result = python("import os; os.kill(os.getpid(), 9)")
    assert (result.outcome, result.signal) == ("killed", signal.SIGKILL)
    assert str(result).startswith("killed by SIGKILL after")


def test_one_that_blocks_for_an_hour() -> None:
    result = python("import time\ntime.sleep(3600)", time_limit=0.4)
    assert result.outcome == "timed-out"
    assert result.reason == "killed after 0.4 s"


def test_one_that_ignores_signals_or_stops_is_killed_at_the_limit() -> None:
    code = (
        "import signal, time\n"
        "for n in (1, 2, 3, 15): signal.signal(n, signal.SIG_IGN)\n"
        "time.sleep(3600)"
    )
    assert python(code, time_limit=0.4).outcome == "timed-out"
    stops = "import os, signal\nos.kill(0, signal.SIGSTOP)"
    assert python(stops, time_limit=0.4).outcome == "timed-out"


def test_one_that_prints_without_end(tmp_path: Path) -> None:
    size = 20_000_000
    code = f"import sys\nsys.stdout.write('x' * {size})\nprint('the end')"
    result = python(code, folder=tmp_path)
    assert result.outcome == "succeeded"
    assert result.output_bytes == size + 8
    assert result.output.endswith("xthe end\n")
    assert len(result.output) == 4096
    assert result.log is not None
    kept, rest = Path(result.log).read_bytes(), size + 8 - (1 << 20)
    assert kept == b"x" * (1 << 20) + b"\n(%d more bytes are not kept)\n" % rest


#: Forks; the child runs HERE, writes its process id to FILE, and sleeps.
FORKS = """
import os, time
if os.fork() == 0:
    HERE
    with open(FILE + '.new', 'w') as f: f.write(str(os.getpid()))
    os.rename(FILE + '.new', FILE)
    time.sleep(3600)
while not os.path.exists(FILE): time.sleep(0.001)
print('leaves')
"""


def test_one_that_forks_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "child"
    code = FORKS.replace("FILE", repr(str(file))).replace("HERE", "pass")
    assert python(code).outcome == "succeeded"
    pid = int(file.read_text())
    wait_for(lambda: ended(pid), "the end of what the callback started")


def ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie that nobody collects."""
    listed = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return listed.stdout.strip()[:1] in ("", "Z")


def test_one_whose_daemon_holds_the_output_open_ends_at_once(tmp_path: Path) -> None:
    file = tmp_path / "daemon"
    code = FORKS.replace("FILE", repr(str(file))).replace("HERE", "os.setsid()")
    result = python(code)
    os.kill(int(file.read_text()), signal.SIGKILL)
    assert (result.outcome, result.output) == ("succeeded", "leaves\n")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_one_that_kills_its_parent(number: int) -> None:
    result = python(f"import os, time\nos.kill(os.getppid(), {int(number)})\ntime.sleep(3600)")
    assert (result.outcome, result.signal) == ("killed", signal.SIGKILL)
    assert result.reason.startswith("the process that started it was ended; if the callback left")
    # The runner goes on.
    assert python("pass").outcome == "succeeded"


def test_one_that_kills_its_group_or_closes_all_descriptors() -> None:
    assert python("import os; os.kill(0, 9)").outcome == "killed"
    assert python("import os\nos.closerange(0, 100)\nos._exit(5)").status == 5


# What is not run --------------------------------------------------------------------------------


def test_what_is_not_enabled_is_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    farm = Recorder()
    results = run(
        callback("a.py", f"open({str(mark)!r}, 'w')", enabled=False),
        callback("b.pl", f"open my $f, '>', '{mark}'", enabled=False),
        callback("c.qcb", "block-self", enabled=False),
        farm=farm,
    )
    assert [result.outcome for result in results] == ["not-enabled"] * 3
    assert not mark.exists()
    assert farm.asked == []


def test_what_cannot_be_run_says_why() -> None:
    without = {k: v for k, v in callback("a.py", "").items() if k != "code"}
    binary = {"language": "qube", "code_base64": base64.b64encode(b"\xff").decode()}
    reasons = {
        "no code": without,
        "'mial-status' is not one of Qube's code strings": callback("a.qcb", "mial-status\n"),
        "not one of Qube's": {**without, **binary},
        "event of a work item": callback("a.qcb", "fail-work-self"),
        "/no/such/perl does not exist": callback("a.pl", ""),
    }
    results = run(*reasons.values(), interpreters={"perl": "/no/such/perl"})
    for reason, result in zip(reasons, results, strict=True):
        assert result.outcome == "not-run"
        assert reason in result.reason
    result = python("", interpreters={"python": shutil.which("false") or ""})
    assert result.outcome == "not-run"
    assert result.reason.endswith("false ended (status 1) before the callback began")


def test_an_interpreter_is_looked_for_where_it_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the given PATH, or the system's, as seen from the directory /."""
    program = tmp_path / "farm-python"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    one = callback("a.py", "print('found')")
    for path, found in {None: False, "": False, ".": False, str(tmp_path)[1:]: True}.items():
        given: dict[str, Any] = {
            "environment": {} if path is None else {"PATH": path},
            "interpreters": {"python": program.name},
        }
        (result,) = run(one, **given)
        assert result.output == ("found\n" if found else ""), (path, result)
        why = "" if found else "the interpreter farm-python does not exist or cannot be run"
        assert obstacle(one, job=1234, **given) == result.reason == why


def test_a_folder_that_cannot_be_written_is_said() -> None:
    result = python("print('x')", folder="/no/such/folder")
    assert (result.outcome, result.log) == ("succeeded", None)
    assert "the output is not kept: /no/such/folder" in result.reason


# What a callback finds --------------------------------------------------------------------------


def test_a_clean_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "1")
    monkeypatch.setenv("PYTHONPATH", "/tmp")
    inherited = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(inherited, True)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    ignored = (signal.SIGCHLD, signal.SIGTSTP, signal.SIGXCPU)
    handlers = [signal.signal(number, signal.SIG_IGN) for number in ignored]
    names = [number.name for number in ignored]
    code = (
        "import os, signal, sys\n"
        "print(sys.stdin.read() == '', 'SECRET' in os.environ, 'PYTHONPATH' in os.environ)\n"
        "fds = [n for n in range(3, 200) if os.path.exists('/dev/fd/%d' % n)]\n"
        "print(len(fds), signal.pthread_sigmask(signal.SIG_BLOCK, []) == set())\n"
        f"print([signal.getsignal(getattr(signal, n)).name for n in {names}], os.getcwd())\n"
        "print(sys.argv)\n"
        "print(os.getpgrp() == os.getsid(0) != os.getpid(), '' in sys.path)\n"
    )
    try:
        result = python(code)
        in_perl = perl("open my $f, '<', '/proc/self/status'; print grep /^SigIgn/, <$f>")
    finally:
        for number, handler in zip(ignored, handlers, strict=True):
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(inherited)
    assert result.output.splitlines() == [
        "True False False",
        "1 True",
        "['SIG_DFL', 'SIG_DFL', 'SIG_DFL'] /",
        "['/farm/callback/a.py']",
        "True False",
    ]
    if sys.platform == "linux" and shutil.which("perl"):
        assert in_perl.output.split() == ["SigIgn:", "0" * 16]


def test_the_code_is_that_of_the_answer(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("print('disk')\nraise SystemExit(9)\n")
    code = "print('answer')\n1/0  # answer\n"
    (result,) = run(callback("a.py", code, path=str(tmp_path / "a.py")))
    assert result.output.startswith("answer\n")
    assert "1/0  # answer" in result.output


def in_bytes(file: str, code: bytes) -> Result:
    """The result of code that is not UTF-8."""
    one = callback(file, "")
    del one["code"]
    (result,) = run({**one, "code_base64": base64.b64encode(code).decode()})
    return result


def test_code_in_other_encodings() -> None:
    line = "print('gr\u00fcn' == 'gr\\xfcn', __file__)\n".encode("latin-1")
    result = in_bytes("a.py", b"# -*- coding: latin-1 -*-\n" + line)
    assert result.output == "True /farm/callback/a.py\n"
    result = in_bytes("a.py", line)
    assert result.outcome == "failed"
    assert "SyntaxError" in result.output
    assert python("\ufeffprint('\u20ac')\r\n").output == "\u20ac\n"


@needs_perl
def test_perl_in_latin_1() -> None:
    assert in_bytes("a.pl", b"print length('gr\xfcn'), ord('\xfc')").output == "4252"


def test_a_main_program_behaves_as_one() -> None:
    code = (
        "import pickle, sys, __main__\n"
        "class A: pass\n"
        "pickle.loads(pickle.dumps(A()))\n"
        "assert __name__ == '__main__' and __main__.A is A\n"
    )
    assert python(code).outcome == "succeeded"


@needs_perl
def test_how_perl_ends() -> None:
    assert perl("$x = 'no strict'; print $x; exit 4").status == 4
    died = perl("\nfoo();\n")
    assert (died.outcome, died.status) == ("failed", 255)
    assert "/farm/callback/a.pl line 2" in died.output
    assert perl("if (").status == 255
    assert perl("kill 9, $$").signal == 9
    killed = perl("kill 9, getppid; sleep 3600")
    assert killed.reason.startswith("the process that started it was ended; if the callback left")
    assert perl("sleep 3600", time_limit=0.4).outcome == "timed-out"


def test_python_2_by_path_or_language() -> None:
    old = python2()
    if old is None:
        pytest.skip("there is no Python 2")
    farm = Recorder([{"id": 1234, "name": "m\u00e4rz"}])
    code = (
        "import qb, os\n"
        "print qb.jobinfo('-id', qb.jobid())[0]['name'], __file__\n"
        "qb.block(1234L)\n"
        "raise ValueError, 'old'  # so\n"
    )
    both = [callback("old.py", code), callback("new.py", "print('new')")]
    results = run(*both, farm=farm, interpreters={"/farm/callback/old.py": [old, "-B"]})
    assert results[0].output.startswith("m\u00e4rz /farm/callback/old.py\n")
    assert "raise ValueError, 'old'  # so" in results[0].output
    assert results[0].status == 1
    assert results[1].output == "new\n"
    assert farm.asked == ["block job 1234"]
    assert python("print 'x'", interpreters={"python": old}).output == "x\n"
    assert python("import os; os.kill(os.getppid(), 9)", interpreters={"python": old}).reason


# Several ----------------------------------------------------------------------------------------


def test_in_order_or_several_at_once(tmp_path: Path) -> None:
    """Each waits for the other, so both succeed only if they run at the same time."""
    names = [tmp_path / "a", tmp_path / "b"]

    def waits(own: Path, other: Path) -> str:
        return (
            f"import os, time\nopen({str(own)!r}, 'w')\n"
            f"while not os.path.exists({str(other)!r}): time.sleep(0.01)\nprint({own.name!r})\n"
        )

    both = [callback("a.py", waits(*names)), callback("b.py", waits(*names[::-1]))]
    results = run(*both, at_once=2, folder=tmp_path)
    assert [result.output for result in results] == ["a\n", "b\n"]
    logs = [Path(result.log or "") for result in results]
    assert [log.read_text() for log in logs] == ["a\n", "b\n"]
    assert [(log.name[:10], log.suffix) for log in logs] == [
        ("1234-a.py-", ".cb"),
        ("1234-b.py-", ".cb"),
    ]


def test_one_after_the_other(tmp_path: Path) -> None:
    mark = str(tmp_path / "mark")
    first = f"import time\ntime.sleep(0.05)\nopen({mark!r}, 'w')"
    second = f"import os\nassert os.path.exists({mark!r})"
    results = run(callback("a.py", first), callback("b.py", second))
    assert [result.outcome for result in results] == ["succeeded", "succeeded"]


def test_nothing_is_left_open() -> None:
    def opened() -> set[str]:
        # What others left is closed first.
        gc.collect()
        return set(os.listdir("/dev/fd"))

    python("pass")
    before = opened()
    python("import os; os.kill(os.getppid(), 9)")
    python("import time; time.sleep(3600)", time_limit=0.2)
    python("", interpreters={"python": "/no/such"})
    assert opened() <= before
