"""A supervisor that is killed leaves no callback running."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.agents import DEADLINE, wait_for
from support.farms import callback, python2

#: A supervisor: runs the callbacks that it is given as JSON, two at once, in threads.
SUPERVISOR = """
import json, sys
from agent import runner
given = json.loads(sys.argv[1])
runner.run(given, object(), job=1234, at_once=2, interpreters=given["interpreters"])
"""
#: Each starts a process, writes both ids to a file beside FILE, and ignores what can be ignored.
PYTHON = """
import os, signal, time
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
child = os.fork()
if child:
    with open('FILE.new', 'w') as file: file.write('%d %d' % (os.getpid(), child))
    os.rename('FILE.new', 'FILE')
time.sleep(1000)
"""
PERL = """
$SIG{$_} = 'IGNORE' for qw(TERM HUP PIPE INT);
if (my $child = fork) {
    open my $file, '>', 'FILE.new'; print $file "$$ $child"; close $file;
    rename 'FILE.new', 'FILE';
}
sleep 1000;
"""


def ids(file: Path) -> list[int]:
    return [int(text) for text in file.read_text().split()] if file.exists() else []


def runs(pid: int) -> bool:
    """Whether a process is there and not a zombie that nobody collects."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def killed(place: Path, *callbacks: dict[str, Any], **interpreters: list[str]) -> None:
    """Start a supervisor, kill it when its callbacks run, and wait for their end.

    The code of each writes its processes to FILE, which is replaced.
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
        assert len(found) == 2 * len(callbacks)
        assert all(map(runs, found))
        supervisor.kill()
        assert supervisor.wait(DEADLINE) == -signal.SIGKILL
        wait_for(lambda: not any(map(runs, found)), "the end of the callbacks")
    finally:
        supervisor.kill()
        supervisor.wait()
        for pid in filter(runs, found):
            os.kill(pid, signal.SIGKILL)


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


@needs_proc
def test_callbacks_end_with_a_supervisor_that_is_killed(place: Path) -> None:
    other = "b.pl" if shutil.which("perl") else "b.py"
    code = PERL if other == "b.pl" else PYTHON
    killed(place, callback("a.py", PYTHON), callback(other, code))


@needs_proc
@pytest.mark.skipif(python2() is None, reason="there is no Python 2")
def test_those_in_python_2_end_too(place: Path) -> None:
    killed(place, callback("a.py", PYTHON), python=[str(python2())])


@needs_proc
@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv") or not Path("/usr/bin/python3").exists(),
    reason="only root can run as another user, with setpriv and a Python that everybody may use",
)
def test_callbacks_of_another_user_end_too(place: Path) -> None:
    place.chmod(0o777)
    who = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--"]
    both = [callback("a.py", PYTHON), *([callback("b.pl", PERL)] if shutil.which("perl") else [])]
    killed(place, *both, python=[*who, "/usr/bin/python3"], perl=[*who, "perl"])
