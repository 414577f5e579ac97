"""A removal that is taken back: the file is served again.

While somebody writes one file of a directory, the removal of another takes effect at once, before
the directory is judged as a whole. When the file is back, the directory looks as it did when it was
last judged. It must be judged again all the same.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.agents import Agent, wait_for, write

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells whether a file is open for writing"
)

CONF = "a.qcb = done-job-self\nb.qcb = failed-job-self\n"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write(tmp_path / "cb", CONF, a_qcb="block-self\n", b_qcb="kill-self\n")


@pytest.fixture
def agent(tmp_path: Path, directory: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path, directory).start()
    yield agent
    agent.stop()


@pytest.mark.parametrize("name", ["b.qcb", "callbacks.conf"])
def test_renamed_away_and_back_while_another_file_is_written(
    agent: Agent, directory: Path, name: str
) -> None:
    before = agent.status()["digest"]
    away = directory / f"{name}.away"
    with (directory / "a.qcb").open("a"):
        os.utime(directory / "a.qcb")
        os.rename(directory / name, away)
        wait_for(lambda: "b.qcb" not in agent.fires("failed-job-self"), "the removal")
        os.rename(away, directory / name)
    record = agent.reload()
    assert agent.status()["digest"] == before
    assert (agent.status()["state"], record["held"], record["diagnostics"]) == ("ok", [], [])


def test_renamed_away_and_back_while_python_is_checked(tmp_path: Path) -> None:
    """The check of a source keeps a directory from being judged, like a writer."""
    slow = "if 1:\n" + "    def f():\n        pass\n" * 3000
    directory = write(tmp_path / "cb", CONF + "c.py = x-job-1\n", a_qcb="", b_qcb="", c_py="0\n")
    agent = Agent(tmp_path, directory).start()
    try:
        before = agent.status()["digest"]
        for number in range(3):
            (directory / "c.py").write_text(f"x = {number}\n{slow}")
            os.rename(directory / "b.qcb", directory / "away")
            wait_for(lambda: "b.qcb" not in agent.fires("failed-job-self"), "the removal")
            (directory / "c.py").write_text("0\n")
            os.rename(directory / "away", directory / "b.qcb")
            agent.reload()
            assert agent.status()["digest"] == before
            assert agent.status()["state"] == "ok"
    finally:
        agent.stop()
