"""Names of files are UTF-8 whatever the locale's encoding is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.agents import Agent, wait_for, write


@pytest.fixture(scope="session")
def latin_1(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a Latin-1 locale, made for the test where the system has none."""
    localedef = shutil.which("localedef")
    folder = tmp_path_factory.mktemp("locales")
    if localedef is not None:
        name = folder / "de_DE.ISO-8859-1"
        arguments = [localedef, "-f", "ISO-8859-1", "-i", "de_DE", str(name)]
        subprocess.run(arguments, check=False, capture_output=True, timeout=60)
    environ = {"LC_ALL": "de_DE.ISO-8859-1", "LOCPATH": str(folder)}
    code = "import sys; print(sys.getfilesystemencoding())"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if found.stdout.strip() not in ("iso8859-1", "iso8859_1", "latin-1"):
        pytest.skip("no Latin-1 locale can be had here (Debian: the package locales)")
    return environ


@pytest.fixture(params=["latin-1", "ascii"])
def environ(request: pytest.FixtureRequest) -> dict[str, str]:
    if request.param == "latin-1":
        found: dict[str, str] = request.getfixturevalue("latin_1")
        return found
    return {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture
def agent(tmp_path: Path, environ: dict[str, str]) -> Iterator[Agent]:
    directory = write(tmp_path / "grün", "5€.py = done-job-self\n")
    (directory / "5€.py").write_text("x = 1\n")
    agent = Agent(tmp_path, directory, **environ)
    yield agent
    if agent.process is not None:
        assert agent.stop() == 0


def test_names_that_the_locale_does_not_have_are_served(agent: Agent) -> None:
    agent.start()
    directory = agent.directories[0]
    assert agent.served() == [(f"{directory}/5€.py", "done-job-self", "x = 1\n")]
    (directory / "5€.py").write_text("x = 2\n")
    wait_for(lambda: agent.served()[0][2] == "x = 2\n", "the edit")
    agent.reload()
    # A slow disk has the record later.
    wait_for(lambda: agent.records() == agent.history(), "the log")
    assert agent.records()[-1]["changes"][0]["path"] == f"{directory}/5€.py"
    assert agent.status()["state"] == "ok"
    assert agent.status()["directories"][0]["watch"] == "events"


def test_such_a_line_added_later_ends_nothing(agent: Agent) -> None:
    directory = agent.directories[0]
    (directory / "callbacks.conf").write_text("a.qcb = done-job-self\n")
    (directory / "a.qcb").write_text("kill\n")
    agent.start()
    (directory / "callbacks.conf").write_text("a.qcb = done-job-self\n5€.py = done-job-self\n")
    wait_for(lambda: agent.fires("done-job-self") == ["a.qcb", "5€.py"], "the line")
    # Nor one whose file is not there.
    text = "a.qcb = done-job-self\n6€.py = done-job-self\n"
    (directory / "callbacks.conf").write_text(text)
    wait_for(lambda: agent.status()["state"] == "degraded", "the finding")
    assert agent.stop() == 0
    agent.start()
    assert agent.fires("done-job-self") == ["a.qcb", "5€.py"]


def test_a_listed_path_means_its_bytes(tmp_path: Path, agent: Agent) -> None:
    """In qb.conf as on the command line, which the launcher's locale would decode otherwise."""
    agent.start()
    assert agent.stop() == 0
    path = f"supervisor_universal_callback_path = {agent.directories[0]}\n"
    agent.qb_conf.write_text(path + agent.qb_conf.read_text())
    agent.directories = ()
    agent.start()
    assert agent.fires("done-job-self") == ["5€.py"]
    assert agent.status()["directories"][0]["path"] == str(tmp_path / "grün")


def test_check_prints_in_the_encoding_of_the_terminal(
    agent: Agent, environ: dict[str, str]
) -> None:
    directory = agent.directories[0]
    (directory / "5€.py").unlink()
    command = [sys.executable, "-m", "agent", "check", "grün"]
    run = subprocess.run(
        command, cwd=agent.folder, env=os.environ | environ, capture_output=True, check=False
    )
    assert run.returncode == 1, run.stderr
    coding = "latin-1" if "LOCPATH" in environ else "ascii"
    assert str(directory).encode(coding, "backslashreplace") in run.stdout
    assert b"5\\u20ac.py" in run.stdout
    # JSON is UTF-8.
    run = subprocess.run(
        [*command, "--json"],
        cwd=agent.folder,
        env=os.environ | environ,
        capture_output=True,
        check=False,
    )
    assert str(directory) in json.loads(run.stdout)["diagnostics"][0]["path"]


def test_who_forbids_utf8_is_told_what_to_set(tmp_path: Path, environ: dict[str, str]) -> None:
    agent = Agent(tmp_path, write(tmp_path / "cb", "a.qcb = done-job-self\n"), **environ)
    agent.program = ["-X", "utf8=0", "-m", "agent"]
    assert agent.fail_to_start() == 2
    assert "set LC_ALL=C.UTF-8" in agent.errors.read_text()
