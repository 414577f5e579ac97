"""The wheel and the source distribution hold what is meant to ship, and nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import click
import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

from agent import cli, manual
from support.documents import ROOT

#: Endings of the files that the package consists of.
PACKAGE_ENDINGS = {".py", ".pl", ".sh", ".md", ".json", ".svg", ".typed"}
SHARED = {
    *("callback-agent.service", "callback-agent-slurm.service"),
    *("callback-agent.logrotate", "callback-agent.rules.yml"),
    *(f"clients/{path.name}" for path in (ROOT / "scripts" / "clients").iterdir()),
}
#: The files at the top of a source distribution; hatchling adds the first two.
SDIST_TOP = {"PKG-INFO", ".gitignore", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE"}
SDIST_FOLDERS = {"agent", "fixtures", "scripts", "tests"}


#: What editors, patch and Python leave behind.
LEFTOVER = re.compile(r"(\.orig|\.rej|\.bak|\.sw[a-p]|~|\.pyc)$")


def not_meant_to_ship(names: set[str]) -> list[str]:
    """The files of the package with an ending that it does not consist of."""
    return sorted(name for name in names if PurePosixPath(name).suffix not in PACKAGE_ENDINGS)


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    """The files of the repository, and those that the next commit would add."""
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "-c", "-o", "--exclude-standard"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    names = {os.fsdecode(name) for name in listed.stdout.split(b"\0") if name}
    return {name for name in names if (ROOT / name).exists()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = str(tmp_path_factory.mktemp("wheel"))
    (path,) = WheelBuilder(str(ROOT)).build(directory=folder, versions=["standard"])
    with zipfile.ZipFile(path) as file:
        return file.namelist()


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = str(tmp_path_factory.mktemp("sdist"))
    (path,) = SdistBuilder(str(ROOT)).build(directory=folder, versions=["standard"])
    with tarfile.open(path) as file:
        return [name.partition("/")[2] for name in file.getnames()]


def test_the_wheel_holds_the_package_as_it_is_tracked(wheel: list[str], tracked: set[str]) -> None:
    shipped = {name for name in wheel if name.startswith("agent/")}
    assert shipped == {name for name in tracked if name.startswith("agent/")}
    assert not_meant_to_ship(shipped) == []


def test_the_wheel_holds_the_manual_and_the_type_marker(wheel: list[str]) -> None:
    assert "agent/py.typed" in wheel
    assert {f"agent/manual/{topic}.md" for topic in manual.topics()} <= set(wheel)
    assert {f"agent/manual/codes/{code}.md" for code in manual.codes()} <= set(wheel)


def test_the_wheel_holds_shared_files_and_man_pages_and_no_more(wheel: list[str]) -> None:
    others = {name for name in wheel if not name.startswith("agent/")}
    data = {name.partition(".data/data/share/")[2] for name in others if ".data/data/" in name}
    commands = {*cli._COMMANDS}
    for name in cli._COMMANDS:
        group = cli.commands.get_command(click.Context(cli.commands), name)
        if isinstance(group, click.Group):
            commands |= {f"{name}-{one}" for one in group.commands}
    pages = {f"man/man1/callback-agent-{name}.1" for name in commands}
    pages |= {"man/man1/callback-agent.1", "man/man5/callbacks.conf.5"}
    assert data == {f"callback-agent/{name}" for name in SHARED} | pages
    rest = [name for name in others if ".data/data/" not in name]
    assert [name for name in rest if ".dist-info/" not in name] == []


def test_the_sdist_holds_tracked_files_only(sdist: list[str], tracked: set[str]) -> None:
    assert sorted(set(sdist) - tracked - {"PKG-INFO"}) == []
    code = (name for name in sdist if not name.startswith("fixtures/"))
    assert [name for name in code if LEFTOVER.search(name)] == []
    below = {name for name in tracked if name.split("/")[0] in SDIST_FOLDERS}
    assert sorted(below - set(sdist)) == []
    rest = {name for name in sdist if name.split("/")[0] not in SDIST_FOLDERS}
    assert rest == SDIST_TOP


def test_a_leftover_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backup file in the package folder ships, so the test must see it."""
    # The man pages could not be made from these files.
    monkeypatch.setenv("HATCH_BUILD_NO_HOOKS", "1")
    for name in ("pyproject.toml", "README.md", "LICENSE", "agent/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    for name in ("agent/cli.py", "agent/cli.py.orig", *(f"scripts/{name}" for name in SHARED)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    folder = str(tmp_path / "dist")
    (path,) = WheelBuilder(str(tmp_path)).build(directory=folder, versions=["standard"])
    with zipfile.ZipFile(path) as file:
        shipped = {name for name in file.namelist() if name.startswith("agent/")}
    assert not_meant_to_ship(shipped) == ["agent/cli.py.orig"]
