"""The README is short, its commands print what it shows, and its links lead somewhere.

How it is written for this is described in `documents`.
"""

from __future__ import annotations

import re
import sys

import pytest

from support.documents import (
    ROOT,
    Comparison,
    Session,
    bad_links,
    carry_out,
    hold,
    programs_not_run,
)

README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")
MAX_LINES = 250

pytestmark = pytest.mark.timeout(600)

#: What the README shows was made on Linux.
linux = pytest.mark.skipif(sys.platform != "linux", reason="the README's session was made on Linux")


@pytest.fixture(scope="module")
def session() -> Session:
    """The README's session, run once."""
    return carry_out("README.md", TEXT)


@linux
def test_every_command_prints_what_the_readme_says(session: Session) -> None:
    assert session.runs
    hold(README, session)


@linux
def test_the_session_ends_what_it_starts(session: Session) -> None:
    assert session.left == ()


@linux
def test_no_changed_line_passes(session: Session) -> None:
    """Every line that the README shows matters: another, a missing or an extra one fails."""
    tried = 0
    for run in session.runs:
        said = run.command.printed
        for place, line in enumerate(said):
            if "..." in said[max(0, place - 1) : place + 2]:
                continue  # The lines beside it may be any.
            for wrong in (
                (*said[:place], f"~{line}", *said[place + 1 :]),
                (*said[:place], *said[place + 1 :]),
                (*said[:place], line, line, *said[place + 1 :]),
            ):
                assert not Comparison().agree(wrong, run.printed), (run.command, wrong)
                tried += 1
    assert tried > 40


def test_the_readme_is_short() -> None:
    assert len(TEXT.splitlines()) <= MAX_LINES


def test_every_program_is_run() -> None:
    assert programs_not_run(TEXT) == []


@pytest.mark.parametrize(
    "name",
    [
        *("README.md", "CHANGELOG.md", ".github/CONTRIBUTING.md", "agent/README.md"),
        *("fixtures/README.md", "tests/faults/README.md"),
    ],
)
def test_links_lead_somewhere(name: str) -> None:
    assert bad_links(ROOT / name) == []


def test_the_architecture_has_one_line_for_each_module() -> None:
    """A line begins with the name in code: of a module, or of a folder and all that is in it."""
    agent = ROOT / "agent"
    described = re.findall(r"^\| `([\w./]+)` \|", (agent / "README.md").read_text("utf-8"), re.M)
    assert len(set(described)) == len(described)
    folders = tuple(name for name in described if name.endswith("/"))
    files = {str(path.relative_to(agent)) for path in agent.rglob("*.py")}
    left = {name for name in files if name not in described and not name.startswith(folders)}
    assert {name for name in left if not name.endswith("__init__.py")} == set()
    assert [name for name in described if not (agent / name).exists()] == []


def test_every_long_run_is_described() -> None:
    text = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
    described = re.findall(r"^\| `(\w+)`(?: \(`scripts/\w+`\))? \|", text, re.M)
    runs = {path.stem for path in (ROOT / "tests" / "stress").glob("[a-z]*.py")}
    assert sorted(described) == sorted(r for r in runs if not r.startswith(("test_", "conftest")))


def test_every_script_is_described() -> None:
    described = TEXT + (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for path in (ROOT / "scripts").iterdir():
        if path.name != "__pycache__":
            assert f"scripts/{path.name}" in described, path.name
    for name in re.findall(r"scripts/([\w.-]*\w)", described):
        assert (ROOT / "scripts" / name).exists(), name
