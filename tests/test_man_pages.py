"""The pages for `man`: made from what `--help` says, without a warning of groff or mandoc."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import click
import pytest
from click.testing import CliRunner

from agent import cli
from support.documents import ROOT

VERSION = "1.2.3"
#: Seconds for one call of man or groff on a busy machine.
SOON = 60
#: A page has no date, so that the same source gives the same page.
ACCEPTED = re.compile(r"missing date, using")


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("man_pages", ROOT / "scripts" / "man_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


#: The commands of groups, as their pages are named, with the words that call them.
OF_GROUPS = {
    f"{name}-{one}": [name, one]
    for name in cli._COMMANDS
    if isinstance(group := cli.commands.get_command(click.Context(cli.commands), name), click.Group)
    for one in group.commands
}
PAGES: dict[str, str] = load().pages(VERSION)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prefix") / "share" / "man"
    for name, text in PAGES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def output(*command: str, **environ: str) -> str:
    """What a command prints, errors included."""
    done = subprocess.run(
        command,
        env={**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "80", "MAN_KEEP_FORMATTING": ""}
        | environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SOON,
    )
    return done.stdout


def shown(folder: Path, name: str) -> str:
    """A page as `man` shows it to 80 columns, by its name alone."""
    if shutil.which("man") is None:
        pytest.skip("man is not installed")
    return output("man", name, MANPATH=str(folder))


def words(text: str) -> str:
    return " ".join(text.split())


def test_there_is_a_page_for_each_command_and_for_the_file() -> None:
    assert {Path(name).name for name in PAGES} == {
        "callback-agent.1",
        "callbacks.conf.5",
        *(f"callback-agent-{name}.1" for name in [*cli._COMMANDS, *OF_GROUPS]),
    }


@pytest.mark.parametrize("program", ["groff -man -t -ww -z -Tutf8", "mandoc -Tlint -Wwarning"])
def test_no_page_has_a_warning(folder: Path, program: str) -> None:
    command = program.split()
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    said = output(*command, *(str(folder / name) for name in sorted(PAGES)))
    assert [line for line in said.splitlines() if not ACCEPTED.search(line)] == []


def test_a_wrong_page_has_a_warning(tmp_path: Path) -> None:
    if shutil.which("mandoc") is None:
        pytest.skip("mandoc is not installed")
    (tmp_path / "x.1").write_text('.TH X 1 "" ""\n.SH NAME\nx \\- y\n.TP\n.nonsense\n')
    said = output("mandoc", "-Tlint", "-Wwarning", str(tmp_path / "x.1")).splitlines()
    assert [line for line in said if not ACCEPTED.search(line)]


@pytest.mark.parametrize("name", sorted([*cli._COMMANDS, *OF_GROUPS]))
def test_a_page_says_what_the_help_of_the_command_says(name: str) -> None:
    page = PAGES[f"man1/callback-agent-{name}.1"]
    plain = words(re.sub(r"\\f[BIR]", "", page).replace(r"\-", "-").replace(r"\e", "\\"))
    called = OF_GROUPS.get(name, [name])
    command: click.Command | None = cli.commands
    for word in called:
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), word)
    assert command is not None
    text = CliRunner().invoke(cli.commands, [*called, "--help"], "callback-agent").output
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert all(option in plain for option in (*parameter.opts, parameter.metavar or ""))
            assert words((parameter.help or "").replace("`", "")) in plain
            assert not parameter.envvar or f".B {parameter.envvar}" in page
    for paragraph in re.findall(r"^  [A-Z].*(?:\n  .*)*", text.partition("Options:")[0], re.M):
        if not paragraph.strip().startswith("Exit status"):
            assert words(paragraph.replace("`", "")) in plain
    for number, meaning in re.findall(r"(\d) ([^,.]+)[,.]", text.partition("Exit status:")[2]):
        assert f".B {number} {words(meaning)}" in plain


def test_man_finds_the_pages_by_name(folder: Path) -> None:
    page = shown(folder, "callback-agent")
    assert "callback-agent-check(1)" in page
    assert f"callback-agent {VERSION}" in page
    assert re.search(r"^ +3 +no agent answers$", page, re.M)
    assert "OPTIONS" in shown(folder, "callback-agent-serve")
    conf = shown(folder, "callbacks.conf")
    assert re.search(r"^ +globalrepeat ", conf, re.M)
    assert "notify.py = (done-job-setup || done-job-init) && complete-job-self" in conf
    for text in (page, conf):
        prose = [line for line in text.splitlines() if not line.startswith(" " * 11)]
        assert [line for line in prose if len(line) > 80 or "`" in line or "**" in line] == []
        assert [line for line in prose if "](" in line or re.search(r"(?<!\S)\*\w+\*", line)] == []


def test_man_finds_them_beside_the_command_on_the_path(folder: Path) -> None:
    """As in a virtual environment whose `bin` is on the PATH: nothing is to be set."""
    programs = folder.parents[1] / "bin"
    programs.mkdir(exist_ok=True)
    if shutil.which("manpath") is None:
        pytest.skip("manpath is not installed")
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    without = {"MANPATH": "", "PATH": path}
    assert str(folder) in output("env", "-u", "MANPATH", "manpath", "-q", **without)


def test_a_build_needs_no_more_than_it_declares(tmp_path: Path) -> None:
    """A wheel is built in an environment that has only `build-system.requires`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    names = {
        what: {re.split(r"[^a-z_-]", line)[0].replace("-", "_") for line in lines}
        for what, lines in (
            ("build", project["build-system"]["requires"]),
            ("run", project["project"]["dependencies"]),
        )
    }
    script = str(ROOT / "scripts" / "man_pages.py")
    code = (
        "import runpy, sys\n"
        f"sys.modules.update(dict.fromkeys({sorted(names['run'] - names['build'])}))\n"
        f"sys.argv = [{script!r}, {str(tmp_path)!r}]\n"
        f"runpy.run_path({script!r}, run_name='__main__')\n"
    )
    assert "msgspec" in code
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=SOON)
    written = {str(p.relative_to(tmp_path)): p.read_text() for p in tmp_path.rglob("*.*")}
    assert written.keys() == PAGES.keys()
    page = "man1/callback-agent-check.1"
    assert re.sub(r'"callback.*"', "", written[page]) == re.sub(r'"callback.*"', "", PAGES[page])
