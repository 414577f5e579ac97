"""Short runs of stress/hammer.py and stress/kills.py, and what their counts count.

The long runs are made by hand: `scripts/hammer` and `scripts/kills`, a few minutes each.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.agents import Agent, running
from support.versions import LINES, NoVersion, Versions

TESTS = Path(__file__).parents[1]

#: Seconds that a slow machine may take for what this one does in some. They end when they are done.
PATIENCE = 300.0
pytestmark = pytest.mark.timeout(3 * PATIENCE)


def run(program: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TESTS), program, "--folder", str(folder), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE)


def count(output: str, what: str) -> int:
    """The number at the front of the line that says this."""
    found = re.search(rf"^ *(\d+) {re.escape(what)}", output, re.MULTILINE)
    assert found, output
    return int(found[1])


def test_hammer(tmp_path: Path) -> None:
    enough = ("--seconds", str(PATIENCE), "--lookups", "20000", "--edits", "150")
    done = run("hammer", tmp_path, *enough)
    assert done.returncode == 0, done.stdout + done.stderr
    assert count(done.stdout, "lookups") >= 20000
    assert not list(tmp_path.iterdir())


def test_hammer_fails_when_it_does_too_little(tmp_path: Path) -> None:
    done = run("hammer", tmp_path, "--seconds", "0.2", "--clients", "1")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "of 1000000 lookups" in done.stdout


def test_kills(tmp_path: Path) -> None:
    done = run("kills", tmp_path, "--kills", "8", "--seconds", str(PATIENCE))
    assert done.returncode == 0, done.stdout + done.stderr
    assert count(done.stdout, "kills") == 8


def test_kills_fails_when_it_does_too_little(tmp_path: Path) -> None:
    done = run("kills", tmp_path, "--kills", "1000", "--seconds", "0.1")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "of 1000 kills" in done.stdout


# The judgement of answers: a count that is always 0 would be worth nothing.


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    folder = tmp_path_factory.mktemp("versions")
    (folder / "callback").mkdir()
    with running(folder, folder / "callback") as agent:
        yield agent


def served(agent: Agent, versions: Versions, files: dict[str, str]) -> list[dict[str, Any]]:
    (folder,) = agent.directories
    for file in folder.iterdir():
        file.unlink()
    for name, text in files.items():
        (folder / name).write_text(text)
    agent.reload()
    callbacks: list[dict[str, Any]] = agent.lookup(versions.event, code=True)["callbacks"]
    return callbacks


def versions_of(agent: Agent, **what: Any) -> Versions:
    return Versions("k1", str(agent.directories[0]), **what)


@pytest.mark.parametrize("renamed", [False, True])
def test_a_whole_version_is_known(agent: Agent, renamed: bool) -> None:
    versions = versions_of(agent, code=True, renamed=renamed)
    shown = versions.read(served(agent, versions, versions.files(17)))
    assert versions.version(shown) == 17
    assert len(shown) == LINES


def test_half_a_version_is_of_none(agent: Agent) -> None:
    versions = versions_of(agent)
    files = versions.files(3)
    half = "".join(files["callbacks.conf"].splitlines(keepends=True)[:3])
    shown = versions.read(served(agent, versions, files | {"callbacks.conf": half}))
    assert len(shown) == 3
    assert versions.version(shown) is None


def test_a_mixture_is_of_no_version(agent: Agent) -> None:
    versions = versions_of(agent, code=True)
    mixed = versions.files(4) | {"b.pl": versions.code_text("b.pl", 3)}
    shown = versions.read(served(agent, versions, mixed))
    assert shown == versions.mixture(4, {"a.pl": 4, "b.pl": 3, "c.pl": 4})
    assert versions.version(shown) is None


def test_nothing_is_of_no_version(agent: Agent) -> None:
    versions = versions_of(agent)
    assert versions.version(versions.read(served(agent, versions, {}))) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("code", "# k1 a.pl v0000001\n"),
        ("code", "# k2 a.pl v00000001\n"),
        ("code", "# k1 b.pl v00000001\n"),
        ("trigger", "k1-work-self-*"),
        ("line", 2),
        ("path", "/elsewhere/a.pl"),
        ("directory", "/elsewhere"),
        ("digest", "sha256:0"),
        ("enabled", False),
    ],
)
def test_a_callback_that_is_wrong_in_one_field_is_of_no_version(
    agent: Agent, field: str, value: object
) -> None:
    versions = versions_of(agent, code=True)
    callbacks = served(agent, versions, versions.files(1))
    versions.read(callbacks)
    callbacks[0][field] = value
    with pytest.raises(NoVersion):
        versions.read(callbacks)
