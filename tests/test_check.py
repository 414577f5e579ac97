"""`check` reads and judges with the code of `serve`: both report the same."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.check import Subject, check_directories, in_order
from agent.core.diagnostic import Diagnostic
from agent.core.unit import Unit, evaluate
from agent.reload.stored import StoredUnit
from agent.timing import DEFAULTS, CheckLimits, Timing
from support import records
from support.agents import DEADLINE, Agent, wait_for, write

FIXTURES = Path(__file__).parent.parent / "fixtures"
LANGUAGES = frozenset({"qube", "perl", "python", "mail"})


@pytest.fixture(autouse=True)
def _leases() -> Iterator[None]:
    """As the command has it: leases are asked for only if SIGIO is ignored."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGIO, before)


def findings(*directories: Path) -> list[Diagnostic]:
    """What is found in these directories at the first reading, in order."""
    checked = check_directories(Subject(str(path), LANGUAGES) for path in directories)
    return in_order(f for one in checked for f in one.findings)


def test_check_reports_what_serve_reports_at_its_first_reading(tmp_path: Path) -> None:
    directories = sorted(p.parent for p in FIXTURES.rglob("callbacks.conf"))
    assert len(directories) > 30
    found = findings(*directories)
    assert len(found) > 30
    agent = Agent(tmp_path, *directories)
    agent.flags += ["--unsafe-permissions", "ignore"]
    agent.start()
    try:
        # Warnings about Python are in a later record than the first one.
        expected = sorted((f.as_json() for f in found), key=str)
        wait_for(lambda: sorted(reported(agent), key=str) == expected, "the same diagnostics")
    finally:
        agent.stop()


def reported(agent: Agent) -> list[dict[str, Any]]:
    return records.findings(agent.history()[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says who writes")
def test_a_writer_in_one_directory_does_not_hide_the_others(tmp_path: Path) -> None:
    one = write(tmp_path / "one", "a.pl = done-job-self\n", a_pl="1\n")
    two = write(tmp_path / "two", "b.pl = done-job-self\n")
    with writer(one / "a.pl", 600.0):
        found = findings(one, two)
    assert [(Path(f.path).name, f.code) for f in found] == [
        ("a.pl", "being-written"),
        ("callbacks.conf", "missing-file"),
    ]


def test_a_file_that_is_closed_in_time_is_read(tmp_path: Path) -> None:
    directory = write(tmp_path / "one", "a.pl = done-job-self\n", a_pl="1\n")
    # Not the default: this machine may be suspended for longer.
    patient = Timing(writing=DEADLINE)
    with writer(directory / "a.pl", DEFAULTS.writing / 10):
        (checked,) = check_directories([Subject(str(directory), LANGUAGES)], patient)
    assert checked.findings == ()


def test_an_edit_is_judged_by_what_was_accepted(tmp_path: Path) -> None:
    directory = write(tmp_path / "one", "a.py = done-job-self\nb.pl = done-job-self\n", b_pl="1\n")
    write(directory, (directory / "callbacks.conf").read_text(), a_py="x = 1\n")
    (first,) = check_directories([Subject(str(directory), LANGUAGES)])
    accepted = StoredUnit(evaluate(first.reading, None).unit or Unit(), None)
    write(directory, "a.py = done-job-self\nb.pl = done-job-self\n", a_py="def broken(:\n")
    (directory / "b.pl").unlink()
    assert [(f.severity, f.code) for f in findings(directory)] == [
        ("warning", "does-not-compile"),
        ("error", "missing-file"),
    ]
    subject = Subject(str(directory), LANGUAGES, accepted=accepted)
    # However slow the checks of Python are.
    (checked,) = check_directories([subject], Timing(checks=CheckLimits(max_wait=0.0)))
    assert [(f.severity, f.code) for f in in_order(checked.findings)] == [
        ("error", "does-not-compile"),
        ("error", "removed"),
    ]
    assert checked.held == "error"
    assert checked.source(f"{directory}/a.py") == b"def broken(:\n"
    assert checked.source(f"{directory}/callbacks.conf") == checked.conf
    assert checked.source(f"{directory}/b.pl") is None


def test_findings_are_in_the_order_of_the_text_and_the_rest_is_counted_last(
    tmp_path: Path,
) -> None:
    lines = "".join(f"a{n}.py = done-jbo-self\n" for n in range(150))
    found = findings(write(tmp_path / "b", "x\n"), write(tmp_path / "a", lines))
    assert [f.line for f in found if f.code != "more-findings"][:-1] == sorted(
        f.line or 0 for f in found[:-2]
    )
    assert [Path(f.path).parent.name for f in found] == [*["a"] * (len(found) - 1), "b"]
    assert found[-2].code == "more-findings"


def test_what_an_editor_leaves_behind_is_not_read(tmp_path: Path) -> None:
    directory = write(tmp_path / "one", "a.py = done-job-self\n", a_py="1\n")
    for name in (
        "a.py~",
        ".a.py.swp",
        "#a.py#",
        "a.py.orig",
        "callbacks.conf~",
        "callbacks.conf.bak",
    ):
        (directory / name).write_text("b.py = broken(\n")
    assert findings(directory) == []


@contextlib.contextmanager
def writer(path: Path, seconds: float) -> Iterator[None]:
    """Meanwhile another process has the file open for writing, for so many seconds at most."""
    with path.open("ab") as file:
        process = subprocess.Popen(["sleep", str(seconds)], stdout=file)
    try:
        yield
    finally:
        process.kill()
        process.wait()
