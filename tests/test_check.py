"""`check` reads with the code of `serve`: both report the same about directories that are new."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.check import check_directories
from agent.timing import DEFAULTS
from support import records
from support.agents import Agent, wait_for, write

FIXTURES = Path(__file__).parent.parent / "fixtures"
LANGUAGES = frozenset({"qube", "perl", "python", "mail"})


@pytest.fixture(autouse=True)
def _leases() -> Iterator[None]:
    """As the command has it: leases are asked for only if SIGIO is ignored."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGIO, before)


def test_check_reports_what_serve_reports_at_its_first_reading(tmp_path: Path) -> None:
    directories = sorted(p.parent for p in FIXTURES.rglob("callbacks.conf"))
    assert len(directories) > 30
    found = [d.as_json() for d in check_directories(map(str, directories), LANGUAGES)]
    assert len(found) > 30
    agent = Agent(tmp_path, *directories)
    agent.flags += ["--unsafe-permissions", "ignore"]
    agent.start()
    try:
        # Warnings about Python are in a later record than the first one.
        wait_for(lambda: reported(agent) == found, "the same diagnostics")
    finally:
        agent.stop()


def reported(agent: Agent) -> list[dict[str, Any]]:
    return records.findings(agent.history()[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says who writes")
def test_a_writer_in_one_directory_does_not_hide_the_others(tmp_path: Path) -> None:
    one = write(tmp_path / "one", "a.pl = done-job-self\n", a_pl="1\n")
    two = write(tmp_path / "two", "b.pl = done-job-self\n")
    with writer(one / "a.pl", 600.0):
        found = check_directories([str(one), str(two)], LANGUAGES)
    assert [(Path(f.path).name, f.code) for f in found] == [
        ("a.pl", "being-written"),
        ("callbacks.conf", "missing-file"),
    ]


def test_a_file_that_is_closed_in_time_is_read(tmp_path: Path) -> None:
    directory = write(tmp_path / "one", "a.pl = done-job-self\n", a_pl="1\n")
    with writer(directory / "a.pl", DEFAULTS.writing / 10):
        assert check_directories([str(directory)], LANGUAGES) == []


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
    assert check_directories([str(directory)], LANGUAGES) == []


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
