"""No callback runs on: not if the supervisor is killed, nor at the time limit."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.runner import process
from support.agents import DEADLINE, wait_for
from support.farms import callback, python2, run, until_limit

#: A supervisor: runs the callbacks that it is given as JSON, two at once, in threads.
SUPERVISOR = """
import json, sys
from agent import runner
given = json.loads(sys.argv[1])
runner.run(given, object(), job=1234, at_once=2, interpreters=given["interpreters"])
"""
#: Each starts a process, writes both ids and those of its parents to FILE, and ignores what can be
#: ignored. It runs FIRST before, and LAST when all is written.
PYTHON = """
import os, signal, time
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
parents = os.getppid(), os.getpgrp()
FIRST
child = os.fork()
if child:
    with open('FILE.new', 'w') as file: file.write('%d %d %d %d' % ((os.getpid(), child) + parents))
    os.rename('FILE.new', 'FILE')
    LAST
time.sleep(1000)
"""
PERL = """
$SIG{$_} = 'IGNORE' for qw(TERM HUP PIPE INT);
my @parents = (getppid, getpgrp);
FIRST;
if (my $child = fork) {
    open my $file, '>', 'FILE.new'; print $file "$$ $child @parents"; close $file;
    rename 'FILE.new', 'FILE';
    LAST;
}
sleep 1000;
"""


def code(language: str, first: str = "", last: str = "") -> str:
    text = PERL if language == "perl" else PYTHON
    return text.replace("FIRST", first).replace("LAST", last)


def ids(file: Path) -> list[int]:
    return [int(text) for text in file.read_text().split()] if file.exists() else []


def state(pid: int) -> str:
    """The state of a process, as `ps` names it; Z if it is not there."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return "Z"


def runs(pid: int) -> bool:
    """Whether a process is there and not a zombie that nobody collects."""
    return state(pid) != "Z"


def killed(
    place: Path,
    *callbacks: dict[str, Any],
    before: Callable[[subprocess.Popen[bytes], list[int]], None] = lambda *_: None,
    **interpreters: list[str],
) -> None:
    """Start a supervisor, kill it when its callbacks run, and wait for their end.

    The code of each writes its processes to FILE, which is replaced. `before` is called with the
    supervisor and all processes before it is killed.
    """
    files = [place / f"{number}.ids" for number in range(len(callbacks))]
    given = {
        "callbacks": [
            {**one, "code": one["code"].replace("FILE", str(file))}
            for one, file in zip(callbacks, files, strict=True)
        ],
        "interpreters": interpreters,
    }
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, json.dumps(given)], stdin=subprocess.DEVNULL
    )
    found: list[int] = []
    try:
        wait_for(lambda: all(map(ids, files)), "all callbacks")
        found = [pid for file in files for pid in ids(file)]
        assert len(found) == 4 * len(callbacks)
        assert all(map(runs, found))
        before(supervisor, found)
        supervisor.kill()
        assert supervisor.wait(DEADLINE) == -signal.SIGKILL
        wait_for(lambda: not any(map(runs, found)), "the end of the callbacks")
    finally:
        supervisor.kill()
        supervisor.wait()
        found = found or [pid for file in files for pid in ids(file)]
        for pid in filter(runs, found):
            os.kill(pid, signal.SIGKILL)


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
#: A callback file of each language that can be run here, and its language.
FILES = [("a.py", "python"), *([("b.pl", "perl")] if shutil.which("perl") else [])]


def both(python: tuple[str, str] = ("", ""), perl: tuple[str, str] = ("", "")) -> list[Any]:
    """A callback of each language, with what it does first and last."""
    does = {"python": python, "perl": perl}
    return [callback(file, code(language, *does[language])) for file, language in FILES]


@needs_proc
def test_callbacks_end_with_a_supervisor_that_is_killed(place: Path) -> None:
    killed(place, *both())


@needs_proc
def test_those_that_left_the_process_group_end_too(place: Path) -> None:
    killed(place, *both(("os.setsid()", ""), ("setpgrp(0, 0)", "")))


@needs_proc
def test_those_that_stopped_their_group_end_too(place: Path) -> None:
    def stopped(_: subprocess.Popen[bytes], found: list[int]) -> None:
        wait_for(lambda: all(state(pid) == "T" for pid in found[::4]), "the stop")

    last = ("os.kill(0, signal.SIGSTOP)", "kill 'STOP', 0")
    killed(place, *both(("", last[0]), ("", last[1])), before=stopped)


@needs_proc
@pytest.mark.parametrize("leave", [("", ""), ("os.setsid(); ", "setpgrp(0, 0); ")])
def test_those_that_stopped_their_parent_end_too(place: Path, leave: tuple[str, str]) -> None:
    first = ("os.kill(parents[0], signal.SIGSTOP)", "kill 'STOP', getppid")
    killed(place, *both((leave[0] + first[0], ""), (leave[1] + first[1], "")))


@needs_proc
def test_what_callbacks_leave_ends_though_the_supervisor_is_killed_at_their_end(
    place: Path,
) -> None:
    go = place / "go"

    def end(supervisor: subprocess.Popen[bytes], found: list[int]) -> None:
        supervisor.send_signal(signal.SIGSTOP)
        go.touch()
        wait_for(lambda: not any(map(runs, found[::4])), "the end of the callbacks")

    python = f"while not os.path.exists('{go}'): time.sleep(0.01)\n    os._exit(0)"
    perl = f"select undef, undef, undef, 0.01 until -e '{go}'; exit 0"
    killed(place, *both(("", python), ("", perl)), before=end)


@needs_proc
@pytest.mark.skipif(python2() is None, reason="there is no Python 2")
def test_those_in_python_2_end_too(place: Path) -> None:
    killed(place, callback("a.py", code("python")), python=[str(python2())])


needs_other_user = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv") or not Path("/usr/bin/python3").exists(),
    reason="only root can run as another user, with setpriv and a Python that everybody may use",
)
OTHER_USER = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]


@needs_proc
@needs_other_user
def test_callbacks_of_another_user_end_too(place: Path) -> None:
    place.chmod(0o777)
    python, perl = [*OTHER_USER, "/usr/bin/python3"], [*OTHER_USER, "perl"]
    killed(place, *both(("os.setsid()", "")), python=python, perl=perl)


# The time limit ---------------------------------------------------------------------------------


@needs_proc
def test_those_that_left_the_group_are_killed_at_the_limit(place: Path) -> None:
    leave = {"python": "os.setsid()", "perl": "setpgrp(0, 0)"}
    stop = {"python": "os.kill(parents[0], signal.SIGSTOP)", "perl": "kill 'STOP', getppid"}
    files: list[Path] = []
    callbacks = []
    for name, language in FILES:
        for first in (leave[language], f"{leave[language]}; {stop[language]}"):
            files.append(place / f"{len(files)}.ids")
            text = code(language, first).replace("FILE", str(files[-1]))
            callbacks.append(callback(name, text))
    results = until_limit(lambda _: all(map(ids, files)), *callbacks, at_once=len(callbacks))
    for file, result in zip(files, results, strict=True):
        assert result.outcome == "timed-out"
        assert re.fullmatch("killed after [0-9]+ s", result.reason)
        assert not runs(ids(file)[0])
    found = [pid for file in files for pid in ids(file)]
    wait_for(lambda: not any(map(runs, found)), "the end of what they started, and their parents")


@needs_proc
@pytest.mark.parametrize("program", [["sh", "-c", '"$@"; exit 0', "sh"], ["setsid"]])
def test_one_whose_interpreter_is_started_by_another_program(
    place: Path, program: list[str]
) -> None:
    text = code("python", last="os._exit(0)").replace("FILE", str(place / "ids"))
    (result,) = run(callback("a.py", text), interpreters={"python": [*program, sys.executable]})
    assert result.outcome == "succeeded", result
    wait_for(lambda: not any(map(runs, ids(place / "ids"))), "the end of what it started")


@needs_proc
@needs_other_user
def test_one_that_cannot_be_killed_is_not_said_to_be(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parent is another user's process, and may not kill what has become root."""
    monkeypatch.setattr(process, "_KILL_SECONDS", 0.5)
    place.chmod(0o777)
    program, file = place / "setpriv", place / "ids"
    shutil.copy(str(shutil.which("setpriv")), program)
    program.chmod(0o4755)
    as_root = f"echo $$ > {file}.new; mv {file}.new {file}; exec sleep 1000"
    text = (
        "import os\nos.setsid()\n"
        f"os.execv('{program}', ['setpriv', '--reuid=0', 'sh', '-c', '{as_root}'])\n"
    )
    interpreters = {"python": [*OTHER_USER, "/usr/bin/python3"]}
    one = callback("a.py", text)
    (result,) = until_limit(lambda _: bool(ids(file)), one, interpreters=interpreters)
    (left,) = ids(file)
    try:
        assert runs(left), "the file system may have `nosuid`"
        assert result.outcome == "timed-out"
        assert re.fullmatch(
            "at the limit of [0-9]+ s it could not be killed: it may still run", result.reason
        )
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(left, signal.SIGKILL)
